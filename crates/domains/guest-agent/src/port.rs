//! The channel: a virtio-serial port.
//!
//! A port without a host reads as ended and polls as hung up, for ever. So while there is none the loop waits on an
//! edge-triggered epoll, which tells when that changes.

use rustix::{
    event::epoll,
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// As QEMU and we call it.
const NAME: &str = "omnirun.agent";

/// What reading brought.
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    /// There is no host.
    Gone,
}

pub(crate) struct Port {
    fd: OwnedFd,
    /// None: a stream that ends once, as in tests.
    changes: Option<OwnedFd>,
    connected: bool,
}

impl Port {
    pub(crate) fn open() -> io::Result<Self> {
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
            return Ok(Self {
                fd,
                changes: Some(changes),
                connected: false,
            });
        }
        Err(io::ErrorKind::NotFound.into())
    }

    #[cfg(test)]
    pub(crate) fn of_stream(stream: std::os::unix::net::UnixStream) -> Self {
        rustix::io::ioctl_fionbio(&stream, true).unwrap();
        Self {
            fd: stream.into(),
            changes: None,
            connected: true,
        }
    }

    /// Whether the end of the stream is the end of the agent.
    pub(crate) fn ends_for_good(&self) -> bool {
        self.changes.is_none()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// What to poll for reading.
    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        match &self.changes {
            Some(changes) if !self.connected => changes.as_fd(),
            _ => self.fd.as_fd(),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Received {
        if let (false, Some(changes)) = (self.connected, &self.changes) {
            // Takes the event, so that the next change is one.
            let mut events = [epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let _ = epoll::wait(changes, &mut events, Some(&now));
        }
        match rustix::io::read(&self.fd, buffer) {
            Ok(0) => {
                self.connected = false;
                Received::Gone
            }
            Ok(count) => {
                self.connected = true;
                Received::Bytes(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                self.connected = true;
                Received::Nothing
            }
            Err(_) => {
                self.connected = false;
                Received::Gone
            }
        }
    }

    /// Writes what the host takes now, and forgets it.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        let mut done = 0;
        while done < out.len() {
            match rustix::io::write(&self.fd, &out[done..]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // The host is gone; reading will say so.
                Err(_) => {
                    done = out.len();
                }
            }
        }
        if done == out.len() {
            out.clear();
        } else {
            out.drain(..done);
        }
    }
}
