//! Small files replaced whole, and advisory locks on files.

use crate::error::{StoreError, file};
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How the names of files end that are being written.
const UNFINISHED: &str = ".new";

/// Replaces a small file atomically and durably: whoever reads sees the old bytes or the new ones. Mode 0600.
///
/// # Errors
/// [`StoreError::File`]; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let new = Unfinished::create(path)?;
    new.as_file()
        .write_all(bytes)
        .and_then(|()| new.as_file().sync_all())
        .map_err(file("write", new.path()))?;
    fs::rename(new.path(), path).map_err(file("rename", new.path()))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// A file that is being written beside the place that it is for, under a name of its own. Whoever has written it whole
/// renames or links it; what is still under that name when this is dropped goes. It is locked, so that
/// [`DataDir::sweep_unfinished`](crate::DataDir::sweep_unfinished) can tell what a killed process left.
#[derive(Debug)]
pub struct Unfinished(FileLock);

impl Unfinished {
    /// Makes the file, mode 0600.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn create(place: &Path) -> Result<Self, StoreError> {
        loop {
            let mut random = [0u8; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(|e| file("draw a name beside", place)(e.into()))?;
            let mut name = place.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}{UNFINISHED}", hex::encode(random)));
            let lock = FileLock::exclusive(&place.with_file_name(name))?;
            let links = lock.file.metadata().map_err(file("stat", &lock.path))?.nlink();
            // Nobody but a sweep between the making and the locking removes it.
            if links > 0 {
                return Ok(Self(lock));
            }
        }
    }

    /// The file.
    pub fn as_file(&self) -> &File {
        self.0.as_file()
    }

    /// Its name for now.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path());
    }
}

/// The files in a folder that processes were writing when they were killed, locked.
fn abandoned(folder: &Path) -> impl Iterator<Item = (PathBuf, File)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().ends_with(UNFINISHED) && p.is_file());
    named.filter_map(|path| {
        let file = File::open(&path).ok()?;
        file.try_lock().is_ok().then_some((path, file))
    })
}

/// The files in a folder that processes were writing when they were killed.
pub(crate) fn unfinished(folder: &Path) -> Vec<PathBuf> {
    abandoned(folder).map(|(path, _)| path).collect()
}

/// Removes them; returns their paths.
pub(crate) fn sweep_unfinished(folder: &Path) -> Vec<PathBuf> {
    // Names are drawn: once a writer has renamed its file, nothing comes under that name again.
    let gone = abandoned(folder).filter(|(path, _)| fs::remove_file(path).is_ok());
    gone.map(|(path, _)| path).collect()
}

/// Makes names in a directory durable.
///
/// # Errors
/// [`StoreError::File`].
pub fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(file("sync", dir))
}

/// An exclusive `flock` on a file, let go of when it is dropped or the process ends, whatever way. The file stays:
/// removing a lock file lets two holders in.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file cannot be made or locked.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, StoreError> {
        let f = Self::file(path)?;
        match f.try_lock() {
            Ok(()) => Ok(Some(Self {
                file: f,
                path: path.to_owned(),
            })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(source)) => Err(StoreError::File {
                step: "lock",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Takes the lock, waiting as long as it takes. Blocks the thread.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn exclusive(path: &Path) -> Result<Self, StoreError> {
        let f = Self::file(path)?;
        f.lock().map_err(file("lock", path))?;
        Ok(Self {
            file: f,
            path: path.to_owned(),
        })
    }

    /// Waits until nobody has the lock or there is no such file, but no longer than `bound`. Blocks the thread.
    ///
    /// # Errors
    /// [`StoreError::File`] if the file cannot be opened, or no thread be had.
    pub(crate) fn wait(path: &Path, bound: Duration) -> Result<(), StoreError> {
        let f = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(file("open", path))?,
        };
        let (tell, told) = mpsc::channel();
        // `flock` knows no bound. If it is over, the thread ends with the process, or when it has had the lock.
        let waits = move || {
            let _ = f.lock();
            drop(f);
            let _ = tell.send(());
        };
        let started = thread::Builder::new()
            .name("lock".to_owned())
            .spawn(waits)
            .map_err(file("wait for", path))?;
        if told.recv_timeout(bound).is_ok() {
            let _ = started.join();
        }
        Ok(())
    }

    fn file(path: &Path) -> Result<File, StoreError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(file("open", path))
    }

    /// The locked file.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn many_replace_one_file_and_readers_see_it_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        write_atomic(&path, b"0000").unwrap();
        std::thread::scope(|s| {
            for n in 0..4u8 {
                let path = &path;
                s.spawn(move || {
                    for _ in 0..20 {
                        write_atomic(path, &[b'0' + n; 4]).unwrap();
                        let seen = fs::read(path).unwrap();
                        assert!(seen.len() == 4 && seen.iter().all(|b| *b == seen[0]), "{seen:?}");
                    }
                });
            }
        });
        assert_eq!(names(tmp.path()), ["f"]);
    }

    #[test]
    fn a_sweep_takes_what_the_dead_were_writing_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let living = Unfinished::create(&tmp.path().join("a")).unwrap();
        // A SIGKILL leaves the name and no lock.
        let dead = tmp.path().join("b.0123456789abcdef.new");
        fs::write(&dead, "half").unwrap();
        fs::write(tmp.path().join("whole"), "whole").unwrap();
        let found = unfinished(tmp.path());
        assert_eq!(found, [dead]);
        assert_eq!(sweep_unfinished(tmp.path()), found);
        assert!(living.path().exists());
        assert!(sweep_unfinished(tmp.path()).is_empty());
        drop(living);
        assert_eq!(names(tmp.path()), ["whole"]);
        assert!(sweep_unfinished(&tmp.path().join("nowhere")).is_empty());
    }
}
