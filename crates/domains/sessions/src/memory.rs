//! A session's memory between two work items, in mode `session`.
//!
//! ```text
//!   close, to be kept   room in the budget? -> suspend into the session's folder -> generation into its record
//!   next item's call    generation out of its record -> disk -> resume            or a fresh clone, and a word
//!   any other VM        memory dropped -> disk                                     the disk is about to change
//! ```
//!
//! The order makes each step safe to die at: files without a generation in the record are rubbish, and a generation is
//! out of the record before its files are used. So a session has the memory that it was left with, or none.

use crate::{
    BoxError, DynSandbox,
    factory::free_and_floor,
    prepare::{PrepareError, Preparer, Ready, lap},
};
use omnirun_ids::ByteSize;
use omnirun_store::{StoreError, sessions::Lease};
use std::time::{Duration, Instant};

/// What writing a memory may take. Nobody waits for it but the worker's end: one that is so large, or goes to so slow a
/// disk, is not kept.
const SUSPEND: Duration = Duration::from_secs(60);

impl Preparer {
    /// What the memory of a generation is bound to.
    fn binding(&self, generation: &str) -> String {
        format!("session {} {generation}", self.lease.hash())
    }

    /// The session's sandbox, going on with the memory that was kept; none if there is none, or it is of no use.
    pub(crate) async fn resumed(&self) -> Result<Option<Ready>, PrepareError> {
        if self.shared.config.keep_memory.0 == 0 {
            return Ok(None);
        }
        let Some(generation) = self.shared.store.take_memory(&self.lease)? else {
            return Ok(None);
        };
        let mut timings = Vec::with_capacity(2);
        let start = Instant::now();
        let mut row = self.row.lock().await;
        row.memory = None;
        self.ended().await;
        let disk = self.disk().await?;
        let claim = self.claim_of(&row, disk);
        let folder = self.shared.store.memory_folder(self.lease.hash());
        let resumed = self.pool.resume(&self.binding(&generation), &folder, claim).await;
        match resumed {
            Ok(sandbox) => {
                lap(&mut timings, "resume", start);
                Ok(Some(Ready { sandbox, timings }))
            }
            Err(error) => {
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "the session's memory is of no use; it begins anew over its disk"
                );
                Ok(None)
            }
        }
    }

    /// Ends the sandbox, keeping its memory if there is room for it.
    pub(crate) async fn suspend(&self, sandbox: DynSandbox) {
        match self.room().await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("there is no room to keep the session's memory");
                return self.end(sandbox).await;
            }
            Err(error) => {
                tracing::warn!(error = &*error, "cannot make room for the session's memory");
                return self.end(sandbox).await;
            }
        }
        let start = Instant::now();
        let suspended = tokio::time::timeout(SUSPEND, self.suspend_into_folder(sandbox)).await;
        match suspended.unwrap_or_else(|_| Err("it takes too long".into())) {
            Ok(bytes) => tracing::info!(%bytes, took = ?start.elapsed(), "the session's memory is kept"),
            Err(error) => tracing::warn!(error = &*error, "the session's memory cannot be kept"),
        }
    }

    async fn suspend_into_folder(&self, sandbox: DynSandbox) -> Result<ByteSize, BoxError> {
        let store = &self.shared.store;
        let hash = self.lease.hash();
        let generation = generation()?;
        let binding = self.binding(&generation);
        let (disk, folder) = (store.disk_path(hash), store.memory_folder(hash));
        let bytes = sandbox.suspend(&binding, &disk, &folder).await?;
        store.set_memory(&self.lease, &generation)?;
        Ok(bytes)
    }

    /// Drops the memory, if there is any: the disk goes to a VM that does not know of it.
    pub(crate) async fn drop_memory(&self) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let known = self.row.lock().await.memory.take().is_some();
        if known || store.memory_folder(self.lease.hash()).exists() {
            store.drop_memory(&self.lease)?;
            tracing::info!("the session's memory is dropped");
        }
        Ok(())
    }

    /// Whether one more memory may be kept; the longest unused ones of other sessions go for it.
    async fn room(&self) -> Result<bool, BoxError> {
        // Also what was left in the folder.
        self.drop_memory().await?;
        let shared = self.shared.clone();
        let room = tokio::task::spawn_blocking(move || {
            let (config, store) = (&shared.config, &shared.store);
            // It may be as large as that, though it seldom is.
            let most = config.size.memory.as_mib_ceil().next_power_of_two() << 20;
            let (free, floor) = free_and_floor(config, &shared.dir)?;
            if most > config.keep_memory.0 || free.0 < floor.0.saturating_add(most) {
                return Ok(false);
            }
            let mut kept = Vec::new();
            for row in store.list()?.into_iter().filter(|row| row.memory.is_some()) {
                kept.push((store.memory_bytes(&row.hash), row.hash));
            }
            let mut total: u64 = kept.iter().map(|(bytes, _)| bytes).sum();
            // The last used is the first of them.
            while total.saturating_add(most) > config.keep_memory.0 {
                let Some((bytes, hash)) = kept.pop() else {
                    return Ok(false);
                };
                // One that is being served has taken its memory, or will in a moment.
                let lease: Option<Lease> = store.lease(&hash)?;
                if let Some(lease) = lease {
                    store.drop_memory(&lease)?;
                    total = total.saturating_sub(bytes);
                    tracing::info!(session.hash = %hash, "its memory made room for another session's");
                }
            }
            Ok(true)
        });
        room.await?
    }
}

/// A name that never comes again.
fn generation() -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
