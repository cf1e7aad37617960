//! From a clone of the pool to a sandbox that is this session's: disk attached, claimed, seeded.
//!
//! Nothing of a call has run when this fails, so the clone is thrown away and another one tried.

use crate::{
    BoxError, ClaimFailure, DynPool, DynSandbox,
    factory::{SessionsError, Shared},
    pack,
};
use omnirun_sandboxes::{ClaimSpec, Egress};
use omnirun_store::{
    StoreError,
    sessions::{AttachedDisk, Lease, Seed, SessionRow},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, task::JoinHandle};

/// How often a clone is replaced before the call fails.
pub(crate) const ATTEMPTS: u32 = 3;
/// How long the last VM may take to let go of the disk after it was killed.
const DISK_WAIT: Duration = Duration::from_secs(20);

/// Why there is no sandbox for the session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// The session disk cannot be mounted. Trying again would not help.
    #[error("the session disk cannot be mounted")]
    Disk(#[source] BoxError),
    /// No clone.
    #[error("no sandbox could be started")]
    Sandbox(#[source] BoxError),
    /// Another VM has the disk.
    #[error("the session disk is still attached to another VM after {} s", DISK_WAIT.as_secs())]
    Attached,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The seed.
    #[error(transparent)]
    Seed(SessionsError),
}

/// A sandbox that is the session's.
pub(crate) struct Ready {
    pub sandbox: DynSandbox,
    pub timings: Vec<(&'static str, Duration)>,
}

/// What preparing needs; shared with a task that does it ahead of a call.
pub(crate) struct Preparer {
    pub shared: Arc<Shared>,
    pub lease: Arc<Lease>,
    pub pool: DynPool,
    pub row: Mutex<SessionRow>,
    /// What its sandboxes may reach.
    pub egress: Option<Egress>,
    /// Whether a seed that is due is copied; not by those who only look.
    pub seed: bool,
    /// The end of the last VM: its disk is free when this is done.
    pub ending: Mutex<Option<JoinHandle<Vec<String>>>>,
}

impl Preparer {
    /// A sandbox for the session; replaces clones that fail.
    pub(crate) async fn ready(&self) -> Result<Ready, PrepareError> {
        let mut attempt = 1;
        loop {
            match self.attempt().await {
                Err(error @ PrepareError::Sandbox(_)) if attempt < ATTEMPTS => {
                    tracing::warn!(
                        attempt,
                        error = &error as &dyn std::error::Error,
                        "sandbox failed, another is tried"
                    );
                    tokio::time::sleep(Duration::from_millis(100) * attempt).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn attempt(&self) -> Result<Ready, PrepareError> {
        let mut timings = Vec::with_capacity(8);
        let start = Instant::now();
        // The next clone is taken while the last one dies.
        let (taken, ()) = tokio::join!(self.pool.take(), self.ended());
        let sandbox = taken.map_err(PrepareError::Sandbox)?;
        lap(&mut timings, "take", start);

        // From here on the disk is no longer what a memory of it knows.
        self.drop_memory().await?;
        let start = Instant::now();
        let disk = self.disk().await?;
        let mut row = self.row.lock().await;
        let claim = self.claim_of(&row, disk);
        match sandbox.claim(claim).await {
            Ok(()) => {}
            Err(ClaimFailure::Disk(source)) => {
                self.end(sandbox).await;
                return Err(PrepareError::Disk(source));
            }
            Err(ClaimFailure::Sandbox(source)) => {
                self.end(sandbox).await;
                return Err(PrepareError::Sandbox(source));
            }
        }
        lap(&mut timings, "claim", start);

        if self.seed && row.seed == Seed::Due {
            let start = Instant::now();
            if let Err(error) = self.seed(&sandbox).await {
                self.end(sandbox).await;
                return Err(error);
            }
            row.seed = Seed::Done;
            lap(&mut timings, "seed", start);
        }
        Ok(Ready { sandbox, timings })
    }

    /// Ends a VM in the background; whoever prepares the next one waits for it.
    pub(crate) async fn end(&self, sandbox: DynSandbox) {
        let mut ending = self.ending.lock().await;
        let before = ending.take();
        *ending = Some(tokio::spawn(async move {
            let mut said = match before {
                Some(before) => before.await.unwrap_or_default(),
                None => Vec::new(),
            };
            said.extend(sandbox.kill().await);
            said
        }));
    }

    /// Waits until the last VM is gone.
    pub(crate) async fn ended(&self) {
        let mut ending = self.ending.lock().await;
        if let Some(task) = ending.as_mut() {
            // Its report is of no interest here, and a panic in it is not ours to pass on. The handle stays if this is
            // dropped, so the next one waits as well.
            let _ = task.await;
            *ending = None;
        }
    }

    /// The disk, once no other VM has it. A VM of this process has just been waited for; one that a dead process left
    /// is ended here.
    pub(crate) async fn disk(&self) -> Result<AttachedDisk, PrepareError> {
        let start = Instant::now();
        let mut taken_over = false;
        loop {
            if let Some(disk) = self.shared.store.open_disk(&self.lease)? {
                return Ok(disk);
            }
            if start.elapsed() > DISK_WAIT {
                return Err(PrepareError::Attached);
            }
            if !taken_over {
                taken_over = true;
                self.shared
                    .platform
                    .take_over()
                    .await
                    .map_err(PrepareError::Sandbox)?;
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Copies the seed. It counts as there once it is durable; until then another clone does it again, over what the
    /// first one left.
    async fn seed(&self, sandbox: &DynSandbox) -> Result<(), PrepareError> {
        let Some(seed) = self.shared.config.seed.clone() else {
            // An earlier worker promised one and died before it was there; this one has none to give.
            return Ok(self.shared.store.set_seed(&self.lease, Seed::Done)?);
        };
        let (stream, packing) = pack::stream(seed.clone(), pack::Root::Contents);
        let unpacked = sandbox.tar_in(b".", Box::new(stream)).await;
        // What went wrong on this side is the better message.
        let packed = packing.await.map_err(|e| PrepareError::Sandbox(e.into()))?;
        packed.map_err(|source| PrepareError::Seed(SessionsError::Seed { path: seed, source }))?;
        unpacked.map_err(|e| PrepareError::Sandbox(e.into()))?;
        sandbox
            .sync()
            .await
            .map_err(|e| PrepareError::Sandbox(e.into()))?;
        Ok(self.shared.store.set_seed(&self.lease, Seed::Done)?)
    }

    /// What makes a sandbox this session's.
    pub(crate) fn claim_of(&self, row: &SessionRow, disk: AttachedDisk) -> ClaimSpec {
        ClaimSpec {
            disk: disk.file,
            disk_bytes: disk.bytes,
            env: Vec::new(),
            user: row.user.clone(),
            cwd: String::new(),
            egress: self.egress.clone(),
            purpose: format!("session {}", row.key.session),
        }
    }
}

pub(crate) fn lap(timings: &mut Vec<(&'static str, Duration)>, name: &'static str, start: Instant) {
    timings.push((name, start.elapsed()));
}
