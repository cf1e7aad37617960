//! A virtio-serial port.
//!
//! A port without a host reads as ended and polls as hung up, for ever. So while there is none the loop waits on an
//! edge-triggered epoll, which tells when that changes.

use super::Received;
use rustix::{
    event::{Timespec, epoll},
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// As QEMU and we call it.
const NAME: &str = "omnirun.agent";

pub(crate) struct Serial {
    fd: OwnedFd,
    changes: OwnedFd,
    connected: bool,
}

impl Serial {
    /// The port of our name, if this machine has one.
    pub(super) fn find() -> io::Result<Option<Self>> {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name"))?.trim() != NAME {
                continue;
            }
            let path = std::path::Path::new("/dev").join(entry.file_name());
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty())?;
            let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&changes, &fd, epoll::EventData::new_u64(0), events)?;
            return Ok(Some(Self {
                fd,
                changes,
                connected: false,
            }));
        }
        Ok(None)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        if self.connected {
            self.fd.as_fd()
        } else {
            self.changes.as_fd()
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Received {
        if !self.connected {
            // Takes the event, so that the next change is one.
            let mut events = [epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }];
            let _ = epoll::wait(&self.changes, &mut events, Some(&Timespec::default()));
        }
        let received = match rustix::io::read(&self.fd, buffer) {
            Ok(0) => Received::Gone,
            Ok(count) => Received::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::Gone,
        };
        self.connected = !matches!(received, Received::Gone);
        received
    }
}
