//! A sandbox's own snapshot: files that one sandbox is restored from, once.
//!
//! They are authenticated as a template's are, and say in their manifest whose they are: the caller's `binding`, which
//! names him and a generation that never comes again, and the disk as it was when its VM had ended. A disk that was
//! written to since is another one: the file system in this memory would write over it what it believes to be there.

use super::{
    Found, SnapshotError, SnapshotKey,
    manifest::{MacKey, read_sealed, seal},
    record::FileRecord,
    store::{SnapshotStore, unwrap_file, write_manifest},
};
use omnirun_ids::{ByteSize, Digest};
use omnirun_store::sync_dir;
use rustix::fs::{Stat, fstat, stat};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

/// What sets these manifests apart from a template's.
const LABEL: &str = "omnirun suspended sandbox\0";
const VERSION: u32 = 1;

/// A disk, as far as its being written to shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    device: u64,
    inode: u64,
    bytes: i64,
    mtime: (i64, i64),
}

impl From<Stat> for Disk {
    fn from(stat: Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: stat.st_size,
            mtime: (stat.st_mtime, i64::from(stat.st_mtime_nsec as u32)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    key: SnapshotKey,
    binding: String,
    disk: Disk,
    memory: FileRecord,
    state: FileRecord,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::File { step, path, source }
}

fn damaged(what: &str) -> SnapshotError {
    SnapshotError::Damaged {
        name: "of a suspended sandbox".to_owned(),
        what: what.to_owned(),
    }
}

fn record(key: &MacKey, path: &Path) -> Result<FileRecord, SnapshotError> {
    FileRecord::lasting(key, path)?.ok_or_else(|| damaged("a file of it is no plain file"))
}

impl SnapshotStore {
    /// Authenticates what a machine has written into a folder (`memory` and `state`, fsynced), now that its VM and with
    /// it all that could change them has ended, and moves the folder. Says how much it occupies.
    pub(crate) fn seal_suspended(
        &self,
        folder: &Path,
        key: SnapshotKey,
        binding: &str,
        disk: &Path,
        to: &Path,
    ) -> Result<ByteSize, SnapshotError> {
        let memory = record(&self.key, &folder.join("memory"))?;
        let state = record(&self.key, &folder.join("state"))?;
        let manifest = Manifest {
            version: VERSION,
            key,
            binding: binding.to_owned(),
            disk: stat(disk).map_err(|e| failed("stat", disk)(e.into()))?.into(),
            memory,
            state,
        };
        write_manifest(&folder.join("manifest.json"), &seal(LABEL, &manifest, &self.key))?;
        let mut bytes = 0;
        for file in ["memory", "state", "manifest.json"] {
            let path = folder.join(file);
            bytes += fs::metadata(&path).map_err(failed("stat", &path))?.blocks() * 512;
        }
        fs::rename(folder, to).map_err(failed("move", folder))?;
        sync_dir(to.parent().unwrap_or(to)).map_err(unwrap_file)?;
        Ok(ByteSize(bytes))
    }

    /// Looks whether a folder holds what was sealed for this key and binding, and this disk.
    pub(crate) fn find_suspended(
        &self,
        folder: &Path,
        key: &SnapshotKey,
        binding: &str,
        disk: impl AsFd,
    ) -> Result<Found, SnapshotError> {
        let path = folder.join("manifest.json");
        let manifest: Manifest = read_sealed(LABEL, &path, "of a suspended sandbox", &self.key)?
            .ok_or_else(|| damaged("it has no manifest"))?;
        let disk = fstat(disk).map_err(|e| failed("stat the disk of", folder)(e.into()))?;
        if manifest.version != VERSION {
            return Err(damaged("its manifest is of another version"));
        }
        if manifest.binding != binding {
            return Err(damaged("it is another one's"));
        }
        if manifest.disk != disk.into() {
            return Err(damaged("its disk has been written to since"));
        }
        if manifest.key != *key {
            return Err(damaged(
                "it was made by another VMM, on another host, of another image or size",
            ));
        }
        for (file, record) in [("memory", &manifest.memory), ("state", &manifest.state)] {
            let path = folder.join(file);
            if record.looks_like(&path)? {
                continue;
            }
            let now = FileRecord::of(&self.key, &path)?;
            if now.is_none_or(|now| (now.bytes, &now.digest) != (record.bytes, &record.digest)) {
                return Err(damaged("a file of it is not what was written"));
            }
        }
        Ok(Found {
            digest: Digest::from([0; 32]),
            memory: folder.join("memory"),
            state: folder.join("state"),
            created_ms: 0,
            records: [manifest.memory, manifest.state],
        })
    }
}
