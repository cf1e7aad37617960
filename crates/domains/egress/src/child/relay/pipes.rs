//! Pipes that bytes go through, lent for a step.
//!
//! A pipe is empty again at the end of a step, unless the receiver does not keep up: then it stays with its connection, and
//! holds memory of the kernel's. So there are only so many, for all and for each guest; who gets none copies.

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::{
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes that a pipe holds. Together they stay below the 64 MiB that the kernel lets an unprivileged user have in pipes
/// before it makes each new one small.
pub(super) const SIZE: usize = 256 << 10;
/// Pipes at a time.
const MOST: usize = 192;

/// A pipe, empty.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
    pub(super) size: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(in super::super) struct Pipes {
    free: Mutex<Vec<Pipe>>,
    made: AtomicUsize,
}

impl Pipes {
    /// A pipe, if one is to be had.
    pub(super) fn take(&self) -> Option<Pipe> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if free.is_some() {
            return free;
        }
        let more = |made| (made < MOST).then_some(made + 1);
        self.made
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let made = make();
        if made.is_none() {
            self.lost();
        }
        made
    }

    /// Takes back one that is empty.
    pub(super) fn give_back(&self, pipe: Pipe) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pipe);
    }

    /// One was closed instead.
    pub(super) fn lost(&self) {
        self.made.fetch_sub(1, Ordering::Relaxed);
    }
}

fn make() -> Option<Pipe> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // Where it may not be so large, it stays as it is.
    let size = fcntl_setpipe_size(&writer, SIZE).unwrap_or(64 << 10);
    Some(Pipe { reader, writer, size })
}
