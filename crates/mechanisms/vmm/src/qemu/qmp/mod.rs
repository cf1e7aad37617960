//! QEMU's control protocol: JSON lines over a socket.
//!
//! ```text
//!   wire       bytes to lines to messages; pure, bounded
//!   commands   the commands that the driver uses, typed
//!   client     one task owns the socket; callers submit and await
//! ```
//!
//! Commands may be submitted without waiting for the answers of earlier ones: QEMU works in order. That is how a clone
//! is loaded in one round trip.

mod client;
pub(super) mod commands;
mod wire;

pub(super) use client::{Client, Migration, Pending, QmpError, migration_end};

/// The messages that these bytes hold, pushed in pieces of `step`; `None`: the stream is refused. For fuzzing.
pub(super) fn messages(bytes: &[u8], step: usize) -> Option<Vec<String>> {
    let mut lines = wire::Lines::default();
    let mut messages = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        lines.push(piece);
        while let Some(message) = lines.next().ok()? {
            messages.push(format!("{message:?}"));
        }
    }
    Some(messages)
}
