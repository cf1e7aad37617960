//! The channel to the host: a stream of bytes, which the host may take up anew at any time.
//!
//! ```text
//!   serial   the virtio-serial port that QEMU gives, if there is one of our name
//!   socket   else a vsock listener and the newest connection, as Firecracker has it
//! ```
//!
//! A restored snapshot holds an earlier life of either: a port without a host, and a listener whose connections the
//! kernel has reset.

mod serial;
mod socket;

use rustix::io::Errno;
use serial::Serial;
use socket::Socket;
use std::{io, os::fd::BorrowedFd, time::Instant};

/// What reading brought.
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    /// There is no host.
    Gone,
}

pub(crate) enum Port {
    Serial(Serial),
    Socket(Socket),
}

impl Port {
    pub(crate) fn open() -> io::Result<Self> {
        if let Some(serial) = Serial::find()? {
            return Ok(Self::Serial(serial));
        }
        if let Some(socket) = Socket::find()? {
            return Ok(Self::Socket(socket));
        }
        Err(io::ErrorKind::NotFound.into())
    }

    #[cfg(test)]
    pub(crate) fn of_stream(stream: std::os::unix::net::UnixStream) -> Self {
        Self::Socket(Socket::of_stream(stream))
    }

    #[cfg(test)]
    pub(crate) fn of_listener(listener: std::os::unix::net::UnixListener) -> Self {
        Self::Socket(Socket::of_listener(listener))
    }

    /// Whether the end of the stream is the end of the agent.
    pub(crate) fn ends_for_good(&self) -> bool {
        match self {
            Self::Serial(_) => false,
            Self::Socket(socket) => socket.ends_for_good(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Serial(serial) => serial.is_connected(),
            Self::Socket(socket) => socket.connection().is_some(),
        }
    }

    /// What to poll for reading.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Serial(serial) => Some(serial.poll_fd()),
            Self::Socket(socket) => socket.connection(),
        }
    }

    /// What to poll for callers, unless they [rest](Self::rests_until): it is readable when [`Self::answer`] has
    /// something to do.
    pub(crate) fn callers(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Serial(_) => None,
            Self::Socket(socket) => socket.callers(),
        }
    }

    /// Until when callers are not to be polled for.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        match self {
            Self::Serial(_) => None,
            Self::Socket(socket) => socket.rests_until(),
        }
    }

    /// Takes up the newest connection that the host wants. Whether it took the place of another one, which is gone then.
    pub(crate) fn answer(&mut self) -> bool {
        match self {
            Self::Serial(_) => false,
            Self::Socket(socket) => socket.answer(),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Received {
        match self {
            Self::Serial(serial) => serial.read(buffer),
            Self::Socket(socket) => socket.read(buffer),
        }
    }

    /// Writes what the host takes now, and forgets it.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        let fd = match self {
            Self::Serial(serial) => Some(serial.fd()),
            Self::Socket(socket) => socket.connection(),
        };
        let mut done = 0;
        while let (Some(fd), true) = (fd, done < out.len()) {
            match rustix::io::write(fd, &out[done..]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // The host is gone; reading will say so.
                Err(_) => done = out.len(),
            }
        }
        if fd.is_none() || done == out.len() {
            out.clear();
        } else {
            out.drain(..done);
        }
    }
}
