//! The end of a VM: an idempotent pass over everything that it can have, ending with a check of each.
//!
//! ```text
//!   VMM process    killed, waited for
//!   port           pulled: its namespace and what the egress proxy has of it
//!   run folder     removed: sockets, logs, a half-made snapshot
//!   row            removed, if and only if the check found nothing
//! ```
//!
//! What cannot be removed keeps its row, so a later pass comes back to it.

use crate::Port;
use omnirun_ids::SandboxId;
use omnirun_store::Vms;
use omnirun_vm_machine::Why;
use omnirun_vmm::{Reap, Vm, VmIdentity};
use std::{fmt, fs, io::ErrorKind, path::Path, time::Duration};

/// How long a killed VMM may take to go. A process in an uninterruptible wait (a dead disk) may take for ever.
const EXIT_WAIT: Duration = Duration::from_secs(20);

/// What a teardown did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeardownReport {
    /// Whose.
    pub sandbox: SandboxId,
    /// Why it ended.
    pub why: Why,
    /// What was there and is gone.
    pub removed: Vec<String>,
    /// What is still there, and why.
    pub left: Vec<String>,
}

impl TeardownReport {
    /// Whether nothing is left.
    pub fn is_clean(&self) -> bool {
        self.left.is_empty()
    }
}

impl fmt::Display for TeardownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sandbox, self.why)?;
        if !self.removed.is_empty() {
            write!(f, "; removed {}", self.removed.join(", "))?;
        }
        if !self.left.is_empty() {
            write!(f, "; STILL THERE: {}", self.left.join(", "))?;
        }
        Ok(())
    }
}

/// The VMM process of a VM that is to go.
pub(crate) enum Process<'a> {
    /// We started it.
    Ours(&'a dyn Vm),
    /// A dead owner did, or we were interrupted while we did: only the driver can find it.
    Unknown(&'a dyn Reap),
}

/// Runs the pass.
pub(crate) async fn teardown(
    identity: &VmIdentity,
    process: Process<'_>,
    port: Option<&dyn Port>,
    vms: &Vms,
    why: Why,
) -> TeardownReport {
    let mut removed = Vec::new();
    let mut left = Vec::new();
    match process {
        Process::Ours(vm) => {
            vm.kill();
            match tokio::time::timeout(EXIT_WAIT, vm.wait()).await {
                Ok(_) => removed.push(format!("process {}", vm.pid())),
                Err(_) => left.push(format!("process {} (killed, but it does not end)", vm.pid())),
            }
        }
        Process::Unknown(reaper) => match tokio::time::timeout(EXIT_WAIT, reaper.reap(identity)).await {
            Ok(Ok(ended)) => removed.extend(ended),
            Ok(Err(error)) => left.push(format!("its VMM process: {}", crate::error::chain(&error))),
            Err(_) => left.push("its VMM process (killed, but it does not end)".to_owned()),
        },
    }
    // Of a dead owner's the kernel has removed it with its last descriptor.
    if let Some(port) = port {
        match tokio::time::timeout(EXIT_WAIT, port.pull()).await {
            Ok(Ok(pulled)) => removed.extend(pulled),
            Ok(Err(error)) => left.push(format!("its network: {}", crate::error::chain(&*error))),
            Err(_) => left.push("its network (it does not end)".to_owned()),
        }
    }
    // The folder of a VMM that still runs is what finds it again.
    if left.is_empty() {
        match remove_folder(&identity.run_dir) {
            Ok(true) => removed.push(format!("run folder {}", identity.run_dir.display())),
            Ok(false) => {}
            Err(error) => left.push(format!("run folder {}: {error}", identity.run_dir.display())),
        }
    }
    if left.is_empty()
        && let Err(error) = vms.remove(&identity.sandbox)
    {
        left.push(format!("its record: {}", crate::error::chain(&error)));
    }
    TeardownReport {
        sandbox: identity.sandbox.clone(),
        why,
        removed,
        left,
    }
}

/// Removes a folder with all that is in it; says whether it was there. Checks that it is gone.
pub(crate) fn remove_folder(path: &Path) -> std::io::Result<bool> {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
        Ok(_) => Err(std::io::Error::other("it is still there")),
    }
}
