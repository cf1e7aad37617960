//! What all guests share.

use super::{events::Events, relay::Pipes, upstream::Upstream};
use rustix::process::Resource;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::{runtime::Handle, sync::Semaphore};

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
    /// The threads for what is many.
    pub(super) crowd: Handle,
    /// Connections of all guests: so many that descriptors do not run out.
    pub(super) connections: Arc<Semaphore>,
    upstream: RwLock<Arc<Upstream>>,
}

impl Process {
    pub(super) fn new(events: Events, lanes: usize, crowd: Handle) -> Self {
        let most = rustix::process::getrlimit(Resource::Nofile)
            .current
            .unwrap_or(1024);
        let for_connections = most.saturating_sub(RESERVED.min(most / 4)) / FOR_EACH;
        Self {
            events,
            pipes: Pipes::default(),
            lanes,
            crowd,
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
