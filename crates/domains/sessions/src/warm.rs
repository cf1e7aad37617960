//! Pools that are begun when a session is claimed, before anything else is known of it: its first clone is on its way
//! while the session is fetched and its disk made ready.

use crate::{
    DynPool,
    factory::{Shared, image_of, pool},
};
use omnirun_ids::{Digest, SessionKey};
use omnirun_sandboxes::Card;
use omnirun_store::sessions::{SessionHash, SessionState};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// A session that was claimed and is not opened within this time keeps no clone any longer.
const WARM: Duration = Duration::from_secs(60);

/// A pool, and what its sandboxes have.
pub(crate) struct Warm {
    pub(crate) base: Digest,
    pub(crate) card: Card,
    pub(crate) pool: DynPool,
}

/// Sessions that were claimed and not opened yet. A place without a pool is being filled.
#[derive(Default)]
pub(crate) struct Warmed(Mutex<HashMap<SessionKey, Option<Warm>>>);

impl Warmed {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Option<Warm>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session is opened, or will not be: its pool, if it is there. One that is on its way is not waited for.
    pub(crate) fn take(&self, key: &SessionKey) -> Option<Warm> {
        self.lock().remove(key).flatten()
    }

    /// Lets a pool go that nobody has taken. With none, a place that was not filled; never a later claim's pool.
    fn expire(&self, key: &SessionKey, made: Option<&Weak<dyn crate::SandboxPool>>) {
        let mut places = self.lock();
        let ours = match (places.get(key), made) {
            (Some(Some(warm)), Some(made)) => Arc::downgrade(&warm.pool).ptr_eq(made),
            (Some(None), None) => true,
            _ => false,
        };
        if ours {
            places.remove(key);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_ready(&self, key: &SessionKey) -> bool {
        self.lock().get(key).is_some_and(Option::is_some)
    }
}

/// Begins a pool in the background. A hint: what goes wrong here goes wrong again when the session is opened, and is
/// said there.
pub(crate) fn begin(shared: &Arc<Shared>, key: &SessionKey) {
    shared.warmed.lock().insert(key.clone(), None);
    let (shared, key) = (shared.clone(), key.clone());
    tokio::spawn(async move {
        let blocking = {
            let (shared, key) = (shared.clone(), key.clone());
            tokio::task::spawn_blocking(move || fill(&shared, &key))
        };
        let made = blocking.await.unwrap_or_default();
        if made.is_some() {
            tokio::time::sleep(WARM).await;
        }
        shared.warmed.expire(&key, made.as_ref());
    });
}

fn fill(shared: &Shared, key: &SessionKey) -> Option<Weak<dyn crate::SandboxPool>> {
    let row = shared.store.get(&SessionHash::of(key)).ok().flatten();
    // It goes on with that, or says so when it is opened.
    if row.as_ref().is_some_and(|row| row.memory.is_some()) {
        return None;
    }
    let image = match row.filter(|row| row.state == SessionState::Ready) {
        Some(row) => image_of(shared.platform.as_ref(), &row).ok()?,
        None => shared.platform.image(&shared.config.template).ok()?,
    };
    let mut places = shared.warmed.lock();
    // The place is gone if the session has been opened meanwhile, with a pool of its own.
    let place = places.get_mut(key)?;
    let base = image.base_digest.clone();
    let card = shared.config.network.card();
    let pool = pool(shared, key, image, card);
    pool.refill();
    let made = Arc::downgrade(&pool);
    *place = Some(Warm { base, card, pool });
    Some(made)
}
