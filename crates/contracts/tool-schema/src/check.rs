//! From bytes to a checked input.

use crate::{
    BashInput, EditInput, FieldKind, GlobInput, GrepInput, InputError, ReadInput, Tool, ToolInput, WriteInput,
};
use serde_json::{Map, Number, Value};

/// Longest input in bytes. A write of 10 MB fits, all of it escaped as `\n`, with room to spare; the frame protocol's
/// longest request is a little more.
pub const MAX_INPUT: usize = 23 << 20;

/// Checks the input of a tool.
pub fn check(name: &str, input: &[u8]) -> Result<ToolInput, InputError> {
    let tool = Tool::find(name).ok_or_else(|| InputError::UnknownTool {
        name: name.to_owned(),
    })?;
    let mut fields = Fields {
        tool,
        map: parse(tool, input)?,
    };
    for key in fields.map.keys() {
        if !tool.fields.iter().any(|field| field.name == key) {
            return Err(InputError::UnknownField {
                tool,
                field: key.clone(),
            });
        }
    }
    let checked = match tool.name {
        "bash" => ToolInput::Bash(bash(&mut fields)?),
        "read" => ToolInput::Read(ReadInput {
            file_path: fields.path("file_path")?,
            view_range: fields.view_range()?,
        }),
        "write" => ToolInput::Write(WriteInput {
            file_path: fields.path("file_path")?,
            content: fields.text("content")?,
        }),
        "edit" => ToolInput::Edit(EditInput {
            file_path: fields.path("file_path")?,
            old_string: fields.non_empty("old_string")?,
            new_string: fields.text("new_string")?,
            replace_all: fields.boolean("replace_all")?,
        }),
        "glob" => ToolInput::Glob(GlobInput {
            pattern: fields.non_empty("pattern")?,
            path: fields.optional_path("path")?,
        }),
        _ => ToolInput::Grep(GrepInput {
            pattern: fields.non_empty("pattern")?,
            path: fields.optional_path("path")?,
        }),
    };
    Ok(checked)
}

fn parse(tool: &'static Tool, input: &[u8]) -> Result<Map<String, Value>, InputError> {
    if input.len() > MAX_INPUT {
        return Err(InputError::TooLong {
            tool,
            len: input.len(),
            max: MAX_INPUT,
        });
    }
    let text = std::str::from_utf8(input).map_err(|error| InputError::NotUtf8 {
        tool,
        offset: error.valid_up_to(),
    })?;
    if text.trim().is_empty() {
        return Err(InputError::Missing { tool });
    }
    // serde_json refuses nesting deeper than 128, so hostile input cannot exhaust the stack.
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Err(InputError::Missing { tool }),
        Ok(other) => Err(InputError::NotObject {
            tool,
            got: kind_of(&other),
        }),
        Err(error) => Err(InputError::NotJson {
            tool,
            line: error.line(),
            column: error.column(),
        }),
    }
}

fn bash(fields: &mut Fields) -> Result<BashInput, InputError> {
    let command = fields.optional_text("command")?;
    let restart = fields.boolean("restart")?;
    let timeout_ms = match fields.take("timeout_ms") {
        None => None,
        Some(value) => {
            let number = fields.integer("timeout_ms", FieldKind::Integer, &value)?;
            let allowed = "0 (the default) or a positive number of milliseconds";
            let number = u64::try_from(number).map_err(|_| InputError::OutOfRange {
                tool: fields.tool,
                field: "timeout_ms",
                allowed,
            })?;
            (number != 0).then_some(number)
        }
    };
    if command.is_none() && !restart {
        return Err(InputError::Required {
            tool: fields.tool,
            field: "command",
        });
    }
    if command.as_deref().is_some_and(|command| command.contains('\0')) {
        return Err(InputError::Nul {
            tool: fields.tool,
            field: "command",
        });
    }
    Ok(BashInput {
        command,
        restart,
        timeout_ms,
    })
}

/// The object's fields, each taken once.
struct Fields {
    tool: &'static Tool,
    map: Map<String, Value>,
}

impl Fields {
    /// A field that is there and not null.
    fn take(&mut self, field: &'static str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    fn optional_text(&mut self, field: &'static str) -> Result<Option<String>, InputError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, FieldKind::String, &other)),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<String, InputError> {
        self.optional_text(field)?.ok_or(InputError::Required {
            tool: self.tool,
            field,
        })
    }

    fn non_empty(&mut self, field: &'static str) -> Result<String, InputError> {
        let text = self.text(field)?;
        if text.is_empty() {
            return Err(InputError::Required {
                tool: self.tool,
                field,
            });
        }
        Ok(text)
    }

    fn path(&mut self, field: &'static str) -> Result<String, InputError> {
        let path = self.non_empty(field)?;
        self.without_nul(field, path)
    }

    /// An empty path means the working directory, as if the field were absent.
    fn optional_path(&mut self, field: &'static str) -> Result<Option<String>, InputError> {
        match self.optional_text(field)? {
            Some(path) if !path.is_empty() => self.without_nul(field, path).map(Some),
            _ => Ok(None),
        }
    }

    fn without_nul(&self, field: &'static str, text: String) -> Result<String, InputError> {
        if text.contains('\0') {
            return Err(InputError::Nul {
                tool: self.tool,
                field,
            });
        }
        Ok(text)
    }

    fn boolean(&mut self, field: &'static str) -> Result<bool, InputError> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(self.wrong(field, FieldKind::Boolean, &other)),
        }
    }

    fn view_range(&mut self) -> Result<Option<(i64, i64)>, InputError> {
        let field = "view_range";
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(items)) => match items.as_slice() {
                [] => Ok(None),
                [first, last] => Ok(Some((
                    self.integer(field, FieldKind::LineRange, first)?,
                    self.integer(field, FieldKind::LineRange, last)?,
                ))),
                _ => Err(InputError::ViewRange),
            },
            Some(other) => Err(self.wrong(field, FieldKind::LineRange, &other)),
        }
    }

    fn integer(&self, field: &'static str, kind: FieldKind, value: &Value) -> Result<i64, InputError> {
        match value {
            Value::Number(number) => whole(number).ok_or_else(|| self.wrong(field, kind, value)),
            other => Err(self.wrong(field, kind, other)),
        }
    }

    fn wrong(&self, field: &'static str, expected: FieldKind, got: &Value) -> InputError {
        InputError::WrongType {
            tool: self.tool,
            field,
            expected,
            got: kind_of(got),
        }
    }
}

/// A number without a fraction, clamped to what an `i64` holds: a line or a time beyond that means "no limit".
fn whole(number: &Number) -> Option<i64> {
    if let Some(value) = number.as_i64() {
        return Some(value);
    }
    if number.is_u64() {
        return Some(i64::MAX);
    }
    let value = number.as_f64()?;
    // A cast from float saturates.
    (value.fract() == 0.0).then_some(value as i64)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
