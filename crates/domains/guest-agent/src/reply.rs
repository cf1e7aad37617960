//! Replies.

use omnirun_guest_proto::message::{Empty, Error, ErrorKind, Outcome, Reply};
use rustix::io::Errno;

/// A failure to be told to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What the kernel said about `what`.
    pub(crate) fn of(what: impl std::fmt::Display, errno: impl Into<std::io::Error>) -> Self {
        let error = errno.into();
        Self {
            kind: kind(&error),
            message: format!("{what}: {}", reason(&error)),
        }
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
