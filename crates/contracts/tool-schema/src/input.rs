//! Checked inputs, one type per tool.

use std::fmt;

/// `bash`. At least one of `command` and `restart: true` is there.
#[derive(Clone, PartialEq, Eq)]
pub struct BashInput {
    /// What to run; without it the shell is only restarted.
    pub command: Option<String>,
    /// Begin with a new shell.
    pub restart: bool,
    /// Time limit in milliseconds; none: the tool's default (a 0 in the input).
    pub timeout_ms: Option<u64>,
}

/// `read`.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadInput {
    /// The file.
    pub file_path: String,
    /// First and last line, counted from 1, both included. A last line of 0 or less means to the end.
    pub view_range: Option<(i64, i64)>,
}

/// `write`.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteInput {
    /// The file.
    pub file_path: String,
    /// All of its new content.
    pub content: String,
}

/// `edit`.
#[derive(Clone, PartialEq, Eq)]
pub struct EditInput {
    /// The file.
    pub file_path: String,
    /// The text to replace. Not empty.
    pub old_string: String,
    /// What to put in its place.
    pub new_string: String,
    /// Replace every occurrence, not the only one.
    pub replace_all: bool,
}

/// `glob`.
#[derive(Clone, PartialEq, Eq)]
pub struct GlobInput {
    /// The pattern, relative to `path`. Not empty.
    pub pattern: String,
    /// Where to search; none: the working directory.
    pub path: Option<String>,
}

/// `grep`.
#[derive(Clone, PartialEq, Eq)]
pub struct GrepInput {
    /// A regular expression. Not empty.
    pub pattern: String,
    /// The file or directory to search; none: the working directory.
    pub path: Option<String>,
}

/// An input that has passed the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolInput {
    /// `bash`.
    Bash(BashInput),
    /// `read`.
    Read(ReadInput),
    /// `write`.
    Write(WriteInput),
    /// `edit`.
    Edit(EditInput),
    /// `glob`.
    Glob(GlobInput),
    /// `grep`.
    Grep(GrepInput),
}

impl ToolInput {
    /// The tool that it is for.
    pub fn tool(&self) -> &'static str {
        match self {
            Self::Bash(_) => "bash",
            Self::Read(_) => "read",
            Self::Write(_) => "write",
            Self::Edit(_) => "edit",
            Self::Glob(_) => "glob",
            Self::Grep(_) => "grep",
        }
    }
}

/// What an agent wrote is not for logs: `Debug` shows that something is there, not what.
macro_rules! redacted_debug {
    ($($type:ident),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        }
    )*};
}

redacted_debug!(BashInput, ReadInput, WriteInput, EditInput, GlobInput, GrepInput);
