//! Owners: processes that own VMs.
//!
//! An owner holds a `flock` on `owners/<id>.lock` for as long as it lives. Who can take that lock has the proof that
//! the owner is dead: a [`DeadOwner`]. It keeps the lock while it clears up, so that two processes never clear up the
//! same, and removes the file last; if it dies half-way, the next one starts over.
//!
//! Files appear and are scanned under one short lock of the folder, so a scan never sees an owner that has made its
//! file and not locked it yet.
//!
//! A process that an owner starts is a copy of it until it runs its own program, and has the lock for as long. If the
//! owner is killed just then, its lock is held a little longer; who looks for dead owners waits for that.

use crate::{
    atomic::FileLock,
    data_dir::DataDir,
    error::{StoreError, file},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the copy of a dead owner may take until it runs its own program. Another process that is clearing up after the
/// owner is waited for as long, too.
const STARTING: Duration = Duration::from_secs(2);

/// An owner's id: `own_` and 24 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(String);

impl OwnerId {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an id out of a table.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("own_")?;
        let ok = digits.len() == 24
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ok.then(|| Self(text.to_owned()))
    }

    fn draw() -> Result<Self, StoreError> {
        let mut bytes = [0u8; 12];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| file("read", Path::new("/dev/urandom"))(e.into()))?;
        Ok(Self(format!("own_{}", hex::encode(bytes))))
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an owner says of itself, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerInfo {
    /// Its process id; not a proof of anything.
    pub pid: u32,
    /// What it does: `omnirun worker`.
    pub command: String,
    /// Since when, ms since the epoch.
    pub started_ms: i64,
    /// Where that process id means something: `/proc/self/ns/pid`.
    #[serde(default)]
    pub pid_namespace: PathBuf,
}

impl OwnerInfo {
    fn of_this_process(command: &str) -> Self {
        Self {
            pid: std::process::id(),
            command: command.to_owned(),
            started_ms: crate::now_ms(),
            pid_namespace: pid_namespace(),
        }
    }

    /// Whether there surely is no such process any more.
    fn is_gone(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|_| self.pid_namespace == pid_namespace()) else {
            return false;
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                let mut ended = [PollFd::new(&process, PollFlags::IN)];
                poll(&mut ended, Some(&Timespec::default())) == Ok(1)
            }
            Err(error) => error == Errno::SRCH,
        }
    }
}

/// Empty if it cannot be read.
fn pid_namespace() -> PathBuf {
    fs::read_link("/proc/self/ns/pid").unwrap_or_default()
}

/// This process, as an owner. Dropping it removes the file: do so when no VM is left.
#[derive(Debug)]
pub struct Owner {
    id: OwnerId,
    lock: Option<FileLock>,
    dir: DataDir,
}

impl Owner {
    /// Makes this process an owner.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn register(dir: &DataDir, command: &str) -> Result<Self, StoreError> {
        let id = OwnerId::draw()?;
        let folder = folder_lock(dir)?;
        let lock = FileLock::exclusive(&path_of(dir, &id))?;
        let text = serde_json::to_vec(&OwnerInfo::of_this_process(command)).unwrap_or_default();
        lock.as_file()
            .write_all(&text)
            .map_err(file("write", lock.path()))?;
        drop(folder);
        Ok(Self {
            id,
            lock: Some(lock),
            dir: dir.clone(),
        })
    }

    /// Its id.
    pub fn id(&self) -> &OwnerId {
        &self.id
    }

    /// Ends without removing the file, as a killed process does; for tests of the takeover.
    pub fn abandon(mut self) {
        self.lock = None;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let (Some(lock), Ok(_folder)) = (self.lock.take(), folder_lock(&self.dir)) {
            let _ = fs::remove_file(lock.path());
        }
    }
}

/// An owner that does not live any more. Holding this is the right to clear up after it.
#[derive(Debug)]
pub struct DeadOwner {
    /// Who it was.
    pub id: OwnerId,
    /// What it said of itself, if that can be read.
    pub info: Option<OwnerInfo>,
    lock: FileLock,
    dir: DataDir,
}

impl DeadOwner {
    /// Everything that it left is gone: forget it.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn forget(self) -> Result<(), StoreError> {
        let _folder = folder_lock(&self.dir)?;
        fs::remove_file(self.lock.path()).map_err(file("remove", self.lock.path()))
    }
}

/// The dead owners that nobody else is clearing up after. May block the thread for a short time.
///
/// # Errors
/// [`StoreError::File`].
pub fn dead_owners(dir: &DataDir) -> Result<Vec<DeadOwner>, StoreError> {
    for (id, info) in living_owners(dir)? {
        if info.is_some_and(|info| info.is_gone()) {
            FileLock::wait(&path_of(dir, &id), STARTING)?;
        }
    }
    let _folder = folder_lock(dir)?;
    let mut dead = Vec::new();
    for (id, path) in owner_files(dir)? {
        let Some(lock) = FileLock::try_exclusive(&path)? else {
            continue;
        };
        dead.push(DeadOwner {
            id,
            info: read_info(&path),
            lock,
            dir: dir.clone(),
        });
    }
    Ok(dead)
}

/// The owners that live (or are being cleared up after).
///
/// # Errors
/// [`StoreError::File`].
pub fn living_owners(dir: &DataDir) -> Result<Vec<(OwnerId, Option<OwnerInfo>)>, StoreError> {
    let _folder = folder_lock(dir)?;
    let mut living = Vec::new();
    for (id, path) in owner_files(dir)? {
        if FileLock::try_exclusive(&path)?.is_none() {
            living.push((id, read_info(&path)));
        }
    }
    Ok(living)
}

fn folder_lock(dir: &DataDir) -> Result<FileLock, StoreError> {
    FileLock::exclusive(&dir.root().join(".owners"))
}

fn path_of(dir: &DataDir, id: &OwnerId) -> PathBuf {
    dir.owners().join(format!("{id}.lock"))
}

fn owner_files(dir: &DataDir) -> Result<Vec<(OwnerId, PathBuf)>, StoreError> {
    let folder = dir.owners();
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(file("list", &folder))? {
        let path = entry.map_err(file("list", &folder))?.path();
        let id = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".lock"));
        if let Some(id) = id.and_then(OwnerId::parse) {
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found)
}

fn read_info(path: &Path) -> Option<OwnerInfo> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::dir;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_lock_says_who_lives() {
        let (_tmp, dir) = dir();
        let a = Owner::register(&dir, "omnirun a").unwrap();
        let b = Owner::register(&dir, "omnirun b").unwrap();
        let b_id = b.id().clone();
        assert!(dead_owners(&dir).unwrap().is_empty());
        assert_eq!(living_owners(&dir).unwrap().len(), 2);

        b.abandon();
        let mut dead = dead_owners(&dir).unwrap();
        assert_eq!(dead.len(), 1);
        let b = dead.remove(0);
        assert_eq!(
            (b.id.clone(), b.info.as_ref().unwrap().command.as_str()),
            (b_id, "omnirun b")
        );
        // While one process clears up after it, no other does.
        assert!(dead_owners(&dir).unwrap().is_empty());
        b.forget().unwrap();
        assert_eq!(living_owners(&dir).unwrap().len(), 1);

        drop(a);
        assert!(owner_files(&dir).unwrap().is_empty());
    }

    #[test]
    fn a_copy_of_a_killed_owner_is_waited_for() {
        let (_tmp, dir) = dir();
        let owner = Owner::register(&dir, "x").unwrap();
        let file = path_of(&dir, owner.id());
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let info = OwnerInfo {
            pid: gone.id(),
            ..OwnerInfo::of_this_process("x")
        };
        fs::write(&file, serde_json::to_vec(&info).unwrap()).unwrap();
        let inode = format!(":{} ", fs::metadata(&file).unwrap().ino());
        std::thread::scope(|s| {
            let found = s.spawn(|| dead_owners(&dir).unwrap().len());
            // The second word of one who waits, see proc_locks(5).
            let waits = |line: &str| line.contains(": -> ") && line.contains(&inode);
            while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
                assert!(!found.is_finished(), "it did not wait");
                std::thread::yield_now();
            }
            owner.abandon();
            assert_eq!(found.join().unwrap(), 1);
        });
    }

    #[test]
    fn a_clearing_up_that_died_is_started_over() {
        let (_tmp, dir) = dir();
        Owner::register(&dir, "x").unwrap().abandon();
        drop(dead_owners(&dir).unwrap());
        assert_eq!(dead_owners(&dir).unwrap().len(), 1);
    }

    #[test]
    fn ids_are_checked() {
        assert!(OwnerId::parse(OwnerId::draw().unwrap().as_str()).is_some());
        for bad in ["own_", "own_../../etc", "own_0123456789abcdef0123456G", "x"] {
            assert!(OwnerId::parse(bad).is_none(), "{bad}");
        }
    }
}
