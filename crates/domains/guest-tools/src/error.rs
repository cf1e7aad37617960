//! What goes wrong in a file tool, as a sentence for the model.

use omnirun_tool_schema::InputError;
use rustix::io::Errno;

/// Why a tool has no result. `Display` is for the model, and holds what the agent wrote: not for logs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The input is not what the schema says.
    #[error(transparent)]
    Input(InputError),
    /// A path cannot be used: `tool: path: reason`, the path as the model gave it.
    #[error("{tool}: {path}: {reason}")]
    Path {
        /// The tool.
        tool: &'static str,
        /// As given.
        path: String,
        /// Why.
        reason: String,
    },
    /// Anything else, in full.
    #[error("{0}")]
    Message(String),
}

impl ToolError {
    /// A sentence.
    pub(crate) fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// A path and a reason of ours.
    pub(crate) fn path(tool: &'static str, path: &str, reason: impl Into<String>) -> Self {
        Self::Path {
            tool,
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// A path and the system's reason.
    pub(crate) fn system(tool: &'static str, path: &str, error: Errno) -> Self {
        Self::path(tool, path, reason(error))
    }
}

/// The system's reason in the official worker's words.
pub(crate) fn reason(error: Errno) -> String {
    match error {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::EXIST => "file already exists".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        Errno::NOSPC | Errno::DQUOT => {
            "no space left on device; free some with bash (df -h shows how much)".to_owned()
        }
        other => {
            let text = std::io::Error::from(other).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            text.to_lowercase()
        }
    }
}
