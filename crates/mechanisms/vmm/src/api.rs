//! The contract between sandboxes and a VMM driver.

use crate::{CardRate, DiskRate};
use async_trait::async_trait;
use omnirun_ids::SandboxId;
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::UnixStream;

/// The byte stream to the guest agent. Both drivers give a Unix socket (QEMU: the chardev of the virtio-serial port;
/// Firecracker: its vsock socket after `CONNECT`).
pub type ChannelStream = UnixStream;

/// Which VMM this is; part of a snapshot's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmFacts {
    /// `qemu` or `firecracker`.
    pub driver: &'static str,
    /// The VMM's own version, whole.
    pub version: String,
    /// `kvm` or `tcg`.
    pub accelerator: &'static str,
    /// Model and features of the virtual CPU, as far as they decide whether a snapshot can be restored.
    pub cpu: String,
    /// The devices that a guest without a network card sees, in order. Changes when they do.
    pub devices: &'static str,
    /// The network card, which comes behind them.
    pub card: &'static str,
    /// How the VMM process is confined, in words for `doctor`.
    pub confinement: String,
    /// What of control groups limits each VM in one of its own, by the kernel's names of controllers.
    pub controllers: Vec<&'static str>,
    /// What a session disk passes.
    pub disk: DiskRate,
    /// What a network card passes; none: whatever its VMM is able to.
    pub card_rate: Option<CardRate>,
}

/// The hardware address of a guest's card, as VMMs take it.
pub(crate) fn guest_mac() -> String {
    omnirun_guest_net::GUEST_MAC
        .map(|byte| format!("{byte:02x}"))
        .join(":")
}

impl VmmFacts {
    /// The devices that a guest sees; `card`: whether it has a network card.
    pub fn devices(&self, card: bool) -> String {
        match card {
            true => format!("{},{}", self.devices, self.card),
            false => self.devices.to_owned(),
        }
    }
}

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MachineSize {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
}

/// Who a VMM process belongs to, and where it may put its sockets and logs.
#[derive(Debug, Clone)]
pub struct VmIdentity {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// A private folder of this VM, made by the owner (0700) and removed by it after the VM's end.
    pub run_dir: PathBuf,
}

/// A cold boot.
#[derive(Debug, Clone)]
pub struct BootSpec {
    /// Whose VM it is.
    pub identity: VmIdentity,
    /// The kernel (bzImage).
    pub kernel: PathBuf,
    /// The same kernel as an ELF file, for a VMM that knows no bzImage.
    pub vmlinux: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Appended to the driver's own kernel command line.
    pub cmdline: String,
    /// The base disk, attached read-only.
    pub base: PathBuf,
    /// vCPUs and memory.
    pub size: MachineSize,
    /// The network card; none: the machine has none.
    pub network: Option<Nic>,
}

/// Where a network card ends: a network namespace with a persistent tap that nobody has open, of the name that
/// `omnirun_guest_net::TAP` says. The driver opens it there.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The namespace.
    pub namespace: Arc<OwnedFd>,
}

/// A clone.
#[derive(Debug)]
pub struct CloneSpec {
    /// Whose VM it is.
    pub identity: VmIdentity,
    /// The base disk; the same file as at the boot that was snapshot.
    pub base: PathBuf,
    /// vCPUs and memory, as at the boot that was snapshot.
    pub size: MachineSize,
    /// Memory of the snapshot: a sealed memfd or a read-only file that nothing may write to. Mapped privately.
    pub memory: Arc<OwnedFd>,
    /// Device state of the snapshot, opened for reading.
    pub state: Arc<OwnedFd>,
    /// The session disk that the machine had when its snapshot was taken. None: it had none.
    pub disk: Option<AttachDisk>,
    /// Whether a snapshot of the clone is to cost by what it has written, where the VMM can count that. It is right
    /// either way.
    pub tracked: bool,
    /// The network card, if the machine had one when its snapshot was taken.
    pub network: Option<Nic>,
}

/// A session disk to attach.
#[derive(Debug)]
pub struct AttachDisk {
    /// The raw image, opened for reading and writing. A driver that can hand no descriptor to its VMM links the file
    /// into the VM's run folder, so it has a name, or never had one and may be given one (`O_TMPFILE`).
    pub file: OwnedFd,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The files that [`Vm::snapshot`] writes. Together they are the whole machine: what it was cloned from may go.
#[derive(Debug, Clone)]
pub struct DeviceState {
    /// Guest memory, sparse. Without any data if the driver has written it beside the devices' state.
    pub memory: PathBuf,
    /// Everything else.
    pub state: PathBuf,
}

/// How a VMM process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that did.
    pub signal: Option<i32>,
    /// The end of its standard error, for people. Bounded.
    pub stderr_tail: String,
}

/// Why a VMM operation failed. Each variant names the step.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The VMM program is not there.
    #[error("{program} was not found; install it with: {install}")]
    Missing {
        /// The program.
        program: String,
        /// The command that installs it.
        install: &'static str,
    },
    /// The VMM program is there, and is none that can be used.
    #[error("{program} cannot be used as {what}: {reason}")]
    Unusable {
        /// The program.
        program: String,
        /// What it should be.
        what: &'static str,
        /// What it did or said when it was asked for its version.
        reason: String,
    },
    /// A driver that was asked for cannot work on this host.
    #[error("{driver} cannot be used here: {reason}")]
    Unfit {
        /// The driver, as people call it.
        driver: &'static str,
        /// Why not.
        reason: String,
    },
    /// The process could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file that the VM needs could not be used.
    #[error("cannot {step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The VMM ended while it was being asked something.
    #[error("the VMM ended during {step}: {tail}")]
    Gone {
        /// What was being done.
        step: &'static str,
        /// The end of its standard error.
        tail: String,
    },
    /// The VMM refused.
    #[error("the VMM refused {step}: {reason}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// Its words.
        reason: String,
    },
    /// The VMM did not answer in time.
    #[error("the VMM did not finish {step} within {seconds} s")]
    Timeout {
        /// What was being done.
        step: &'static str,
        /// The bound.
        seconds: u64,
    },
    /// The other end of a network card could not be had.
    #[error("cannot {step} the network card's tap")]
    Card {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Talking to the VMM failed.
    #[error("cannot talk to the VMM during {step}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Ends what dead owners left.
#[async_trait]
pub trait Reap: Send + Sync {
    /// Ends the VMM processes that a dead owner left behind, as its records name them, waits for their exit, and removes
    /// what the host had for them outside the run folder. Idempotent. Says in words what it ended.
    async fn reap(&self, identity: &VmIdentity) -> Result<Vec<String>, VmmError>;
}

/// A VMM driver.
#[async_trait]
pub trait Vmm: Reap {
    /// What it is.
    fn facts(&self) -> &VmmFacts;

    /// Boots a machine, running.
    async fn start(&self, spec: BootSpec) -> Result<Box<dyn Vm>, VmmError>;

    /// Opens a snapshot's memory for [`CloneSpec::memory`], once for all clones of this process: a read-only file
    /// where the VMM is content with one, else a sealed memfd with a copy. The file may lose its name afterwards.
    async fn open_memory(&self, memory: &Path) -> Result<Arc<OwnedFd>, VmmError>;

    /// Starts a process for a clone of a snapshot, to load it when it is asked to. It costs the VMM's own few megabytes
    /// until then.
    async fn prepare(&self, spec: CloneSpec) -> Result<Box<dyn Prepared>, VmmError>;

    /// Makes a clone of a snapshot, loaded and **paused**: nothing runs until [`Vm::resume`].
    async fn restore(&self, spec: CloneSpec) -> Result<Box<dyn Vm>, VmmError> {
        self.prepare(spec).await?.load().await
    }
}

/// A process that waits to become a clone. Dropping it kills it without waiting; [`Reap::reap`] makes sure.
#[async_trait]
pub trait Prepared: Send + Sync {
    /// Waits for the end of a process that ends before it was used. Cancel-safe.
    async fn exited(&self) -> Exit;

    /// Loads the snapshot, **paused**.
    async fn load(self: Box<Self>) -> Result<Box<dyn Vm>, VmmError>;
}

/// One machine. Dropping it kills the VMM process without waiting; [`Vm::kill`] then [`Vm::wait`] is the orderly way.
#[async_trait]
pub trait Vm: Send + Sync {
    /// Process id of the VMM.
    fn pid(&self) -> u32;

    /// Connects to the guest agent's channel. A new connection replaces an earlier one.
    ///
    /// On a machine that is not resumed yet this may wait until it is: to be called beside [`Self::resume`], not before
    /// it. A driver that can connect earlier does so, and what is written then waits for the guest.
    async fn channel(&self) -> Result<ChannelStream, VmmError>;

    /// Stops the virtual CPUs.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Lets the virtual CPUs run. After a pause a connection to the agent may have ended, and is to be made anew.
    async fn resume(&self) -> Result<(), VmmError>;

    /// Writes memory and device state of a **paused** machine, booted or cloned, to the files, whole and fsynced.
    async fn snapshot(&self, to: &DeviceState) -> Result<(), VmmError>;

    /// Puts the session disk behind the machine's second drive, on a paused or running machine. The guest sees a
    /// capacity change.
    async fn attach_disk(&self, disk: AttachDisk) -> Result<(), VmmError>;

    /// Kills the VMM process. Idempotent.
    fn kill(&self);

    /// Waits for the VMM process to end and reaps it; returns the same [`Exit`] ever after. Cancel-safe.
    async fn wait(&self) -> Exit;

    /// Proportional and private memory of the VMM process in bytes, from `/proc/PID/smaps_rollup`.
    fn memory(&self) -> Result<(u64, u64), VmmError>;

    /// The guest's console output so far, for people; bounded, guest data.
    fn console_tail(&self) -> String;

    /// A path that names the run folder in messages.
    fn run_dir(&self) -> &Path;
}
