//! Memory files that are shared with a shell, and descriptors kept out of each other's way.

use rustix::{
    fs::{MemfdFlags, SealFlags, SeekFrom},
    io::Errno,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where our own copies of descriptors for a shell live: above every number that they get in the child, so that the
/// child may `dup2` them in any order.
const LOWEST: i32 = 100;

/// Moves a descriptor out of the range that a child's descriptors have.
pub(super) fn out_of_the_way(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, LOWEST)
}

/// A memory file. The child gets the same open file description, so both sides share one offset: the agent sets it,
/// the shell moves it.
#[derive(Debug)]
pub(super) struct SharedFile {
    fd: OwnedFd,
}

impl SharedFile {
    /// An empty one.
    pub(super) fn new(name: &str) -> Result<Self, Errno> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
        Ok(Self {
            fd: out_of_the_way(fd)?,
        })
    }

    /// One that cannot grow beyond `size`, whatever a shell writes into it.
    pub(super) fn with_capacity(name: &str, size: u64) -> Result<Self, Errno> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, size)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self {
            fd: out_of_the_way(fd)?,
        })
    }

    /// Replaces the content and goes back to its start.
    pub(super) fn fill(&self, parts: &[&[u8]]) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.fd, 0)?;
        rustix::fs::seek(&self.fd, SeekFrom::Start(0))?;
        for part in parts {
            let mut rest: &[u8] = part;
            while !rest.is_empty() {
                let written = rustix::io::write(&self.fd, rest)?;
                rest = &rest[written..];
            }
        }
        self.rewind()
    }

    /// Goes back to the start; what the shell writes next begins there.
    pub(super) fn rewind(&self) -> Result<(), Errno> {
        rustix::fs::seek(&self.fd, SeekFrom::Start(0)).map(drop)
    }

    /// What the shell has written since the last [`Self::rewind`].
    pub(super) fn written(&self) -> Result<Vec<u8>, Errno> {
        // Anything with a copy of the descriptor can seek; the file's size bounds what that can do.
        let size = rustix::fs::fstat(&self.fd)?.st_size.unsigned_abs();
        let length = rustix::fs::tell(&self.fd)?.min(size);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(&self.fd, &mut bytes[done..], done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// A copy for the child.
    pub(super) fn share(&self) -> Result<OwnedFd, Errno> {
        out_of_the_way(&self.fd)
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
