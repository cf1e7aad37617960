//! What the servers saw: the second witness, beside the capture.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

use crate::nonce::{Needles, Nonce};

/// How something came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Over TCP, as it is.
    Tcp,
    /// Encrypted.
    Tls,
    /// In a datagram.
    Udp,
    /// In a query.
    Dns,
}

/// The nonce of an attempt reached a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Record {
    /// Which attempt's.
    pub attempt: usize,
    /// The namespace of the server.
    pub server: String,
    /// The address that was asked for, where it is known.
    pub at: Option<SocketAddr>,
    /// How it came.
    pub via: Via,
}

/// How many are kept.
const MOST: usize = 10_000;

/// Collects what the servers see.
#[derive(Debug, Clone, Default)]
pub struct Records {
    state: Arc<Mutex<State>>,
    flipped: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    needles: Option<Needles>,
    seen: BTreeSet<Record>,
}

impl Records {
    /// Forgets what was seen, and looks for these from now on.
    pub fn look_for(&self, nonces: &[Nonce]) {
        let mut state = self.lock();
        state.needles = Some(Needles::new(nonces));
        state.seen.clear();
        self.flipped.store(false, Ordering::Relaxed);
    }

    /// Whether the name has been asked for, in this run, that leads elsewhere from the second time on.
    pub(super) fn flipped(&self) -> Arc<AtomicBool> {
        self.flipped.clone()
    }

    /// What was seen.
    #[must_use]
    pub fn seen(&self) -> Vec<Record> {
        self.lock().seen.iter().cloned().collect()
    }

    pub(super) fn look(&self, bytes: &[u8], server: &str, at: Option<SocketAddr>, via: Via) {
        let mut state = self.lock();
        let found = state
            .needles
            .as_ref()
            .map(|needles| needles.find(bytes))
            .unwrap_or_default();
        for attempt in found {
            if state.seen.len() < MOST {
                state.seen.insert(Record {
                    attempt,
                    server: server.to_owned(),
                    at,
                    via,
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
