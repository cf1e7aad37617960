//! Control groups: what a VM may use of the host, in force before its process has done anything.
//!
//! The group is made by the owner, `omnirun/ID` in the unified hierarchy, and the jailer is born in it: to move itself would
//! cost it 10 ms and more. Where a
//! controller is missing (a hybrid hierarchy, a container without a subtree of its own) the rest is still done, and
//! the driver says in its facts what is not.

use crate::{MachineSize, VmmError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The parent of all groups.
const PARENT: &str = "omnirun";
/// What is asked for.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "io"];
/// The VMM's own memory. Its published overhead is 5 MiB; a page cache of the files that it reads is charged to it too.
const OVERHEAD: u64 = 128 << 20;
/// Threads beside the virtual CPUs: main, API, and what the kernel starts for KVM.
const THREADS: u32 = 16;
/// The end of a process that was killed, on a host under load.
const ENDS: Duration = Duration::from_secs(10);
/// Not in every kernel, where the memory controller is.
const SWAP: &str = "memory.swap.max";
/// The period of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;

/// The unified hierarchy, with what of it can be used.
#[derive(Debug, Clone)]
pub(in crate::firecracker) struct Hierarchy {
    root: PathBuf,
    usable: Vec<&'static str>,
}

/// Where the unified hierarchy is mounted.
fn mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

fn here() -> Option<PathBuf> {
    mount(&fs::read_to_string("/proc/mounts").unwrap_or_default())
}

impl Hierarchy {
    /// Finds it and what of it can be used; else says why there is none.
    pub(in crate::firecracker) fn find() -> Result<Self, String> {
        Self::at(here().ok_or("no unified hierarchy is mounted")?)
    }

    fn at(root: PathBuf) -> Result<Self, String> {
        let parent = root.join(PARENT);
        let usable = open(&root).map_err(|e| format!("{}: {e}", parent.display()))?;
        // It is there while a VM is; one that has VMs stays.
        let _ = rustix::fs::rmdir(&parent);
        Ok(Self { root, usable })
    }

    /// In words, for `doctor`.
    pub(in crate::firecracker) fn words(&self) -> String {
        let missing: Vec<&str> = CONTROLLERS
            .into_iter()
            .filter(|c| !self.usable.contains(c))
            .collect();
        match (self.usable.is_empty(), missing.is_empty()) {
            (_, true) => format!("a control group with limits ({})", self.usable.join(", ")),
            (true, _) => format!("a control group without limits (no {})", missing.join(", ")),
            (false, false) => format!(
                "a control group with limits ({}; no {})",
                self.usable.join(", "),
                missing.join(", ")
            ),
        }
    }

    /// The controllers that limit a VM.
    pub(in crate::firecracker) fn limits(&self) -> Vec<&'static str> {
        self.usable.clone()
    }

    /// Makes the group of a VM, with limits for a machine of this size. `writes` is what it may write to files beside, `io`
    /// the line for `io.max`.
    pub(in crate::firecracker) fn make(
        &self,
        id: &str,
        size: MachineSize,
        writes: u64,
        io: Option<String>,
    ) -> Result<Group, VmmError> {
        let path = self.root.join(PARENT).join(id);
        let failed = |step, path: PathBuf| move |source| VmmError::File { step, path, source };
        self.create(&path).map_err(failed("create", path.clone()))?;
        let group = Group { path };
        let memory = (size.memory_mib << 20) + OVERHEAD + writes;
        let cpu = (u64::from(size.vcpus) + 1) * PERIOD;
        let limits = [
            ("memory", "memory.max", memory.to_string()),
            ("memory", SWAP, "0".to_owned()),
            ("cpu", "cpu.max", format!("{cpu} {PERIOD}")),
            ("pids", "pids.max", (size.vcpus + THREADS).to_string()),
        ];
        let limits = limits.into_iter().chain(io.map(|line| ("io", "io.max", line)));
        for (controller, file, value) in limits {
            if !self.usable.contains(&controller) {
                continue;
            }
            let path = group.path.join(file);
            let mut written = fs::write(&path, &value);
            if file != SWAP && written.as_ref().is_err_and(is_missing) {
                // Another owner has made the parent just now, and not opened it to the controllers yet.
                written = open(&self.root).and_then(|_| fs::write(&path, &value));
            }
            match written {
                Ok(()) => {}
                // A kernel without swap accounting.
                Err(e) if file == SWAP && is_missing(&e) => {}
                // Not every disk can be limited.
                Err(error) if controller == "io" => {
                    tracing::debug!(%error, "a VM's use of its disk is not limited")
                }
                Err(e) => return Err(failed("limit by", path)(e)),
            }
        }
        Ok(group)
    }

    /// The parent goes with its last group, which may be another owner's at this very moment.
    fn create(&self, path: &Path) -> io::Result<()> {
        for _ in 0..16 {
            match fs::create_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => open(&self.root)?,
                made => return made,
            };
        }
        fs::create_dir(path)
    }
}

/// Whether a file of a group is not there. In a hierarchy, where none can be created, that is a refusal to create it.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

/// Makes the parent of all groups, if need be, and opens to them the controllers that can be; says which.
fn open(root: &Path) -> io::Result<Vec<&'static str>> {
    let parent = root.join(PARENT);
    match fs::create_dir(&parent) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let mut usable = Vec::new();
    for controller in CONTROLLERS {
        // Refused where it is bound to another hierarchy or not delegated to us.
        let enabled = [root, &parent].into_iter().try_for_each(|folder| {
            fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
        });
        match enabled {
            Ok(()) => usable.push(controller),
            Err(error) => tracing::debug!(controller, %error, "not available for VMs"),
        }
    }
    Ok(usable)
}

/// The group of one VM. It goes with this: after the end of its process or, where nobody waits for that since the owner
/// itself ends, with whatever is in it.
#[derive(Debug)]
pub(in crate::firecracker) struct Group {
    path: PathBuf,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a control group stays");
        }
    }
}

impl Group {
    /// Its folder, for a process to be born in it.
    pub(in crate::firecracker) fn open(&self) -> Result<OwnedFd, VmmError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|source| VmmError::File {
            step: "open",
            path: self.path.clone(),
            source: source.into(),
        })
    }
}

/// Removes what a dead owner left of a VM's group; says whether there was any. Its processes have ended.
pub(in crate::firecracker) fn remove_left(id: &str) -> Result<bool, VmmError> {
    let Some(root) = here() else {
        return Ok(false);
    };
    let path = root.join(PARENT).join(id);
    remove(&path).map_err(|source| VmmError::File {
        step: "remove",
        path,
        source,
    })
}

fn remove(path: &Path) -> io::Result<bool> {
    let removed = match rustix::fs::rmdir(path) {
        Ok(()) => true,
        Err(Errno::NOENT) => false,
        Err(Errno::BUSY) => {
            // What an escaped guest may have started beside the VMM.
            end_all(path)?;
            rustix::fs::rmdir(path)?;
            true
        }
        Err(error) => return Err(error.into()),
    };
    // The last one takes the parent along; while there are others, it is refused. One that is gone may have been the last
    // of an owner that did not come to this.
    if let Some(parent) = path.parent() {
        let _ = rustix::fs::rmdir(parent);
    }
    Ok(removed)
}

/// Kills all that is in a group, and waits until nothing is.
fn end_all(path: &Path) -> io::Result<()> {
    let events = File::open(path.join("cgroup.events"))?;
    match fs::write(path.join("cgroup.kill"), "1") {
        Ok(()) => {}
        // A kernel before 5.14.
        Err(e) if is_missing(&e) => kill_each(path)?,
        Err(e) => return Err(e),
    }
    let until = Instant::now() + ENDS;
    loop {
        let mut seen = [0u8; 256];
        let count = events.read_at(&mut seen, 0)?;
        if seen[..count]
            .split(|b| *b == b'\n')
            .any(|line| line == b"populated 0")
        {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        // Whatever changes in the file is urgent data.
        if poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn kill_each(path: &Path) -> io::Result<()> {
    let list = || fs::read_to_string(path.join("cgroup.procs"));
    for pid in list()?.lines() {
        let Some(named) = pid.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(named) = pidfd_open(named, PidfdFlags::empty()) else {
            continue;
        };
        // What has the number now is what the descriptor names.
        if list()?.lines().any(|other| other == pid) {
            let _ = pidfd_send_signal(&named, Signal::KILL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_mounts() {
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount("tmpfs /tmp tmpfs rw 0 0\n"), None);
        assert_eq!(mount("garbage"), None);
    }

    #[test]
    fn limits_are_written_for_what_can_be_used_and_the_rest_is_said() {
        let dir = tempfile::tempdir().expect("a folder");
        // A folder takes every write that a hierarchy would.
        let all = Hierarchy::at(dir.path().to_owned()).expect("it is there");
        assert_eq!(all.words(), "a control group with limits (memory, cpu, pids, io)");
        let some = Hierarchy {
            usable: vec!["pids"],
            ..all.clone()
        };
        assert_eq!(
            some.words(),
            "a control group with limits (pids; no memory, cpu, io)"
        );
        let size = MachineSize {
            vcpus: 2,
            memory_mib: 256,
        };
        let read = |id: &str, file: &str| fs::read_to_string(dir.path().join("omnirun").join(id).join(file));
        all.make("a", size, 0, Some("8:0 rbps=1".into())).expect("made");
        assert_eq!(read("a", "memory.max").expect("written"), "402653184");
        assert_eq!(read("a", "cpu.max").expect("written"), "300000 100000");
        assert_eq!(read("a", "pids.max").expect("written"), "18");
        assert_eq!(read("a", "io.max").expect("written"), "8:0 rbps=1");
        some.make("b", size, 0, None).expect("made");
        assert!(read("b", "memory.max").is_err() && read("b", "pids.max").is_ok());
        // One that is there is somebody's.
        assert!(all.make("a", size, 0, None).is_err());
    }

    #[test]
    fn a_group_goes_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("group");
        fs::create_dir(&path).expect("made");
        assert!(remove(&path).expect("removed"));
        assert!(!remove(&path).expect("nothing"));
    }
}
