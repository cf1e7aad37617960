//! Small files replaced whole, and advisory locks on files.

use crate::error::{StoreError, file};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Replaces a small file atomically and durably: whoever reads sees the old bytes or the new ones. Mode 0600.
///
/// # Errors
/// [`StoreError::File`]; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let tmp = path.with_file_name(name);
    let result =
        write_new(&tmp, bytes).and_then(|()| std::fs::rename(&tmp, path).map_err(file("rename", &tmp)));
    if result.is_err() {
        let _ = std::fs::remove_file(&tmp);
    }
    result?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn write_new(tmp: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut f = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(tmp)
        .map_err(file("create", tmp))?;
    f.write_all(bytes)
        .and_then(|()| f.sync_all())
        .map_err(file("write", tmp))
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
