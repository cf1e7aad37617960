//! The folder of snapshots.

use super::{
    Notice, SnapshotError, SnapshotKey,
    found::{Found, Lookup},
    manifest::{MacKey, Manifest},
    record::FileRecord,
};
use omnirun_ids::{ByteSize, Digest};
use omnirun_store::{DataDir, FileLock, OwnerId, StoreError, now_ms, sync_dir, write_atomic};
use omnirun_vmm::MachineSize;
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How much may be kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// Bytes on disk, all snapshots together; the longest unused go first.
    pub budget: ByteSize,
    /// A snapshot older than this is made anew: clones share the kernel's secrets of their snapshot.
    pub max_age: Duration,
}

impl Default for SnapshotLimits {
    fn default() -> Self {
        Self {
            budget: ByteSize::gib(20),
            max_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A snapshot, as a person may want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name: the key's digest.
    pub name: String,
    /// Bytes on disk.
    pub bytes: ByteSize,
    /// When it was last used by a process that started.
    pub last_use: SystemTime,
}

#[derive(Debug, Clone)]
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    data: DataDir,
    owner: OwnerId,
    pub(super) key: MacKey,
    limits: SnapshotLimits,
}

impl SnapshotStore {
    pub(crate) fn open(
        data: &DataDir,
        owner: &OwnerId,
        limits: SnapshotLimits,
    ) -> Result<Self, SnapshotError> {
        let key = MacKey::load_or_create(&data.snapshot_key())?;
        Ok(Self {
            dir: data.snapshots(),
            data: data.clone(),
            owner: owner.clone(),
            key,
            limits,
        })
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.as_str())
    }

    /// The lock of those who make, replace or evict this snapshot.
    pub(crate) fn try_lock(&self, digest: &Digest) -> Result<Option<FileLock>, StoreError> {
        FileLock::try_exclusive(&self.dir.join(format!("{digest}.lock")))
    }

    /// Looks for a snapshot. Cheap if it looks as recorded; else its files are read whole.
    pub(crate) fn look(&self, key: &SnapshotKey, thorough: bool) -> Result<Lookup, SnapshotError> {
        match self.check(key, thorough) {
            Ok(None) => Ok(Lookup::Missing),
            Ok(Some(found)) if self.too_old(found.created_ms) => {
                let days = self.limits.max_age.as_secs() / 86_400;
                Ok(Lookup::Useless {
                    reason: format!("the snapshot is more than {days} days old"),
                })
            }
            Ok(Some(found)) => Ok(Lookup::Good(found)),
            Err(SnapshotError::Damaged { name, what }) => {
                let short = name.get(..12).unwrap_or(&name);
                Ok(Lookup::Useless {
                    reason: format!("snapshot {short} is damaged ({what})"),
                })
            }
            // A file of it is missing.
            Err(SnapshotError::File { path, source, .. }) if source.kind() == ErrorKind::NotFound => {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Ok(Lookup::Useless {
                    reason: format!("the snapshot has lost its file {name}"),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a snapshot made then is due to be made anew.
    pub(crate) fn too_old(&self, created_ms: i64) -> bool {
        let age = now_ms().saturating_sub(created_ms);
        // A clock that went back makes it neither old nor young.
        u64::try_from(age).is_ok_and(|age| Duration::from_millis(age) >= self.limits.max_age)
    }

    fn check(&self, key: &SnapshotKey, thorough: bool) -> Result<Option<Found>, SnapshotError> {
        let digest = key.digest();
        let folder = self.folder(&digest);
        let path = folder.join("manifest.json");
        let name = digest.as_str();
        let damaged = |what: String| SnapshotError::Damaged {
            name: name.to_owned(),
            what,
        };
        let Some(mut manifest) = Manifest::read(&path, name, &self.key)? else {
            // A folder without a manifest was never renamed into place by us.
            let there = fs::symlink_metadata(&folder).is_ok();
            return if there {
                Err(damaged("it has no manifest".to_owned()))
            } else {
                Ok(None)
            };
        };
        if manifest.key != *key {
            return Err(damaged("it is another snapshot's".to_owned()));
        }
        let mut changed = false;
        for (file, record) in [("memory", &mut manifest.memory), ("state", &mut manifest.state)] {
            let path = folder.join(file);
            if record.looks_like(&path)? && !thorough {
                continue;
            }
            let plain = || damaged(format!("{file} is no plain file"));
            let mut now = FileRecord::of(&self.key, &path)?.ok_or_else(plain)?;
            if now.bytes != record.bytes {
                return Err(damaged(format!(
                    "{file} has {} bytes instead of {}",
                    now.bytes, record.bytes
                )));
            }
            if now.digest != record.digest {
                return Err(damaged(format!("{file} is not what was written")));
            }
            if now != *record {
                let digest = now.digest;
                now = FileRecord::lasting(&self.key, &path)?.ok_or_else(plain)?;
                if now.digest != digest {
                    return Err(damaged(format!("{file} changes while it is read")));
                }
                changed = true;
            }
            *record = now;
        }
        if changed {
            write_manifest(&path, &manifest.seal(&self.key))?;
        }
        Ok(Some(Found {
            memory: folder.join("memory"),
            state: folder.join("state"),
            created_ms: manifest.created_ms,
            digest,
            records: [manifest.memory, manifest.state],
        }))
    }

    /// Notes that a snapshot is used: the folder's mtime is what eviction goes by.
    pub(crate) fn touch(&self, digest: &Digest) {
        let now = SystemTime::now();
        if let Ok(folder) = File::open(self.folder(digest)) {
            let _ = folder.set_modified(now);
        }
    }

    /// Authenticates what a boot has written to `made` (`memory` and `state`, fsynced) and puts it into place.
    pub(crate) fn publish(&self, key: &SnapshotKey, made: &Path) -> Result<Found, SnapshotError> {
        let digest = key.digest();
        let record = |file: &str| {
            let record = FileRecord::lasting(&self.key, &made.join(file))?;
            record.ok_or_else(|| SnapshotError::Damaged {
                name: digest.short().to_owned(),
                what: format!("{file} is no plain file"),
            })
        };
        let (memory, state) = (record("memory")?, record("state")?);
        let created_ms = now_ms();
        let manifest = Manifest::new(key.clone(), created_ms, memory, state);
        write_manifest(&made.join("manifest.json"), &manifest.seal(&self.key))?;
        let folder = self.folder(&digest);
        match fs::rename(made, &folder) {
            Ok(()) => {}
            // Somebody was faster, lock or no lock: theirs is as good.
            Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
            Err(source) => {
                return Err(SnapshotError::File {
                    step: "rename",
                    path: made.to_owned(),
                    source,
                });
            }
        }
        sync_dir(&self.dir).map_err(unwrap_file)?;
        match self.look(key, false)? {
            Lookup::Good(found) => Ok(found),
            _ => Err(SnapshotError::Damaged {
                name: digest.to_string(),
                what: "just made".to_owned(),
            }),
        }
    }

    /// Makes a snapshot so much older.
    #[cfg(test)]
    pub(crate) fn age(&self, digest: &Digest, by: Duration) -> Result<(), SnapshotError> {
        let path = self.folder(digest).join("manifest.json");
        if let Some(mut manifest) = Manifest::read(&path, digest.as_str(), &self.key)? {
            manifest.created_ms -= i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            write_manifest(&path, &manifest.seal(&self.key))?;
        }
        Ok(())
    }

    /// Removes a snapshot. Who has it open keeps it. Moved aside first, so that nobody sees half of one.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), SnapshotError> {
        let folder = self.folder(digest);
        let aside = self
            .data
            .tmp()
            .join(format!("snapshot-{}.{}", digest.short(), self.owner));
        let err = |step, path: &Path| {
            let path = path.to_owned();
            move |source| SnapshotError::File { step, path, source }
        };
        let _ = remove_all(&aside);
        match fs::rename(&folder, &aside) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(err("move", &folder)(e)),
        }
        remove_all(&aside).map_err(err("remove", &aside))
    }

    /// Refuses to begin a boot that cannot end: its memory has to fit on the disk.
    pub(crate) fn check_space(&self, memory: ByteSize) -> Result<(), SnapshotError> {
        // What a booted and warmed guest has touched; more memory is not touched more.
        let needed = memory.min(ByteSize::mib(512));
        let free = ByteSize(self.data.free_bytes().map_err(unwrap_file)?);
        if free < needed {
            return Err(SnapshotError::NoSpace {
                path: self.dir.clone(),
                free,
                needed,
            });
        }
        Ok(())
    }

    /// All snapshots, the longest unused first.
    pub(crate) fn list(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let err = |source| SnapshotError::File {
            step: "list",
            path: self.dir.clone(),
            source,
        };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(err)? {
            let entry = entry.map_err(err)?;
            let Some(name) = entry.file_name().to_str().and_then(|n| n.parse::<Digest>().ok()) else {
                continue;
            };
            // It may go while we look.
            let Ok(meta) = entry.metadata() else { continue };
            let blocks = |file| fs::metadata(entry.path().join(file)).map_or(0, |m| m.blocks() * 512);
            all.push(SnapshotInfo {
                name: name.to_string(),
                bytes: ByteSize(blocks("memory") + blocks("state")),
                last_use: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        all.sort_by_key(|s| s.last_use);
        Ok(all)
    }

    /// The machine of a snapshot that differs from this key in its size alone, if there is one; the last used.
    pub(crate) fn ready_size(&self, key: &SnapshotKey) -> Result<Option<MachineSize>, SnapshotError> {
        for info in self.list()?.iter().rev() {
            let path = self.dir.join(&info.name).join("manifest.json");
            // One that is bad, or goes just now, is none to look for.
            let Ok(Some(found)) = Manifest::read(&path, &info.name, &self.key) else {
                continue;
            };
            let wanted = SnapshotKey {
                vcpus: found.key.vcpus,
                memory_mib: found.key.memory_mib,
                ..key.clone()
            };
            if found.key == wanted && !self.too_old(found.created_ms) {
                return Ok(Some(MachineSize {
                    vcpus: wanted.vcpus,
                    memory_mib: wanted.memory_mib,
                }));
            }
        }
        Ok(None)
    }

    /// Removes the longest unused until the rest fits the budget; never `keep`, nor one that somebody makes just now.
    pub(crate) fn evict(&self, keep: &Digest) -> Result<Vec<Notice>, SnapshotError> {
        let all = self.list()?;
        let mut total: u64 = all.iter().map(|s| s.bytes.0).sum();
        let mut gone = Vec::new();
        for snapshot in all {
            if total <= self.limits.budget.0 {
                break;
            }
            let Ok(digest) = snapshot.name.parse::<Digest>() else {
                continue;
            };
            if digest == *keep {
                continue;
            }
            let Some(lock) = self.try_lock(&digest).map_err(unwrap_file)? else {
                continue;
            };
            self.remove(&digest)?;
            let _ = fs::remove_file(lock.path());
            total = total.saturating_sub(snapshot.bytes.0);
            gone.push(Notice::Evicted {
                name: digest.short().to_owned(),
                bytes: snapshot.bytes,
            });
        }
        Ok(gone)
    }
}

/// A folder with all that is in it; or whatever is there in its place.
fn remove_all(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

pub(super) fn write_manifest(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    write_atomic(path, bytes).map_err(unwrap_file)
}

/// The store's file errors are this module's.
pub(super) fn unwrap_file(error: StoreError) -> SnapshotError {
    match error {
        StoreError::File { step, path, source } => SnapshotError::File { step, path, source },
        other => SnapshotError::File {
            step: "use",
            path: PathBuf::from("the data folder"),
            source: std::io::Error::other(other),
        },
    }
}

#[cfg(test)]
mod tests;
