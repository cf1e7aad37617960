//! Why an input was refused.

use crate::published::{FieldKind, TOOLS, Tool};
use std::fmt;

/// Longest piece of the agent's own text that a message repeats.
const MAX_ECHO: usize = 64;

/// Why an input was refused. `Display` is the sentence for the model; it repeats names that the agent chose, so it is
/// not for logs. `Debug` is.
#[derive(Clone, PartialEq, Eq)]
pub enum InputError {
    /// No such tool.
    UnknownTool {
        /// What was asked for.
        name: String,
    },
    /// There is no input at all.
    Missing {
        /// The tool.
        tool: &'static Tool,
    },
    /// More bytes than any tool takes.
    TooLong {
        /// The tool.
        tool: &'static Tool,
        /// How many there were.
        len: usize,
        /// How many may be.
        max: usize,
    },
    /// The bytes are not UTF-8.
    NotUtf8 {
        /// The tool.
        tool: &'static Tool,
        /// Where the first wrong byte is.
        offset: usize,
    },
    /// The text is not JSON.
    NotJson {
        /// The tool.
        tool: &'static Tool,
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// It is JSON but not an object.
    NotObject {
        /// The tool.
        tool: &'static Tool,
        /// What it is.
        got: &'static str,
    },
    /// The schema does not name this field.
    UnknownField {
        /// The tool.
        tool: &'static Tool,
        /// The field.
        field: String,
    },
    /// A required field is not there, or empty where empty means nothing.
    Required {
        /// The tool.
        tool: &'static Tool,
        /// The field.
        field: &'static str,
    },
    /// A field holds something else than the schema says.
    WrongType {
        /// The tool.
        tool: &'static Tool,
        /// The field.
        field: &'static str,
        /// What it should hold.
        expected: FieldKind,
        /// What it holds.
        got: &'static str,
    },
    /// `view_range` does not have two elements.
    ViewRange,
    /// A number that is out of range.
    OutOfRange {
        /// The tool.
        tool: &'static Tool,
        /// The field.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A NUL character where the system cannot take one (a path, a command).
    Nul {
        /// The tool.
        tool: &'static Tool,
        /// The field.
        field: &'static str,
    },
}

impl PartialEq for Tool {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Tool {}

/// The agent's own text in a message: bounded, without control characters.
fn echo(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(MAX_ECHO)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if shown.len() < text.len() && text.chars().nth(MAX_ECHO).is_some() {
        shown.push_str("...");
    }
    shown
}

fn fields(tool: &Tool) -> String {
    tool.fields
        .iter()
        .map(|field| field.name)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTool { name } => {
                let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
                write!(
                    f,
                    "unknown tool '{}'; the tools are {}",
                    echo(name),
                    names.join(", ")
                )
            }
            Self::Missing { tool } => {
                write!(
                    f,
                    "{}: the input is missing; expected a JSON object with {}",
                    tool.name,
                    fields(tool)
                )
            }
            Self::TooLong { tool, len, max } => {
                write!(
                    f,
                    "{}: the input is {len} bytes, more than the limit of {max}",
                    tool.name
                )
            }
            Self::NotUtf8 { tool, offset } => {
                write!(
                    f,
                    "{}: the input is not valid UTF-8 (at byte {offset})",
                    tool.name
                )
            }
            Self::NotJson { tool, line, column } => write!(
                f,
                "{}: the input is not valid JSON (line {line}, column {column}); expected an object with {}",
                tool.name,
                fields(tool)
            ),
            Self::NotObject { tool, got } => {
                write!(
                    f,
                    "{}: the input is {got}; expected a JSON object with {}",
                    tool.name,
                    fields(tool)
                )
            }
            Self::UnknownField { tool, field } => {
                write!(
                    f,
                    "{}: unknown field '{}'; expected {}",
                    tool.name,
                    echo(field),
                    fields(tool)
                )
            }
            Self::Required { tool, field } => write!(f, "{}: {field} is required", tool.name),
            Self::WrongType {
                tool,
                field,
                expected,
                got,
            } => {
                write!(f, "{}: {field} must be {}, not {got}", tool.name, expected.name())
            }
            Self::ViewRange => f.write_str("read: view_range must be [start_line, end_line]"),
            Self::OutOfRange { tool, field, allowed } => {
                write!(f, "{}: {field} must be {allowed}", tool.name)
            }
            Self::Nul { tool, field } => {
                write!(f, "{}: {field} must not contain a NUL character", tool.name)
            }
        }
    }
}

impl fmt::Debug for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTool { .. } => f.write_str("UnknownTool"),
            Self::UnknownField { tool, .. } => write!(f, "UnknownField({})", tool.name),
            // The others repeat nothing that the agent wrote.
            other => write!(f, "InputError({other})"),
        }
    }
}

impl std::error::Error for InputError {}
