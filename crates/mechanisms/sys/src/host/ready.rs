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

impl Readable {
    /// Waits until `read` does not say that it would block; what it reads from is in non-blocking mode. Cancel-safe.
    pub async fn read<T>(&self, mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            // Otherwise it was not ready after all.
            if let Ok(done) = ready.try_io(|fd| read(fd.get_ref().as_fd())) {
                return done;
            }
        }
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
