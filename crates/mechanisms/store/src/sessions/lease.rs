//! The lease of a session on this host: which process serves it.
//!
//! A `flock` on `sessions/<hash>/lease`. The file goes with the session, so whoever has locked it looks whether the
//! path still names the file that it locked: a waiter may have opened the one that was just removed.

use super::{SessionHash, Sessions};
use crate::{StoreError, error::file, now_ms};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// A look at who holds a lease takes it for microseconds, and so does the moment between fork and exec of a child.
/// So long a taker tries again before it believes that somebody serves the session.
const BRIEF: Duration = Duration::from_millis(100);

/// Who serves a session, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id; not a proof of anything.
    pub pid: u32,
    /// Since when, ms since the epoch.
    pub since_ms: i64,
}

/// The right to change a session: this process serves it. Ends when dropped, or with the process.
#[derive(Debug)]
pub struct Lease {
    file: File,
    folder: PathBuf,
    hash: SessionHash,
}

impl Lease {
    /// Whose it is.
    pub fn hash(&self) -> &SessionHash {
        &self.hash
    }

    /// The session's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Closing would do, but for a child that is between fork and exec just now and has a copy.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Sessions {
    /// Takes the lease of a session, unless another process (or another part of this one) has it: then `None`.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn lease(&self, hash: &SessionHash) -> Result<Option<Lease>, StoreError> {
        let folder = self.folder(hash);
        let path = folder.join("lease");
        let start = std::time::Instant::now();
        loop {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(file("create", &folder)(e)),
                _ => {}
            }
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path);
            let mut f = match opened {
                // Its last holder removed the folder just now.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                other => other.map_err(file("open", &path))?,
            };
            match flock(&f, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < BRIEF => {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(file("lock", &path)(e.into())),
            }
            if !same_file(&f, &path)? {
                continue;
            }
            let holder = Holder {
                pid: std::process::id(),
                since_ms: now_ms(),
            };
            let text = serde_json::to_vec(&holder).unwrap_or_default();
            f.set_len(0)
                .and_then(|()| f.write_all(&text))
                .map_err(file("write", &path))?;
            return Ok(Some(Lease {
                file: f,
                folder,
                hash: hash.clone(),
            }));
        }
    }

    /// Who holds the lease of a session now; for people, it may have changed when this returns.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn holder(&self, hash: &SessionHash) -> Result<Option<Holder>, StoreError> {
        let path = self.folder(hash).join("lease");
        let f = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(file("open", &path))?,
        };
        match flock(&f, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = flock(&f, FlockOperation::Unlock);
                Ok(None)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = fs::read(&path).unwrap_or_default();
                Ok(Some(
                    serde_json::from_slice(&text).unwrap_or(Holder { pid: 0, since_ms: 0 }),
                ))
            }
            Err(e) => Err(file("lock", &path)(e.into())),
        }
    }
}

fn same_file(f: &File, path: &Path) -> Result<bool, StoreError> {
    let held = f.metadata().map_err(file("stat", path))?;
    match fs::metadata(path) {
        Ok(there) => Ok((held.dev(), held.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(file("stat", path)(e)),
    }
}
