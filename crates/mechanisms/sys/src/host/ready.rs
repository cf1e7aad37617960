//! Waiting for a descriptor in the async runtime.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor that the runtime watches until it can be read from (a pidfd: until its process has ended).
#[derive(Debug)]
pub struct Readable(AsyncFd<Arc<OwnedFd>>);

impl Readable {
    /// Watches it. Only inside a runtime.
    pub fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: an `Arc<OwnedFd>` names the same descriptor for as long as it lives and keeps it open that long; the
        // `AsyncFd` owns it until it has deregistered.
        Ok(Self(unsafe {
            AsyncFd::register_with_interest(fd, Interest::READABLE)
        }?))
    }

    /// Waits until it can be read from. Cancel-safe.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
