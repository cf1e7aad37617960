//! One machine.
//!
//! ```text
//!   arrival    from the jailer's start to an API that answers
//!   start      from files to a machine: jail, process, API; boot or restore
//!   snapshot   from a paused machine to files
//!   channel    to the guest agent, through vsock
//! ```

mod arrival;
mod channel;
mod snapshot;
mod start;
#[cfg(test)]
mod tests;

pub(super) use start::Plan;

use super::{
    api::{Client, State},
    jail::Jail,
    seccomp,
};
use crate::{
    AttachDisk, ChannelStream, DeviceState, DiskRate, Exit, MachineSize, Prepared, Vm, VmIdentity, VmmError,
    process::Process, tail::Tail,
};
use async_trait::async_trait;
use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// Names in the jail. A snapshot's device state has those of the disks in it, so they stay as they are.
const BASE: &str = "base";
const PLACEHOLDER: &str = "placeholder";
const SESSION: &str = "session";
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
const MEMORY: &str = "memory";
const STATE: &str = "state";

/// What Firecracker calls the network card.
const CARD_ID: &str = "net0";

/// What a guest sees, in order; see [`crate::VmmFacts::devices`].
pub(super) const DEVICES: &str = "base:virtio-blk,session:virtio-blk,agent:virtio-vsock,rng:virtio-rng";
/// The network card, likewise.
pub(super) const CARD: &str = "net:virtio-net";

/// The drives, as Firecracker calls them.
const FIRST_DISK: &str = "base";
const SESSION_DRIVE: &str = "session";

/// Size of the placeholder behind the second drive. The guest sees a change of capacity when a disk is attached.
const PLACEHOLDER_BYTES: u64 = 1 << 20;

/// The guest's address on its vsock; 0 to 2 are taken.
const AGENT_CID: u32 = 3;

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    process: Process,
    api: Client,
    jail: Jail,
    identity: VmIdentity,
    size: MachineSize,
    /// Whether limits of a process of another user may be changed.
    may_limit: bool,
    /// Whether it is killed unless its threads filter their system calls.
    must_filter: bool,
    /// What its session disk passes.
    disk: DiskRate,
    /// Whether it was booted: its agent takes a while to be there. A clone's is there already.
    booted: bool,
    /// Whether it counts what it writes to.
    tracked: bool,
    /// What its memory was a copy of when it began to count. It counts anew after a snapshot.
    base: Mutex<Option<Arc<OwnedFd>>>,
    /// Whether its virtual CPUs run.
    running: watch::Sender<bool>,
    /// Whether it was paused while it ran, and no snapshot was begun since.
    unsaved: AtomicBool,
    channel: Mutex<Option<OwnedFd>>,
    console: Tail,
}

impl Machine {
    /// The version that the process itself names.
    pub(super) async fn version(&self) -> Result<String, VmmError> {
        self.asked("version", self.api.version().await).await
    }

    /// Kills it unless every thread filters its system calls. To be asked once the guest runs: a virtual CPU's thread takes
    /// its filter on before anything else, and that it has is only certain when it has answered.
    pub(super) fn check_filters(&self) -> Result<(), VmmError> {
        let step = "looking for seccomp filters";
        let unfiltered = match self.must_filter {
            true => seccomp::unfiltered(self.process.pid()),
            false => Ok(None),
        };
        let error = match unfiltered {
            Ok(None) => return Ok(()),
            Ok(Some(thread)) => VmmError::Refused {
                step,
                reason: format!("its thread {thread} has none"),
            },
            Err(source) => VmmError::Io { step, source },
        };
        self.process.kill();
        Err(error)
    }
}

#[async_trait]
impl Prepared for Machine {
    async fn exited(&self) -> Exit {
        self.process.wait().await
    }

    async fn load(self: Box<Self>) -> Result<Box<dyn Vm>, VmmError> {
        self.load_snapshot().await?;
        Ok(self)
    }
}

#[async_trait]
impl Vm for Machine {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn channel(&self) -> Result<ChannelStream, VmmError> {
        self.connect_agent().await
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.asked("pause", self.api.set_state(State::Paused).await)
            .await?;
        if self.running.send_replace(false) {
            self.unsaved.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        if self.unsaved.load(Ordering::Relaxed) {
            self.order_reset().await?;
        }
        self.asked("resume", self.api.set_state(State::Resumed).await)
            .await?;
        self.check_filters()?;
        self.running.send_replace(true);
        Ok(())
    }

    async fn snapshot(&self, to: &DeviceState) -> Result<(), VmmError> {
        self.save(to).await
    }

    async fn attach_disk(&self, disk: AttachDisk) -> Result<(), VmmError> {
        let step = "attaching the session disk";
        if self.may_limit {
            // From now on the disk is the largest thing that it may write to.
            let bytes = start::writes_to(Some(&disk));
            if let Err(error) = self.process.limit_file_size(bytes) {
                tracing::debug!(%error, "the size of the session disk's file is not limited");
            }
        }
        match self.jail.link(SESSION, &disk.file) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let reason = "it has one already".to_owned();
                return Err(VmmError::Refused { step, reason });
            }
            Err(source) => return Err(VmmError::Io { step, source }),
        }
        let swapped = self
            .api
            .swap_drive(SESSION_DRIVE, &format!("/{SESSION}"), self.disk)
            .await;
        self.asked(step, swapped).await
    }

    fn kill(&self) {
        self.process.kill();
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }

    fn memory(&self) -> Result<(u64, u64), VmmError> {
        self.process.memory()
    }

    fn console_tail(&self) -> String {
        self.console.text()
    }

    fn run_dir(&self) -> &Path {
        &self.identity.run_dir
    }
}
