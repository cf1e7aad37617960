//! A capture of everything outside a sandbox, and what it finds.
//!
//! One thread for each namespace reads every frame of every link there, in both directions, and keeps only those that
//! tell of an attempt:
//!
//! - the nonce of an attempt, however it is written ([`Needles`]);
//! - a destination that belongs to one attempt alone;
//! - an address of a sandbox's inner link, which has no business outside (`omnirun-guest-net`).
//!
//! **It proves that it sees.** [`Capture::prove`] sends a frame with a nonce of its own into each namespace and waits
//! until it has been found there; a capture that does not find it is blind ([`CaptureError::Blind`]), and so is one for
//! which the kernel had no room ([`CaptureError::Lost`]): then nothing can be said.
//!
//! ```text
//!   frame    the addresses of a frame
//!   thread   the reader of one namespace
//! ```

mod frame;
mod thread;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use omnirun_sys::host::{net, packet::PacketSocket};
use serde::Serialize;

pub use self::frame::Protocol;
use crate::nonce::{Needles, Nonce};

/// How long a planted frame may take to be seen. It takes microseconds; a host may be busy.
const PLANTED: Duration = Duration::from_secs(10);

/// A namespace to look into.
#[derive(Debug, Clone)]
pub struct Place {
    /// What it is called in the report.
    pub name: String,
    /// The namespace.
    pub namespace: Arc<OwnedFd>,
    /// Links that lead straight out of sandboxes begin with this: what is seen on them, and nowhere else, has left a
    /// sandbox's namespace and has been stopped after that.
    pub threshold: Option<String>,
}

impl Place {
    /// The calling thread's own namespace, as the one outside of all sandboxes.
    ///
    /// # Errors
    /// It could not be opened.
    pub fn here(threshold: &str) -> io::Result<Self> {
        Ok(Self {
            name: "host".to_owned(),
            namespace: Arc::new(net::namespace()?),
            threshold: Some(threshold.to_owned()),
        })
    }
}

/// What a capture looks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Nonces of the attempts.
    pub nonces: Vec<Nonce>,
    /// Destinations that belong to one attempt alone, by its place among them.
    pub tuples: Vec<(usize, Protocol, SocketAddr)>,
    /// Addresses that may not be seen outside.
    pub addresses: Vec<IpAddr>,
    /// Hardware addresses that may not be seen outside.
    pub hardware: Vec<[u8; 6]>,
}

/// What was recognised in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// The nonce of this attempt.
    Nonce(usize),
    /// The destination of this attempt.
    Destination(usize),
    /// An address of a sandbox's inner link.
    Sandbox,
}

/// A frame that tells of an attempt. Alike ones are kept once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Hit {
    /// What was recognised.
    pub sign: Sign,
    /// Name of the namespace.
    pub place: String,
    /// Name of the link.
    pub link: String,
    /// Whether the link leads straight out of a sandbox ([`Place::threshold`]).
    pub threshold: bool,
    /// Where the frame came from.
    pub from: Option<IpAddr>,
    /// Where it was going.
    pub to: Option<IpAddr>,
    /// To which port.
    pub port: Option<u16>,
    /// Which protocol.
    pub protocol: Protocol,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The namespace could not be entered, or has no packet sockets for us.
    #[error("the capture in {place} could not begin")]
    Open {
        /// Which.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Reading failed.
    #[error("the capture in {place} ended early")]
    Read {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// A frame could not be planted.
    #[error("no frame could be planted in {place} to see whether the capture works")]
    Plant {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// A planted frame was not seen.
    #[error("the capture in {place} is blind: it did not see a frame that was planted there")]
    Blind {
        /// Where.
        place: String,
    },
    /// Frames went by unseen.
    #[error("the capture in {place} missed {count} frames")]
    Lost {
        /// Where.
        place: String,
        /// How many.
        count: u32,
    },
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    readers: Vec<Reader>,
    found: Arc<Mutex<BTreeSet<Hit>>>,
}

#[derive(Debug)]
struct Reader {
    place: Place,
    stop: OwnedFd,
    thread: Option<JoinHandle<Result<u32, CaptureError>>>,
    planted: Nonce,
    seen: mpsc::Receiver<()>,
}

impl Capture {
    /// Begins to look in all of `places`.
    ///
    /// # Errors
    /// [`CaptureError::Open`].
    pub fn begin(places: &[Place], wanted: &Wanted) -> Result<Self, CaptureError> {
        let found = Arc::new(Mutex::new(BTreeSet::new()));
        let wanted = Arc::new(wanted.clone());
        let readers = places
            .iter()
            .map(|place| {
                Self::reader(place.clone(), wanted.clone(), found.clone()).map_err(|source| {
                    CaptureError::Open {
                        place: place.name.clone(),
                        source,
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { readers, found })
    }

    fn reader(place: Place, wanted: Arc<Wanted>, found: Arc<Mutex<BTreeSet<Hit>>>) -> io::Result<Reader> {
        let socket = net::in_namespace(place.namespace.as_fd(), PacketSocket::open)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let stop = rustix::event::eventfd(0, flags)?;
        let planted = Nonce::random();
        let (tell, seen) = mpsc::channel();
        let mut nonces = wanted.nonces.clone();
        nonces.push(planted);
        let reading = thread::Reading {
            socket,
            stop: stop.try_clone()?,
            place: place.clone(),
            needles: Needles::new(&nonces),
            planted: wanted.nonces.len(),
            tell,
            wanted,
            found,
        };
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || reading.run())?;
        Ok(Reader {
            place,
            stop,
            thread: Some(thread),
            planted,
            seen,
        })
    }

    /// Plants a frame in every namespace, and sees whether it is found.
    ///
    /// # Errors
    /// [`CaptureError::Plant`], [`CaptureError::Blind`].
    pub fn prove(&self) -> Result<(), CaptureError> {
        for reader in &self.readers {
            let (place, planted) = (&reader.place, reader.planted);
            net::in_namespace(place.namespace.as_fd(), || plant(planted)).map_err(|source| {
                CaptureError::Plant {
                    place: place.name.clone(),
                    source,
                }
            })?;
            if reader.seen.recv_timeout(PLANTED).is_err() {
                return Err(CaptureError::Blind {
                    place: place.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// What was found so far.
    #[must_use]
    pub fn hits(&self) -> Vec<Hit> {
        lock(&self.found).iter().cloned().collect()
    }

    /// Ends it once all that was on the links by now has been read.
    ///
    /// # Errors
    /// [`CaptureError::Read`], [`CaptureError::Lost`], and what [`Self::prove`] returns: it must see to the end.
    pub fn end(mut self) -> Result<Vec<Hit>, CaptureError> {
        // Frames are queued in order: what was sent before these is read before them.
        self.prove()?;
        let readers = std::mem::take(&mut self.readers);
        for mut reader in readers {
            if let Some(count) = reader.join()?.filter(|count| *count > 0) {
                return Err(CaptureError::Lost {
                    place: reader.place.name.clone(),
                    count,
                });
            }
        }
        Ok(self.hits())
    }
}

impl Reader {
    fn join(&mut self) -> Result<Option<u32>, CaptureError> {
        let Some(thread) = self.thread.take() else {
            return Ok(None);
        };
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        match thread.join() {
            Ok(outcome) => outcome.map(Some),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn lock(found: &Mutex<BTreeSet<Hit>>) -> MutexGuard<'_, BTreeSet<Hit>> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a frame with `nonce` by the calling thread's loopback, which every namespace has; it goes nowhere else.
fn plant(nonce: Nonce) -> io::Result<()> {
    let socket = PacketSocket::open()?;
    let link = rustix::net::netdevice::name_to_index(&socket, "lo")?;
    let mut planted = vec![0; 12];
    // For local experiments (IEEE 802), so nobody takes it for anything.
    planted.extend([0x88, 0xb5]);
    planted.extend(nonce.raw());
    planted.resize(60, 0);
    socket.send(link, &planted)
}
