//! What all guests share.

use super::{events::Events, lanes::Company, relay::Pipes, upstream::Upstream};
use rustix::process::Resource;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Semaphore;

/// Descriptors that are kept for other things than connections: the guests' own sockets, lookups, pipes.
const RESERVED: u64 = 4096;
/// A connection has two sockets, and a lookup's or two in between.
const FOR_EACH: u64 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) events: Events,
    pub(super) pipes: Pipes,
    /// How many threads a guest keeps busy at most.
    pub(super) lanes: usize,
    /// Who else is being served.
    pub(super) company: Arc<Company>,
    /// Connections of all guests: so many that descriptors do not run out.
    pub(super) connections: Arc<Semaphore>,
    upstream: RwLock<Arc<Upstream>>,
}

impl Process {
    pub(super) fn new(events: Events, workers: usize) -> Self {
        let most = rustix::process::getrlimit(Resource::Nofile)
            .current
            .unwrap_or(1024);
        let for_connections = most.saturating_sub(RESERVED.min(most / 4)) / FOR_EACH;
        Self {
            events,
            pipes: Pipes::default(),
            lanes: (workers / 2).max(1),
            company: Arc::new(Company::new()),
            connections: Arc::new(Semaphore::new(for_connections as usize)),
            upstream: RwLock::default(),
        }
    }

    pub(super) fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.upstream.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_upstream(&self, upstream: Upstream) {
        *self.upstream.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(upstream);
    }
}
