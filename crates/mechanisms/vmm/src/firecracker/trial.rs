//! A jailed start without a machine: whether the jail can be built on this host at all, and whether its process
//! has a seccomp filter. What a real start would fail of (a mount or a device that a container may not make, a program that
//! does not run in a jail) fails here, once, before anybody relies on the driver.

use super::{Host, seccomp, vm::Plan};
use crate::{MachineSize, Vm, VmIdentity, VmmError};
use omnirun_ids::SandboxId;
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Small; it is never made.
const SIZE: MachineSize = MachineSize {
    vcpus: 1,
    memory_mib: 1,
};

/// What it may write to a file: the jailer leaves its process id in one.
const WRITES: u64 = 4096;

/// Starts one, and says whether the process has a seccomp filter.
pub(super) async fn run(host: &Arc<Host>) -> Result<bool, VmmError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("sbx_trial_{}_{number}", std::process::id());
    let folder = std::env::temp_dir().join(&name);
    let invalid = |e: &dyn std::fmt::Display| VmmError::Io {
        step: "naming a trial",
        source: io::Error::other(e.to_string()),
    };
    let identity = VmIdentity {
        sandbox: name.parse::<SandboxId>().map_err(|e| invalid(&e))?,
        run_dir: folder.clone(),
    };
    let failed = |step, path: PathBuf| move |source| VmmError::File { step, path, source };
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(failed("create", folder.clone()))?;
    let seen = look(host, identity).await;
    fs::remove_dir_all(&folder).map_err(failed("remove", folder))?;
    seen
}

async fn look(host: &Arc<Host>, identity: VmIdentity) -> Result<bool, VmmError> {
    let machine = Plan::new(host, identity, SIZE, WRITES)?.start(host).await?;
    let seen = async {
        let version = machine.version().await?;
        let known = host.programs.release.to_string();
        if version != known {
            return Err(VmmError::Unusable {
                program: host.programs.firecracker.display().to_string(),
                what: "Firecracker",
                reason: format!("it says {known} when it is asked, and {version} when it runs"),
            });
        }
        seccomp::is_on(machine.pid()).map_err(|source| VmmError::Io {
            step: "looking for its seccomp filter",
            source,
        })
    };
    let seen = seen.await;
    machine.kill();
    machine.wait().await;
    seen
}
