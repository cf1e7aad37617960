//! How a call to a guest can fail.

use omnirun_guest_proto::{host::Violation, message::ErrorKind, preface::PrefaceError};
use omnirun_redact::Guest;
use std::io;

/// How the other end broke the protocol.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProtocolError {
    /// In its frames.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// In the preface.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// By a reply that does not answer the request.
    #[error("a reply that does not belong to the request")]
    WrongReply,
}

/// How a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The stream ended, or the client was closed.
    #[error("the connection to the guest is closed")]
    Closed,
    /// The guest did not answer the preface in time.
    #[error("the guest did not answer in time")]
    Timeout,
    /// The guest broke the protocol; the connection is closed.
    #[error("the guest broke the protocol")]
    Protocol(#[source] ProtocolError),
    /// The call could not be made: too many at once, or its request is too long.
    #[error("the call cannot be made")]
    Refused(#[source] omnirun_guest_proto::host::OpenError),
    /// The agent says that it failed.
    #[error("the guest agent refused or failed ({kind:?})")]
    Guest {
        /// Its class.
        kind: ErrorKind,
        /// Its words; guest data.
        message: Guest<String>,
    },
    /// The caller's own reader or writer failed while a file was streamed.
    #[error("cannot stream on the host's side: {kind}")]
    Local {
        /// What it was.
        kind: io::ErrorKind,
    },
}
