//! A jailed start without a machine: whether the jail can be built on this host at all, and whether its process
//! has a seccomp filter. What a real start would fail of (a mount or a device that a container may not make, a program that
//! does not run in a jail) fails here, once, before anybody relies on the driver.

use super::{Host, seccomp, vm::Plan};
use crate::{MachineSize, Vm, VmIdentity, VmmError, reap};
use omnirun_ids::SandboxId;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
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

/// How the folder of a trial is called.
const PREFIX: &str = "sbx_trial_";

/// What precedes that before it is locked.
const NAMELESS: &str = "new_";

/// Starts one in a folder of `scratch`, and says whether the process has a seccomp filter. Clears up after those that were
/// killed.
pub(super) async fn run(host: &Arc<Host>, scratch: &Path) -> Result<bool, VmmError> {
    clear(scratch).await?;
    let (identity, _lock) = make(scratch)?;
    let folder = identity.run_dir.clone();
    let seen = look(host, identity.clone()).await;
    if seen.is_err() {
        // It may live yet, and whoever hears of this most likely ends: nobody would see its end and remove its group.
        reap::reap(&identity).await?;
    }
    fs::remove_dir_all(&folder).map_err(failed("remove", &folder))?;
    seen
}

fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> VmmError + use<> {
    let path = path.to_owned();
    move |source| VmmError::File {
        step,
        path: path.clone(),
        source,
    }
}

/// A folder that is known to be in use by its lock, which ends with its process, whatever way. It has its name only once it
/// is locked.
fn make(scratch: &Path) -> Result<(VmIdentity, File), VmmError> {
    for _ in 0..8 {
        if let Some(made) = try_make(scratch)? {
            return Ok(made);
        }
    }
    Err(failed("keep a new folder in", scratch)(
        io::ErrorKind::ResourceBusy.into(),
    ))
}

/// `None` if it was taken for a dead process's before it was locked.
fn try_make(scratch: &Path) -> Result<Option<(VmIdentity, File)>, VmmError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{PREFIX}{}_{number}", std::process::id());
    let (folder, nameless) = (scratch.join(&name), scratch.join(format!("{NAMELESS}{name}")));
    let sandbox = name.parse::<SandboxId>().map_err(|e| VmmError::Io {
        step: "naming a trial",
        source: io::Error::other(e.to_string()),
    })?;
    let made = fs::DirBuilder::new().mode(0o700).create(&nameless);
    made.map_err(failed("create", &nameless))?;
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let lock = match locked(&nameless) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(None),
        Err(e) if gone(&e) => return Ok(None),
        Err(e) => return Err(failed("lock", &nameless)(e)),
    };
    match fs::rename(&nameless, &folder) {
        Ok(()) => {}
        Err(e) if gone(&e) => return Ok(None),
        Err(e) => return Err(failed("rename", &nameless)(e)),
    }
    let identity = VmIdentity {
        sandbox,
        run_dir: folder,
    };
    Ok(Some((identity, lock)))
}

/// Opens and locks a folder of ours; `None` if somebody else has it locked, or it is somebody else's.
fn locked(folder: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(folder)?;
    if file.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The folders of trials whose processes are no more.
pub(super) fn killed(scratch: &Path) -> Result<Vec<PathBuf>, VmmError> {
    let found = abandoned(scratch)?.into_iter();
    let let_go = found.map(|(identity, lock)| {
        // Closing it does not do: a process that is started just now has it as well.
        let _ = flock(&lock, FlockOperation::Unlock);
        identity.run_dir
    });
    Ok(let_go.collect())
}

/// Ends and removes them; says which.
pub(super) async fn clear(scratch: &Path) -> Result<Vec<PathBuf>, VmmError> {
    let mut cleared = Vec::new();
    for (identity, _lock) in abandoned(scratch)? {
        let folder = identity.run_dir.clone();
        for line in reap::reap(&identity).await? {
            tracing::info!("ended {line}, of a trial that was killed");
        }
        fs::remove_dir_all(&folder).map_err(failed("remove", &folder))?;
        cleared.push(folder);
    }
    Ok(cleared)
}

/// With their locks, which are ours now.
fn abandoned(scratch: &Path) -> Result<Vec<(VmIdentity, File)>, VmmError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(scratch).map_err(failed("list", scratch))?.flatten() {
        let name = entry.file_name();
        let name = name
            .to_str()
            .map(|name| name.strip_prefix(NAMELESS).unwrap_or(name));
        let sandbox = name.filter(|name| name.starts_with(PREFIX));
        let Some(sandbox) = sandbox.and_then(|name| name.parse::<SandboxId>().ok()) else {
            continue;
        };
        let run_dir = entry.path();
        // One that ends just now is nobody's concern.
        if let Ok(Some(lock)) = locked(&run_dir) {
            found.push((VmIdentity { sandbox, run_dir }, lock));
        }
    }
    Ok(found)
}

async fn look(host: &Arc<Host>, identity: VmIdentity) -> Result<bool, VmmError> {
    let machine = Plan::new(host, identity, SIZE, WRITES, None)?.start(host).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn what_a_killed_trial_left_goes_and_a_living_one_stays() {
        let scratch = tempfile::tempdir().expect("a folder");
        let (living, lock) = make(scratch.path()).expect("made");
        let (dead, its_lock) = make(scratch.path()).expect("made");
        fs::write(dead.run_dir.join("something"), "left").expect("written");
        let nameless = scratch.path().join("new_sbx_trial_1_0");
        fs::create_dir(&nameless).expect("made");
        // Closing it does not do: a process that another test starts just now has it as well.
        let let_go = |lock: File| flock(&lock, FlockOperation::Unlock).expect("unlocked");
        let_go(its_lock);
        // Neither is a trial's.
        let (other, link) = (
            scratch.path().join("sbx_other"),
            scratch.path().join("sbx_trial_link"),
        );
        fs::create_dir(&other).expect("made");
        symlink(&other, &link).expect("made");
        let gone = [nameless, dead.run_dir];
        let sorted = |mut seen: Vec<PathBuf>| {
            seen.sort();
            seen
        };
        assert_eq!(sorted(killed(scratch.path()).expect("seen")), gone);
        assert_eq!(sorted(clear(scratch.path()).await.expect("cleared")), gone);
        assert!(living.run_dir.is_dir() && !gone.iter().any(|path| path.exists()));
        assert!(other.is_dir() && link.is_symlink());
        let_go(lock);
        clear(scratch.path()).await.expect("cleared");
        assert!(!living.run_dir.exists());
    }
}
