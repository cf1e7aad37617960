//! The reader of one namespace.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, mpsc},
};

use omnirun_sys::host::packet::PacketSocket;
use rustix::event::{PollFd, PollFlags, poll};

use super::{CaptureError, Hit, Place, Sign, Wanted, frame, lock};
use crate::nonce::Needles;

/// The longest thing a link carries: a packet that is still to be cut in pieces.
const LONGEST: usize = 1 << 17;
/// How many different findings are kept. Far more than there are attempts; a flood that got out needs no more to be
/// known for one.
const MOST: usize = 10_000;

pub(super) struct Reading {
    pub(super) socket: PacketSocket,
    pub(super) stop: OwnedFd,
    pub(super) place: Place,
    pub(super) needles: Needles,
    /// Which of the needles is the planted one.
    pub(super) planted: usize,
    pub(super) tell: mpsc::Sender<()>,
    pub(super) wanted: Arc<Wanted>,
    pub(super) found: Arc<Mutex<BTreeSet<Hit>>>,
}

impl Reading {
    /// Reads until it is told to stop. Returns how many frames it missed.
    pub(super) fn run(self) -> Result<u32, CaptureError> {
        self.read().map_err(|source| CaptureError::Read {
            place: self.place.name.clone(),
            source,
        })
    }

    fn read(&self) -> io::Result<u32> {
        let mut buffer = vec![0; LONGEST];
        let mut names = HashMap::new();
        loop {
            let mut ready = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let stop = ready[1].revents().contains(PollFlags::IN);
            self.drain(&mut buffer, &mut names)?;
            if stop {
                return self.socket.lost();
            }
        }
    }

    fn drain(&self, buffer: &mut [u8], names: &mut HashMap<u32, String>) -> io::Result<()> {
        loop {
            match self.socket.receive(buffer) {
                Ok(frame) => {
                    let bytes = buffer.get(..frame.length).unwrap_or(buffer);
                    self.look(bytes, frame.link, names);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => {}
                    // A link went down: the others go on.
                    _ if error.raw_os_error() == Some(rustix::io::Errno::NETDOWN.raw_os_error()) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn look(&self, bytes: &[u8], link: u32, names: &mut HashMap<u32, String>) {
        let mut signs = Vec::new();
        for needle in self.needles.find(bytes) {
            if needle == self.planted {
                // Nobody listens any more when the capture ends.
                let _ = self.tell.send(());
            } else {
                signs.push(Sign::Nonce(needle));
            }
        }
        let Some(read) = frame::addresses(bytes) else {
            return;
        };
        let to = read.to.zip(read.port);
        for (attempt, protocol, tuple) in &self.wanted.tuples {
            if read.protocol == *protocol && to == Some((tuple.ip(), tuple.port())) {
                signs.push(Sign::Destination(*attempt));
            }
        }
        let sandbox = |address: Option<_>| address.is_some_and(|a| self.wanted.addresses.contains(&a));
        let hardware = read
            .hardware
            .iter()
            .any(|address| self.wanted.hardware.contains(address));
        if hardware || sandbox(read.from) || sandbox(read.to) {
            signs.push(Sign::Sandbox);
        }
        if signs.is_empty() {
            return;
        }
        let name = names.entry(link).or_insert_with(|| {
            rustix::net::netdevice::index_to_name(self.socket.as_fd(), link)
                .unwrap_or_else(|_| format!("link {link}"))
        });
        let threshold = self
            .place
            .threshold
            .as_ref()
            .is_some_and(|prefix| name.starts_with(&**prefix));
        let mut found = lock(&self.found);
        for sign in signs {
            if found.len() < MOST {
                found.insert(Hit {
                    sign,
                    place: self.place.name.clone(),
                    link: name.clone(),
                    threshold,
                    from: read.from,
                    to: read.to,
                    port: read.port,
                    protocol: read.protocol,
                });
            }
        }
    }
}
