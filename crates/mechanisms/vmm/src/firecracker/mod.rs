//! The driver for Firecracker, under its jailer.
//!
//! ```text
//!   version   which Firecracker is there, and whether it may be used
//!   elf       how a program is linked
//!   jail      folder, command line, control group
//!   api       the calls over its Unix socket
//!   metrics   what a process counts
//!   seccomp   which system calls a process may make
//!   trial     a jailed start without a machine
//!   vm        one machine
//! ```
//!
//! A clone is made so: the owner builds an empty jail in the VM's run folder and starts the jailer, as the first process
//! of a pid namespace, in the VM's control group, in an empty IPC namespace, in a network namespace that is empty or the
//! one that its card leads to, and in a mount namespace in which the snapshot's files are mounted read-only in the jail. The jailer pivots into the jail, becomes the VM's own user and
//! turns into Firecracker, so that one pidfd names all of it from its birth to its end, and a signal to it ends all of
//! it. The API's socket is waited for by its name; then one call loads the snapshot. Firecracker opens the memory
//! read-only and maps it privately: clones share the host's page cache.
//!
//! What a restored machine finds again by name are its disks, its sockets and its card's tap, and in every jail they have
//! the same. The tap is lent to the VM's user, so that no capability is needed to open it; that the process is in the
//! tap's namespace lets it make no socket there, since its filter knows local ones only.

mod api;
mod elf;
mod jail;
mod metrics;
mod seccomp;
mod trial;
mod version;
mod vm;

use crate::{
    BootSpec, CardRate, CloneSpec, DiskRate, Prepared, Reap, Vm, VmIdentity, Vmm, VmmError, VmmFacts, accel,
    reap, uids::UidRange,
};
use async_trait::async_trait;
use jail::cgroup::{self, Hierarchy};
use rustix::thread::{CapabilitySet, capabilities};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use version::Programs;

pub use elf::{Linkage, linkage};

/// The release that `omnirun setup` downloads.
pub const PINNED: &str = "1.16.1";

/// The releases that the driver works with: the pinned one, and the one before it.
pub const SUPPORTED: [&str; 2] = [PINNED, "1.15.1"];

/// Whether `firecracker` and `jailer` are there, of whatever version: named by `FIRECRACKER_BIN` and `JAILER_BIN`, in
/// the folder in which `omnirun setup` installs them, or on the search path.
pub fn is_there(installed: Option<&Path>) -> bool {
    version::are_there(installed)
}

/// The release of the two programs in a folder, which both have to say and which has to be one that may be used. Blocks
/// for some milliseconds.
///
/// # Errors
/// [`VmmError`]: what is wrong with which of them.
pub fn release_in(folder: &Path) -> Result<String, VmmError> {
    Programs::in_folder(folder).map(|programs| programs.release.to_string())
}

/// Folders of [`Firecracker::find`]'s jails whose processes were killed, in this folder.
///
/// # Errors
/// [`VmmError::File`] if the folder cannot be listed.
pub fn killed_trials(scratch: &Path) -> Result<Vec<PathBuf>, VmmError> {
    trial::killed(scratch)
}

/// Ends and removes what [`killed_trials`] finds; says which.
///
/// # Errors
/// [`VmmError`]: what could not be ended or removed.
pub async fn clear_killed_trials(scratch: &Path) -> Result<Vec<PathBuf>, VmmError> {
    trial::clear(scratch).await
}

/// How a sandbox's jailer and Firecracker are known among all processes.
pub(crate) fn mark(sandbox: &str) -> reap::Mark {
    reap::Mark {
        // In its jail the program is at the root.
        program: |name| {
            name == b"jailer"
                || name
                    .strip_prefix(b"/")
                    .is_some_and(|n| !n.is_empty() && !n.contains(&b'/'))
        },
        words: ["--id".into(), jail::name(sandbox)],
    }
}

/// Removes a sandbox's control group, if it is there. Its processes have ended.
pub(crate) fn remove_cgroup(sandbox: &str) -> Result<bool, VmmError> {
    cgroup::remove_left(&jail::name(sandbox))
}

/// Firecracker on this host.
#[derive(Debug)]
pub struct Firecracker {
    host: Arc<Host>,
    facts: VmmFacts,
}

/// What all machines of a driver have in common.
#[derive(Debug, Clone)]
struct Host {
    programs: Programs,
    /// What the jailer calls the program.
    name: String,
    /// What it starts in the program's place; the program itself is mounted.
    starter: Option<Vec<u8>>,
    /// The compiled seccomp filter for a program that has none of its own.
    filter: Option<Vec<u8>>,
    uids: UidRange,
    /// The control groups; or why there are none.
    cgroups: Result<Hierarchy, String>,
    /// Whether a process whose threads do not all filter their system calls is refused. Doubles have no filter.
    must_filter: bool,
    /// What a session disk passes.
    disk: DiskRate,
    /// What a network card passes.
    card: CardRate,
    /// Whether limits of a process of another user may be changed: root of a container may lack the capability.
    may_limit: bool,
}

impl Firecracker {
    /// Finds Firecracker and its jailer, and starts a jail to see that it works. Does not look whether KVM runs stock
    /// kernels: that is [`crate::detect`]'s. Takes tens of milliseconds; once per process. `scratch` is a folder for that
    /// jail, on a file system like that of the jails to come.
    pub async fn find(installed: Option<&Path>, scratch: &Path) -> Result<Self, VmmError> {
        let installed = installed.map(Path::to_owned);
        Self::tried(move || Programs::find(installed.as_deref()), scratch).await
    }

    /// The same with the programs of this folder, whatever the environment names.
    pub async fn in_folder(folder: &Path, scratch: &Path) -> Result<Self, VmmError> {
        let folder = folder.to_owned();
        Self::tried(move || Programs::in_folder(&folder), scratch).await
    }

    async fn tried(
        programs: impl FnOnce() -> Result<Programs, VmmError> + Send + 'static,
        scratch: &Path,
    ) -> Result<Self, VmmError> {
        let found = tokio::task::spawn_blocking(move || Host::of(programs()?)).await;
        let host = Arc::new(found.unwrap_or_else(|e| {
            Err(VmmError::Io {
                step: "looking for Firecracker",
                source: std::io::Error::other(e),
            })
        })?);
        let has_filter = trial::run(&host, scratch).await?;
        let filtered = has_filter && (host.filter.is_some() || !host.programs.is_gnu);
        let facts = VmmFacts {
            driver: "firecracker",
            version: host.programs.release.to_string(),
            accelerator: "kvm",
            cpu: accel::host_cpu(),
            devices: vm::DEVICES,
            card: vm::CARD,
            confinement: host.words(filtered),
            controllers: host.cgroups.as_ref().map(Hierarchy::limits).unwrap_or_default(),
            disk: host.disk,
            card_rate: Some(host.card),
        };
        Ok(Self { host, facts })
    }

    /// The same with another rate for the session disks of machines that it makes from now on.
    pub fn with_disk_rate(self, disk: DiskRate) -> Self {
        let host = Host {
            disk,
            ..(*self.host).clone()
        };
        let facts = VmmFacts { disk, ..self.facts };
        Self {
            host: Arc::new(host),
            facts,
        }
    }

    /// The same with another rate for the network cards of machines that it boots from now on, and of their clones.
    pub fn with_card_rate(self, card: CardRate) -> Self {
        let host = Host {
            card,
            ..(*self.host).clone()
        };
        let facts = VmmFacts {
            card_rate: Some(card),
            ..self.facts
        };
        Self {
            host: Arc::new(host),
            facts,
        }
    }
}

impl Host {
    fn of(programs: Programs) -> Result<Self, VmmError> {
        let unfit = |reason: &str| VmmError::Unfit {
            driver: "Firecracker",
            reason: reason.to_owned(),
        };
        if !rustix::process::geteuid().is_root() {
            return Err(unfit("its jailer has to be started by root"));
        }
        let uids =
            UidRange::here().ok_or_else(|| unfit("there are no user ids for VMs in this container"))?;
        let name = programs
            .name()
            .ok_or_else(|| unfit("its program's name is not UTF-8"))?
            .to_owned();
        let filter = match programs.is_gnu {
            true => seccomp::compile()?,
            false => None,
        };
        Ok(Self {
            name,
            starter: jail::starter::image(),
            filter,
            uids,
            cgroups: Hierarchy::find(),
            must_filter: true,
            disk: DiskRate::default(),
            card: CardRate::default(),
            may_limit: capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::SYS_RESOURCE)),
            programs,
        })
    }

    /// How its processes are confined, in words for `doctor`.
    fn words(&self, filtered: bool) -> String {
        let cgroup = match &self.cgroups {
            Ok(hierarchy) => hierarchy.words(),
            Err(why) => format!("no control group ({why})"),
        };
        let seccomp = match (filtered, &self.filter) {
            (true, Some(_)) => "seccomp (OmniRun's filter, since this build has none)",
            (true, None) => "seccomp",
            (false, _) => "seccomp off (this build filters nothing by itself)",
        };
        format!(
            "a uid of its own per VM, chroot, network (empty, or its card's), IPC and pid namespaces, {seccomp}, no new privileges, \
             limits, {cgroup}"
        )
    }
}

#[async_trait]
impl Vmm for Firecracker {
    fn facts(&self) -> &VmmFacts {
        &self.facts
    }

    async fn start(&self, spec: BootSpec) -> Result<Box<dyn Vm>, VmmError> {
        Ok(Box::new(vm::Machine::boot(&self.host, spec).await?))
    }

    async fn open_memory(&self, memory: &Path) -> Result<Arc<OwnedFd>, VmmError> {
        let file = File::open(memory).map_err(|source| VmmError::File {
            step: "open",
            path: memory.to_owned(),
            source,
        })?;
        Ok(Arc::new(file.into()))
    }

    async fn prepare(&self, spec: CloneSpec) -> Result<Box<dyn Prepared>, VmmError> {
        Ok(Box::new(vm::Machine::prepare(&self.host, spec).await?))
    }
}

#[async_trait]
impl Reap for Firecracker {
    async fn reap(&self, identity: &VmIdentity) -> Result<Vec<String>, VmmError> {
        reap::reap(identity).await
    }
}
