//! Replies.

use omnirun_guest_proto::message::{Block, BlockKind, Empty, Error, ErrorKind, Outcome, Reply, ToolResult};
use rustix::io::Errno;

/// Longest message. It may hold what the host or the sandbox gave us, of any length.
const MAX_MESSAGE: usize = 4096;

/// A failure to be told to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { kind, message }
    }

    /// What the kernel said about `what`.
    pub(crate) fn of(what: impl std::fmt::Display, errno: impl Into<std::io::Error>) -> Self {
        let error = errno.into();
        // Cut, so that the reason behind it is always told.
        let what: String = what.to_string().chars().take(MAX_MESSAGE / 8).collect();
        Self::new(kind(&error), format!("{what}: {}", reason(&error)))
    }
}

/// The system's words, without Rust's number behind them.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

fn kind(error: &std::io::Error) -> ErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => ErrorKind::NotFound,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorKind::Permission,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
        Some(Errno::EXIST | Errno::NOTEMPTY) => ErrorKind::Exists,
        Some(Errno::IO | Errno::UCLEAN) => ErrorKind::Disk,
        Some(Errno::INVAL | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::NOEXEC) => {
            ErrorKind::Invalid
        }
        Some(Errno::AGAIN | Errno::NOMEM) => ErrorKind::Busy,
        _ => ErrorKind::Internal,
    }
}

pub(crate) fn done() -> Reply {
    Reply {
        outcome: Some(Outcome::Done(Empty {})),
    }
}

pub(crate) fn outcome(outcome: Outcome) -> Reply {
    Reply {
        outcome: Some(outcome),
    }
}

/// A tool's error, for the model.
pub(crate) fn complaint(text: String) -> ToolResult {
    ToolResult {
        is_error: true,
        content: vec![Block {
            kind: Some(BlockKind::Text(text)),
        }],
        ..ToolResult::default()
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message } = failure;
        Self {
            outcome: Some(Outcome::Error(Error {
                kind: kind.into(),
                message,
            })),
        }
    }
}
