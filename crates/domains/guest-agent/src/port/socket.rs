//! A vsock listener, and one connection.
//!
//! The host has one connection at a time; a new one means that it has given the old one up, whether or not we have heard
//! of that. When a snapshot is restored the kernel resets every connection that it holds, and the listener lives on.
//! What is not the host's (another machine's, if there were any, or one from within this one) is refused.

use super::Received;
use omnirun_sys::guest::vsock;
use rustix::io::Errno;
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// As the host's side knows it.
const PORT: u32 = 1024;
/// Connections that wait to be accepted, and how many are accepted at once. The host makes one after the other.
const BACKLOG: u8 = 16;
/// virtio's number for a socket device, as sysfs shows it.
const DEVICE: &str = "0x0013";
/// How long callers wait when the kernel cannot accept, for want of memory or descriptors.
const REST: Duration = Duration::from_millis(50);

type Accept = fn(BorrowedFd<'_>) -> io::Result<OwnedFd>;

pub(crate) struct Socket {
    /// None: a stream that ends once, as in tests.
    listener: Option<Listener>,
    connection: Option<OwnedFd>,
}

struct Listener {
    fd: OwnedFd,
    accept: Accept,
    rests_until: Option<Instant>,
}

impl Socket {
    /// Listens, if this machine has such a device. (The kernel would listen without one, for ever.)
    pub(super) fn find() -> io::Result<Option<Self>> {
        for entry in fs::read_dir("/sys/bus/virtio/devices")? {
            if fs::read_to_string(entry?.path().join("device"))?.trim() == DEVICE {
                let listener = vsock::listen(PORT, i32::from(BACKLOG))?;
                return Ok(Some(Self::listening(listener, vsock::accept_host)));
            }
        }
        Ok(None)
    }

    fn listening(fd: OwnedFd, accept: Accept) -> Self {
        Self {
            listener: Some(Listener {
                fd,
                accept,
                rests_until: None,
            }),
            connection: None,
        }
    }

    #[cfg(test)]
    pub(super) fn of_stream(stream: std::os::unix::net::UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            listener: None,
            connection: Some(stream.into()),
        }
    }

    #[cfg(test)]
    pub(super) fn of_listener(listener: std::os::unix::net::UnixListener) -> Self {
        use rustix::net::{SocketFlags, accept_with};
        listener.set_nonblocking(true).unwrap();
        Self::listening(listener.into(), |fd| {
            Ok(accept_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
        })
    }

    pub(super) fn ends_for_good(&self) -> bool {
        self.listener.is_none()
    }

    pub(super) fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn callers(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|listener| listener.fd.as_fd())
    }

    pub(super) fn rests_until(&self) -> Option<Instant> {
        let until = self.listener.as_ref()?.rests_until?;
        (until > Instant::now()).then_some(until)
    }

    pub(super) fn answer(&mut self) -> bool {
        let Some(newest) = self.listener.as_mut().and_then(Listener::newest) else {
            return false;
        };
        self.connection.replace(newest).is_some()
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Received {
        let Some(connection) = &self.connection else {
            return Received::Nothing;
        };
        match rustix::io::read(connection, buffer) {
            Ok(count) if count > 0 => Received::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Ok(_) | Err(_) => {
                self.connection = None;
                Received::Gone
            }
        }
    }
}

impl Listener {
    /// The newest of those that wait; the others are closed.
    fn newest(&mut self) -> Option<OwnedFd> {
        let mut newest = None;
        for _ in 0..BACKLOG {
            match (self.accept)(self.fd.as_fd()) {
                Ok(connection) => newest = Some(connection),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    // Not the host's, or gone again already.
                    io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::Interrupted => {}
                    _ => {
                        self.rests_until = Some(Instant::now() + REST);
                        break;
                    }
                },
            }
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::{
        io::{Read, Write},
        os::unix::net::{UnixListener, UnixStream},
        path::PathBuf,
    };

    fn socket() -> (tempfile::TempDir, PathBuf, Socket) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let socket = Socket::of_listener(UnixListener::bind(&path).unwrap());
        (folder, path, socket)
    }

    /// What the loop would be woken by now: callers, the connection.
    fn wakes(socket: &Socket) -> (bool, bool) {
        let now = Timespec::default();
        let is_ready = |fd: Option<BorrowedFd<'_>>| {
            fd.is_some_and(|fd| {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                poll(&mut fds, Some(&now)).unwrap() > 0
            })
        };
        (is_ready(socket.callers()), is_ready(socket.connection()))
    }

    fn received(socket: &mut Socket) -> Option<Vec<u8>> {
        let mut buffer = [0; 64];
        match socket.read(&mut buffer) {
            Received::Bytes(count) => Some(buffer[..count].to_vec()),
            Received::Nothing => Some(Vec::new()),
            Received::Gone => None,
        }
    }

    #[test]
    fn a_new_connection_takes_the_old_one_s_place() {
        let (_folder, path, mut socket) = socket();
        assert_eq!(wakes(&socket), (false, false));
        let mut first = UnixStream::connect(&path).unwrap();
        assert_eq!(wakes(&socket), (true, false));
        assert!(!socket.answer(), "there was none to replace");
        first.write_all(b"one").unwrap();
        assert_eq!(received(&mut socket).unwrap(), b"one");
        assert_eq!(wakes(&socket), (false, false));

        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"two").unwrap();
        assert!(socket.answer());
        assert_eq!(received(&mut socket).unwrap(), b"two");
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "the first is closed");
    }

    #[test]
    fn of_many_callers_the_last_is_served() {
        let (_folder, path, mut socket) = socket();
        let mut callers: Vec<_> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for (number, caller) in callers.iter_mut().enumerate() {
            caller.write_all(&[number as u8]).unwrap();
        }
        assert!(!socket.answer());
        assert_eq!(received(&mut socket).unwrap(), [9]);
        assert_eq!(wakes(&socket), (false, false));
    }

    #[test]
    fn a_reset_connection_leaves_the_listener_and_wakes_nobody() {
        let (_folder, path, mut socket) = socket();
        for _ in 0..3 {
            let caller = UnixStream::connect(&path).unwrap();
            socket.answer();
            // Closed with unread bytes: a reset, as the kernel does it to a restored snapshot's connections.
            rustix::io::write(socket.connection().unwrap(), b"unread").unwrap();
            drop(caller);
            assert_eq!(wakes(&socket), (false, true));
            assert!(received(&mut socket).is_none());
            assert_eq!(wakes(&socket), (false, false));
            assert!(socket.connection().is_none() && !socket.ends_for_good());
        }
    }

    #[test]
    fn a_caller_who_has_left_is_gone_at_once() {
        let (_folder, path, mut socket) = socket();
        drop(UnixStream::connect(&path).unwrap());
        socket.answer();
        assert!(received(&mut socket).is_none());
        assert_eq!(wakes(&socket), (false, false));
    }

    #[test]
    fn a_kernel_that_cannot_accept_is_given_time() {
        let (_folder, path, mut socket) = socket();
        let _caller = UnixStream::connect(&path).unwrap();
        let accept = std::mem::replace(&mut socket.listener.as_mut().unwrap().accept, |_| {
            Err(Errno::MFILE.into())
        });
        assert!(!socket.answer());
        assert!(socket.rests_until().is_some());
        let listener = socket.listener.as_mut().unwrap();
        listener.rests_until = Some(Instant::now());
        listener.accept = accept;
        assert_eq!(wakes(&socket), (true, false));
        assert!(socket.rests_until().is_none());
        socket.answer();
        assert!(socket.connection().is_some());
    }

    #[test]
    fn who_may_not_call_does_not_keep_the_next_from_it() {
        let (_folder, path, mut socket) = socket();
        let _callers = [&path; 3].map(|path| UnixStream::connect(path).unwrap());
        // Of a Unix socket's peers none is the host.
        socket.listener.as_mut().unwrap().accept = vsock::accept_host;
        assert!(!socket.answer());
        assert!(socket.connection().is_none() && socket.rests_until().is_none());
        assert_eq!(wakes(&socket), (false, false));
    }
}
