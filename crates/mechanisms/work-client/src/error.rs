//! What can go wrong with a request.

use omnirun_work_proto::{Verdict, verdict};
use std::time::Duration;

/// A request that did not bring what it was for. `what` names the request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client could not be set up.
    #[error("could not set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The server answered with a status of its own.
    #[error(
        "{what}: the server answered {status}{}{}",
        detail(" ", kind),
        detail(", request ", request_id)
    )]
    Status {
        /// The request.
        what: &'static str,
        /// The status.
        status: u16,
        /// The error's type, `not_found_error` and the like; may be empty.
        kind: String,
        /// The request's id at the server; may be empty.
        request_id: String,
    },
    /// No answer, or one that broke off.
    #[error("{what}: no answer")]
    Transport {
        /// The request.
        what: &'static str,
        /// Why; without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("{what}: no answer within {after:?}")]
    Timeout {
        /// The request.
        what: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The answer was longer than it may be.
    #[error("{what}: an answer of more than {limit} bytes")]
    TooLarge {
        /// The request.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The answer was not what the endpoint answers. The parser's own words could quote it, so only its place is kept.
    #[error("{what}: an answer that cannot be read (line {line}, column {column})")]
    Unreadable {
        /// The request.
        what: &'static str,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
}

fn detail(before: &str, text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{before}{text}")
    }
}

impl ClientError {
    /// The status, if the server gave one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether trying again may help.
    pub fn verdict(&self) -> Verdict {
        verdict(self.status())
    }

    /// Whether the answer will not change.
    pub fn is_permanent(&self) -> bool {
        self.verdict() == Verdict::Permanent
    }

    pub(crate) fn unreadable(what: &'static str, error: &serde_json::Error) -> Self {
        Self::Unreadable {
            what,
            line: error.line(),
            column: error.column(),
        }
    }
}
