//! A build's own folder, and who cleans up after a build that was killed.
//!
//! ```text
//!   tmp/build-<random>.lock   held shared by the builder and by everything it started, until the last of them is gone
//!   tmp/build-<random>/       the work
//! ```
//!
//! The lock file is made before the folder and removed after it, so a folder without a lock file cannot be. Whoever
//! gets the lock exclusively knows that nobody is left who could write to the folder.

use super::namespace::Namespace;
use crate::{
    blobs::private_folder,
    error::{ImageError, file},
};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const PREFIX: &str = "build-";
const SUFFIX: &str = ".lock";

/// How long a cancelled build waits for what it started to be gone. Their namespace is being killed: it is a matter of
/// milliseconds, unless the machine hangs; then the next command cleans up.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A build's folder; removed when dropped.
#[derive(Debug)]
pub(crate) struct BuildDir {
    path: PathBuf,
    lock_path: PathBuf,
    lock: fs::File,
}

impl BuildDir {
    pub(crate) fn create(tmp: &Path) -> Result<Self, ImageError> {
        private_folder(tmp)?;
        loop {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(|e| file("draw a name in", tmp)(e.into()))?;
            let name = format!("{PREFIX}{}", hex::encode(random));
            let lock_path = tmp.join(format!("{name}{SUFFIX}"));
            let lock = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&lock_path)
                .map_err(file("create", &lock_path))?;
            lock.lock_shared().map_err(file("lock", &lock_path))?;
            // Someone who swept between the two lines above has removed the file.
            if lock.metadata().map_err(file("stat", &lock_path))?.nlink() == 0 {
                continue;
            }
            let path = tmp.join(name);
            private_folder(&path)?;
            return Ok(Self {
                path,
                lock_path,
                lock,
            });
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What children lock, shared, for as long as they live.
    pub(crate) fn lock_path(&self) -> &Path {
        &self.lock_path
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_WAIT;
        let _ = self.lock.unlock();
        while self.lock.try_lock().is_err() {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        match remove_tree(&self.path) {
            Ok(()) => {
                let _ = fs::remove_file(&self.lock_path);
            }
            // The next command tries again.
            Err(error) => {
                tracing::warn!(folder = %self.path.display(), error = %error, "cannot remove a build's folder");
            }
        }
    }
}

/// Removes what killed builds left in the folder for work in progress, and says what it was. Idempotent; leaves living
/// builds alone.
pub fn sweep(tmp: &Path) -> Vec<String> {
    let mut removed = Vec::new();
    for Dead {
        folder, lock_path, ..
    } in dead(tmp)
    {
        let was_there = folder.exists();
        match remove_tree(&folder) {
            Ok(()) => {
                let _ = fs::remove_file(lock_path);
                removed.extend(was_there.then(|| describe(&folder)));
            }
            Err(error) => tracing::warn!(
                folder = %folder.display(),
                error = %error,
                "cannot remove what an interrupted image build left"
            ),
        }
    }
    removed.sort();
    removed
}

/// What [`sweep`] would remove.
pub fn look(tmp: &Path) -> Vec<String> {
    let folders = dead(tmp).map(|dead| dead.folder).filter(|f| f.exists());
    let mut found: Vec<_> = folders.map(|f| describe(&f)).collect();
    found.sort();
    found
}

fn describe(folder: &Path) -> String {
    format!("the folder of an interrupted image build, {}", folder.display())
}

/// A build of which nobody lives any more. Nobody else cleans up after it while this is held.
struct Dead {
    folder: PathBuf,
    lock_path: PathBuf,
    _lock: fs::File,
}

fn dead(tmp: &Path) -> impl Iterator<Item = Dead> {
    let entries = fs::read_dir(tmp).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let name = file_name.strip_suffix(SUFFIX).filter(|n| n.starts_with(PREFIX))?;
        let lock = fs::File::open(entry.path()).ok()?;
        lock.try_lock().ok()?;
        Some(Dead {
            folder: entry.path().with_file_name(name),
            lock_path: entry.path(),
            _lock: lock,
        })
    })
}

/// Removes a tree that may hold files of other users of this user's namespace.
fn remove_tree(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) if rustix::process::geteuid().is_root() => Err(file("remove", path)(e)),
        // Folders of others, which this user may not even look into.
        Err(_) => Namespace::detect()?.remove_tree(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(tmp: &Path) -> usize {
        fs::read_dir(tmp).unwrap().count()
    }

    #[test]
    fn a_build_cleans_up_after_itself() {
        let tmp = tempfile::tempdir().unwrap();
        let build = BuildDir::create(tmp.path()).unwrap();
        fs::create_dir_all(build.path().join("a/b")).unwrap();
        drop(build);
        assert_eq!(entries(tmp.path()), 0);
    }

    #[test]
    fn a_living_build_is_left_alone_and_a_dead_one_is_swept() {
        let tmp = tempfile::tempdir().unwrap();
        let living = BuildDir::create(tmp.path()).unwrap();
        // What a SIGKILL leaves: both names, and no lock.
        fs::write(tmp.path().join("build-dead.lock"), "").unwrap();
        fs::create_dir_all(tmp.path().join("build-dead/root/etc")).unwrap();
        // And one that died before it had made its folder.
        fs::write(tmp.path().join("build-early.lock"), "").unwrap();
        fs::write(tmp.path().join("somebody-elses"), "").unwrap();

        let found = look(tmp.path());
        let removed = sweep(tmp.path());
        assert_eq!(removed.len(), 1, "{removed:?}");
        assert_eq!(found, removed);
        assert!(removed[0].contains("build-dead"));
        assert!(living.path().exists() && tmp.path().join("somebody-elses").exists());
        assert_eq!(entries(tmp.path()), 3);
        assert!(sweep(tmp.path()).is_empty());
    }

    #[test]
    fn a_folder_is_not_swept_while_a_child_of_its_dead_builder_lives() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("build-x.lock"), "").unwrap();
        fs::create_dir(tmp.path().join("build-x")).unwrap();
        let child = fs::File::open(tmp.path().join("build-x.lock")).unwrap();
        child.lock_shared().unwrap();
        assert!(sweep(tmp.path()).is_empty());
        drop(child);
        assert_eq!(sweep(tmp.path()).len(), 1);
    }
}
