//! What is to be attached, and what of it is.

use super::{AttachmentId, EgressError, Resolvers};
use crate::Metrics;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot, watch};

/// How far a child has followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// The serial of the policy in force, in the child that there is; 0 for none.
    pub(super) in_force: u64,
    /// The last that could not be taken, and why.
    pub(super) failed: Option<(u64, String)>,
    /// There will be no child any more.
    pub(super) closed: bool,
}

impl Standing {
    /// Whether there is nothing more to wait for.
    pub(super) fn settles(&self, serial: u64) -> bool {
        self.closed
            || self.in_force >= serial
            || self.failed.as_ref().is_some_and(|(failed, _)| *failed >= serial)
    }
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Entry {
    /// Number of its policy. Numbers are the table's, so one that was removed and made again has higher ones.
    pub(super) serial: u64,
    pub(super) sockets: Arc<Vec<OwnedFd>>,
    pub(super) blob: Arc<OwnedFd>,
    standing: watch::Sender<Standing>,
}

/// What one child has not been told yet.
#[derive(Debug, Default)]
pub(super) struct Untold {
    pub(super) resolvers: bool,
    pub(super) ids: BTreeSet<u64>,
    pub(super) measures: Vec<(u64, oneshot::Sender<Option<Metrics>>)>,
}

#[derive(Debug)]
struct State {
    resolvers: Resolvers,
    entries: BTreeMap<u64, Entry>,
    /// Removed, while a child may still have its sockets.
    leaving: BTreeMap<u64, Entry>,
    untold: Untold,
    last_serial: u64,
    linked: bool,
    closed: bool,
}

/// All attachments.
#[derive(Debug)]
pub(super) struct Table {
    state: Mutex<State>,
    /// For the link: something is untold.
    pub(super) changed: Notify,
    /// For the supervisor: the child did not do in time what it was told to.
    pub(super) distrusted: Notify,
}

impl Table {
    pub(super) fn new(resolvers: Resolvers) -> Self {
        Self {
            state: Mutex::new(State {
                resolvers,
                entries: BTreeMap::new(),
                leaving: BTreeMap::new(),
                untold: Untold::default(),
                last_serial: 0,
                linked: false,
                closed: false,
            }),
            changed: Notify::new(),
            distrusted: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(
        &self,
        id: u64,
        sockets: Vec<OwnedFd>,
        blob: OwnedFd,
    ) -> Result<(u64, watch::Receiver<Standing>), EgressError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EgressError::Closed);
        }
        if state.entries.contains_key(&id) || state.leaving.contains_key(&id) {
            return Err(EgressError::Taken(AttachmentId(id)));
        }
        state.last_serial += 1;
        let serial = state.last_serial;
        let (standing, receiver) = watch::channel(Standing::default());
        let entry = Entry {
            serial,
            sockets: Arc::new(sockets),
            blob: Arc::new(blob),
            standing,
        };
        state.entries.insert(id, entry);
        state.untold.ids.insert(id);
        drop(state);
        self.changed.notify_one();
        Ok((serial, receiver))
    }

    pub(super) fn update(&self, id: u64, blob: OwnedFd) -> Result<u64, EgressError> {
        let mut state = self.lock();
        let serial = state.last_serial + 1;
        let Some(entry) = state.entries.get_mut(&id) else {
            return Err(EgressError::Unknown(AttachmentId(id)));
        };
        entry.serial = serial;
        entry.blob = Arc::new(blob);
        state.last_serial = serial;
        state.untold.ids.insert(id);
        drop(state);
        self.changed.notify_one();
        Ok(serial)
    }

    /// Idempotent.
    pub(super) fn remove(&self, id: u64) {
        let mut state = self.lock();
        let Some(entry) = state.entries.remove(&id) else {
            return;
        };
        if state.linked {
            state.leaving.insert(id, entry);
            state.untold.ids.insert(id);
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn measure(&self, id: u64) -> Result<oneshot::Receiver<Option<Metrics>>, EgressError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EgressError::Closed);
        }
        if !state.entries.contains_key(&id) {
            return Err(EgressError::Unknown(AttachmentId(id)));
        }
        let (sender, receiver) = oneshot::channel();
        state.untold.measures.push((id, sender));
        drop(state);
        self.changed.notify_one();
        Ok(receiver)
    }

    pub(super) fn set_resolvers(&self, resolvers: Resolvers) {
        self.lock().resolvers = resolvers;
        self.tell_resolvers();
    }

    /// How names are resolved has to be told anew.
    pub(super) fn tell_resolvers(&self) {
        self.lock().untold.resolvers = true;
        self.changed.notify_one();
    }

    pub(super) fn resolvers(&self) -> Resolvers {
        self.lock().resolvers.clone()
    }

    /// A new child: it has been told nothing.
    pub(super) fn linked(&self) {
        let mut state = self.lock();
        state.linked = true;
        state.untold.resolvers = true;
        state.untold.ids = state.entries.keys().copied().collect();
        drop(state);
        self.changed.notify_one();
    }

    /// The child is gone, and with it everything that it did.
    pub(super) fn unlinked(&self) {
        let mut state = self.lock();
        state.linked = false;
        state.leaving.clear();
        state.untold = Untold::default();
        for entry in state.entries.values() {
            entry.standing.send_replace(Standing::default());
        }
    }

    /// There will be no other.
    pub(super) fn close(&self) {
        self.unlinked();
        let mut state = self.lock();
        state.closed = true;
        for entry in state.entries.values() {
            entry.standing.send_modify(|now| now.closed = true);
        }
    }

    pub(super) fn take_untold(&self) -> Untold {
        std::mem::take(&mut self.lock().untold)
    }

    /// What is to be told of one; nothing if it is to be let go.
    pub(super) fn wanted(&self, id: u64) -> Option<(u64, Arc<Vec<OwnedFd>>, Arc<OwnedFd>)> {
        let state = self.lock();
        let entry = state.entries.get(&id)?;
        Some((entry.serial, Arc::clone(&entry.sockets), Arc::clone(&entry.blob)))
    }

    /// Whether there is one of this id that the child may speak of.
    pub(super) fn has(&self, id: u64) -> bool {
        let state = self.lock();
        state.entries.contains_key(&id) || state.leaving.contains_key(&id)
    }

    pub(super) fn in_force(&self, id: u64, serial: u64) {
        if let Some(entry) = self.lock().entries.get(&id)
            && serial <= entry.serial
        {
            entry.standing.send_modify(|now| now.in_force = serial);
        }
    }

    pub(super) fn failed(&self, id: u64, serial: u64, why: String) {
        if let Some(entry) = self.lock().entries.get(&id)
            && serial <= entry.serial
        {
            entry.standing.send_modify(|now| now.failed = Some((serial, why)));
        }
    }

    pub(super) fn left(&self, id: u64) {
        self.lock().leaving.remove(&id);
    }
}
