//! The folder that Firecracker is in, who may change it, and what a killed setup leaves there.

use crate::{InstallError, error::file, release::is_version};
use omnirun_ids::Digest;
use omnirun_store::{DataDir, FileLock, living_owners, sync_dir, write_atomic};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const CURRENT: &str = "current";
const LOCK: &str = ".lock";
const WORK: &str = ".setup-";
const RECORD: &str = "installed.json";

/// What is known of an installed version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version.
    pub version: String,
    /// The architecture.
    pub arch: String,
    /// The address or path that it came from.
    pub source: String,
    /// SHA-256 of the archive, if it came as one.
    pub archive: Option<Digest>,
    /// SHA-256 of each file.
    pub files: BTreeMap<String, Digest>,
    /// When it was put in place, RFC 3339.
    pub installed: String,
}

/// The version in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// What is known of it.
    pub record: Record,
    /// The VMM.
    pub firecracker: PathBuf,
    /// Its jailer.
    pub jailer: PathBuf,
}

/// `DATA_DIR/firecracker`.
#[derive(Debug, Clone)]
pub struct Shelf {
    data: DataDir,
    root: PathBuf,
}

impl Shelf {
    /// That of a data folder. Touches nothing.
    pub fn of(data: &DataDir) -> Self {
        Self {
            data: data.clone(),
            root: data.root().join("firecracker"),
        }
    }

    /// The version in use, if one was put in place.
    ///
    /// # Errors
    /// [`InstallError::Damaged`] if what is there is not what a setup leaves.
    pub fn installed(&self) -> Result<Option<Installed>, InstallError> {
        let Some(version) = self.current()? else {
            return Ok(None);
        };
        let folder = self.root.join(&version);
        let path = folder.join(RECORD);
        let damaged = |reason: String| InstallError::Damaged {
            path: path.clone(),
            reason,
        };
        let bytes = fs::read(&path).map_err(|e| damaged(e.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let (firecracker, jailer) = (folder.join("firecracker"), folder.join("jailer"));
        if let Some(missing) = [&firecracker, &jailer].into_iter().find(|p| !p.is_file()) {
            return Err(damaged(format!("{} is missing", missing.display())));
        }
        Ok(Some(Installed {
            record,
            firecracker,
            jailer,
        }))
    }

    fn current(&self) -> Result<Option<String>, InstallError> {
        let path = self.root.join(CURRENT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file("read", path)(e)),
        };
        match text.trim() {
            version if is_version(version) => Ok(Some(version.to_owned())),
            _ => Err(InstallError::Damaged {
                path,
                reason: "it must hold a version".into(),
            }),
        }
    }

    /// Begins a setup: nobody else begins one until it is dropped.
    ///
    /// # Errors
    /// [`InstallError::Busy`] if another one is at work; [`InstallError::File`].
    pub fn begin(&self) -> Result<Staging, InstallError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(file("create", &self.root))?;
        let busy = || InstallError::Busy {
            path: self.root.clone(),
        };
        let lock = FileLock::try_exclusive(&self.root.join(LOCK))?.ok_or_else(busy)?;
        for path in self.abandoned() {
            remove(&path)?;
        }
        let work = tempfile::Builder::new()
            .prefix(WORK)
            .tempdir_in(&self.root)
            .map_err(file("make a folder in", &self.root))?;
        let staging = Staging {
            shelf: self.clone(),
            work,
            _lock: lock,
        };
        let programs = staging.programs();
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&programs)
            .map_err(file("create", &programs))?;
        Ok(staging)
    }

    /// What is in the folder and nobody needs. Only to be believed under the lock.
    fn abandoned(&self) -> Vec<PathBuf> {
        let Ok(current) = self.current() else {
            // Which version is in use is not known: a person decides.
            return Vec::new();
        };
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .map(|e| e.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let version = is_version(&name);
                let other = version && current.as_deref() != Some(&*name);
                name.starts_with(WORK)
                    || (name.starts_with(CURRENT) && name.ends_with(".new"))
                    || (other && self.nobody_owns_vms())
            })
            .collect();
        found.sort();
        found
    }

    fn nobody_owns_vms(&self) -> bool {
        living_owners(&self.data).is_ok_and(|owners| owners.is_empty())
    }
}

/// A setup at work. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staging {
    shelf: Shelf,
    // Before the lock: whoever has the lock sees no work of ours.
    work: tempfile::TempDir,
    _lock: FileLock,
}

impl Staging {
    /// Where the archive goes.
    pub(crate) fn archive(&self) -> PathBuf {
        self.work.path().join("release.tgz")
    }

    /// Where the programs go.
    pub(crate) fn programs(&self) -> PathBuf {
        self.work.path().join("programs")
    }

    /// Puts the programs in place. Their bytes are durable already.
    pub(crate) fn commit(self, record: Record) -> Result<Installed, InstallError> {
        let programs = self.programs();
        let path = programs.join(RECORD);
        let bytes = serde_json::to_vec_pretty(&record).unwrap_or_default();
        let mut out = fs::File::create_new(&path).map_err(file("create", &path))?;
        out.write_all(&bytes)
            .and_then(|()| out.sync_all())
            .map_err(file("write", &path))?;
        sync_dir(&programs)?;

        let root = &self.shelf.root;
        let place = root.join(&record.version);
        // The same version again: the old folder comes to where the new one was, and goes with it.
        let flags = match place.exists() {
            true => RenameFlags::EXCHANGE,
            false => RenameFlags::NOREPLACE,
        };
        renameat_with(CWD, &programs, CWD, &place, flags)
            .map_err(|e| file("put in place", &place)(e.into()))?;
        sync_dir(root)?;
        write_atomic(&root.join(CURRENT), format!("{}\n", record.version).as_bytes())?;
        for path in self.shelf.abandoned() {
            if path != self.work.path() {
                remove(&path)?;
            }
        }
        Ok(Installed {
            firecracker: place.join("firecracker"),
            jailer: place.join("jailer"),
            record,
        })
    }
}

/// Removes what killed setups left, and versions that nobody uses any more; says what it was. Idempotent; leaves a
/// living setup alone.
pub fn sweep(data: &DataDir) -> Vec<String> {
    let Some((shelf, _lock)) = idle(data) else {
        return Vec::new();
    };
    let found = shelf.abandoned().into_iter();
    let gone = found.filter(|path| match remove(path) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a setup left");
            false
        }
    });
    gone.map(|p| describe(&p)).collect()
}

/// What [`sweep`] would remove.
pub fn look(data: &DataDir) -> Vec<String> {
    match idle(data) {
        Some((shelf, _lock)) => shelf.abandoned().iter().map(|p| describe(p)).collect(),
        None => Vec::new(),
    }
}

/// The shelf, if there is one and no setup is at work there.
fn idle(data: &DataDir) -> Option<(Shelf, FileLock)> {
    let shelf = Shelf::of(data);
    let lock = shelf.root.join(LOCK);
    // Without a lock file no setup has ever begun here, and none is made by looking.
    lock.exists()
        .then(|| FileLock::try_exclusive(&lock).ok().flatten())
        .flatten()
        .map(|lock| (shelf, lock))
}

fn describe(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match is_version(&name) {
        true => format!("Firecracker {name}, which is not in use, {}", path.display()),
        false => format!("what an interrupted setup left, {}", path.display()),
    }
}

fn remove(path: &Path) -> Result<(), InstallError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(file("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
