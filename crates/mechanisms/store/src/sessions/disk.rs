//! The session disk as a file. The host never looks inside.

use super::{Lease, SessionHash, Sessions};
use crate::{StoreError, error::file};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// A session disk, opened and locked for one VM.
///
/// The lock is on the open file, which the VMM gets and shares: it ends when the last copy of the descriptor is
/// closed, that is when the VMM is dead. It is never unlocked by hand, since that would unlock it for all copies.
#[derive(Debug)]
pub struct AttachedDisk {
    /// The open file.
    pub file: OwnedFd,
    /// Its size.
    pub bytes: u64,
}

impl Sessions {
    /// Where the disk of a session is.
    pub fn disk_path(&self, hash: &SessionHash) -> PathBuf {
        self.folder(hash).join("disk.raw")
    }

    /// Makes the disk: `write` makes the file whose path it is given. The disk is there whole or not at all.
    ///
    /// # Errors
    /// What `write` says, or [`StoreError::File`].
    pub fn make_disk<E: From<StoreError>>(
        &self,
        lease: &Lease,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let new = lease.folder().join("disk.raw.new");
        remove_file(&new)?;
        let result = write(&new).and_then(|()| {
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
                .map_err(file("make private", &new))?;
            let disk = lease.folder().join("disk.raw");
            fs::rename(&new, &disk).map_err(file("rename", &new))?;
            Ok(())
        });
        if result.is_err() {
            remove_file(&new)?;
        }
        result
    }

    /// Opens the disk for one VM. `None` if a VM still has it, be it of this process or of one that died.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn open_disk(&self, lease: &Lease) -> Result<Option<AttachedDisk>, StoreError> {
        let path = lease.folder().join("disk.raw");
        let f = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(file("open", &path))?;
        match flock(&f, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let bytes = f.metadata().map_err(file("stat", &path))?.len();
                Ok(Some(AttachedDisk {
                    file: f.into(),
                    bytes,
                }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(file("lock", &path)(e.into())),
        }
    }

    /// Writes the disk's data to the storage below; for those who want to survive the loss of power.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn sync_disk(&self, lease: &Lease) -> Result<(), StoreError> {
        let path = lease.folder().join("disk.raw");
        File::open(&path)
            .and_then(|f| f.sync_data())
            .map_err(file("sync", &path))
    }
}

/// Bytes that a session's folder really occupies. Nothing if there is none.
pub fn allocated(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.blocks() * 512)
        .sum()
}

pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(file("remove", path)(e)),
        _ => Ok(()),
    }
}
