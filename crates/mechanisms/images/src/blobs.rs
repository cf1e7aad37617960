//! Files named by the digest of their bytes, written whole and never changed.
//!
//! A finished blob is read-only and has the time of modification [`STAMP`]. Whoever writes to it changes that time (or
//! its length), so a look at the inode tells whether the bytes have to be hashed again; hashing a base disk at each
//! start of a sandbox would cost more than the start.

use crate::{
    error::{ImageError, file},
    manifest::Blob,
};
use omnirun_ids::{Digest, TemplateName};
use omnirun_store::{Unfinished, sync_dir};
use rustix::fs::{Timespec, Timestamps};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The time of modification of a blob whose bytes were checked, in seconds since 1970.
const STAMP: i64 = 1_000_000_000;

/// The folder of blobs.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    pub(crate) fn open(folder: PathBuf) -> Result<Self, ImageError> {
        private_folder(&folder)?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.as_str())
    }

    /// Stores bytes.
    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<Blob, ImageError> {
        let digest = Digest::from(<[u8; 32]>::from(Sha256::digest(bytes)));
        let unfinished = Unfinished::create(&self.path(&digest))?;
        unfinished
            .as_file()
            .write_all(bytes)
            .map_err(file("write", unfinished.path()))?;
        self.adopt(unfinished.path(), digest, bytes.len() as u64)
    }

    /// Stores a file of the same file system by moving it. `seen` hears how many bytes have been hashed.
    pub(crate) fn put_file(&self, path: &Path, seen: impl FnMut(u64)) -> Result<Blob, ImageError> {
        let (digest, bytes) = hash(path, seen)?;
        self.adopt(path, digest, bytes)
    }

    fn adopt(&self, path: &Path, digest: Digest, bytes: u64) -> Result<Blob, ImageError> {
        let f = fs::File::open(path).map_err(file("open", path))?;
        f.set_permissions(fs::Permissions::from_mode(0o400))
            .map_err(file("make read-only", path))?;
        stamp(&f, path)?;
        f.sync_all().map_err(file("sync", path))?;
        fs::rename(path, self.path(&digest)).map_err(file("rename", path))?;
        sync_dir(&self.folder)?;
        Ok(Blob { digest, bytes })
    }

    /// Whether a blob is there and whole.
    pub(crate) fn check(
        &self,
        template: &TemplateName,
        what: &'static str,
        blob: &Blob,
    ) -> Result<PathBuf, ImageError> {
        let path = self.path(&blob.digest);
        let damaged = |damage| ImageError::DamagedBlob {
            template: template.clone(),
            what,
            path: path.clone(),
            damage,
        };
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(damaged("missing")),
            Err(e) => return Err(file("stat", &path)(e)),
        };
        if meta.len() != blob.bytes {
            return Err(damaged("not as long as it was"));
        }
        if meta.mtime() != STAMP || meta.mtime_nsec() != 0 {
            self.verify(template, what, blob)?;
            let f = fs::File::open(&path).map_err(file("open", &path))?;
            stamp(&f, &path)?;
        }
        Ok(path)
    }

    /// Hashes a blob, whatever its inode says.
    pub(crate) fn verify(
        &self,
        template: &TemplateName,
        what: &'static str,
        blob: &Blob,
    ) -> Result<(), ImageError> {
        let path = self.path(&blob.digest);
        let damage = match hash(&path, |_| {}) {
            Ok((digest, _)) if digest == blob.digest => return Ok(()),
            Ok(_) => "not what it was",
            Err(ImageError::File { source, .. }) if source.kind() == ErrorKind::NotFound => "missing",
            Err(other) => return Err(other),
        };
        Err(ImageError::DamagedBlob {
            template: template.clone(),
            what,
            path,
            damage,
        })
    }

    /// Removes every blob that is not in `keep`; returns names and sizes. Files that are being written stay: if nobody
    /// writes them any more, `DataDir::sweep_unfinished` knows.
    pub(crate) fn retain(&self, keep: &BTreeSet<Digest>) -> Result<Vec<(String, u64)>, ImageError> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(file("list", &self.folder))? {
            let entry = entry.map_err(file("list", &self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let surplus = name.parse::<Digest>().is_ok_and(|digest| !keep.contains(&digest));
            if !surplus {
                continue;
            }
            let bytes = entry.metadata().map_err(file("stat", entry.path()))?.len();
            fs::remove_file(entry.path()).map_err(file("remove", entry.path()))?;
            removed.push((name, bytes));
        }
        removed.sort();
        Ok(removed)
    }
}

fn stamp(f: &fs::File, path: &Path) -> Result<(), ImageError> {
    let time = Timespec {
        tv_sec: STAMP,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(f, &times).map_err(|e| file("set the time of", path)(e.into()))
}

fn hash(path: &Path, mut seen: impl FnMut(u64)) -> Result<(Digest, u64), ImageError> {
    let mut f = fs::File::open(path).map_err(file("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match f.read(&mut buffer).map_err(file("read", path))? {
            0 => return Ok((Digest::from(<[u8; 32]>::from(hasher.finalize())), bytes)),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
                seen(bytes);
            }
        }
    }
}

/// Makes a folder that nobody else may look into.
pub(crate) fn private_folder(path: &Path) -> Result<(), ImageError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(file("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        (dir, blobs)
    }

    #[test]
    fn a_changed_blob_is_found_out() {
        let (_dir, blobs) = blobs();
        let name = "t".parse().unwrap();
        let blob = blobs.put_bytes(b"kernel").unwrap();
        let path = blobs.check(&name, "kernel", &blob).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o400);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"KERNEL").unwrap();
        let error = blobs.check(&name, "kernel", &blob).unwrap_err().to_string();
        assert!(
            error.contains("not what it was") && error.contains("--force t"),
            "{error}"
        );
        fs::write(&path, b"kern").unwrap();
        assert!(
            blobs
                .check(&name, "kernel", &blob)
                .unwrap_err()
                .to_string()
                .contains("not as long")
        );
        fs::remove_file(&path).unwrap();
        assert!(
            blobs
                .check(&name, "kernel", &blob)
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }

    #[test]
    fn a_copied_blob_is_good_once_hashed() {
        let (dir, blobs) = blobs();
        let source = dir.path().join("base");
        fs::write(&source, b"base").unwrap();
        let blob = blobs.put_file(&source, |_| {}).unwrap();
        assert!(!source.exists());
        let path = blobs.path(&blob.digest);
        let f = fs::File::open(&path).unwrap();
        f.set_modified(std::time::SystemTime::now()).unwrap();
        blobs.check(&"t".parse().unwrap(), "base", &blob).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), STAMP);
    }

    #[test]
    fn many_store_the_same_bytes_at_once() {
        let (_dir, blobs) = blobs();
        let bytes = vec![7u8; 3 << 20];
        let stored: Vec<Blob> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4)
                .map(|_| s.spawn(|| blobs.put_bytes(&bytes).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for blob in &stored {
            blobs.verify(&"t".parse().unwrap(), "initramfs", blob).unwrap();
        }
        assert_eq!(fs::read_dir(&blobs.folder).unwrap().count(), 1);
    }

    #[test]
    fn what_nobody_names_goes() {
        let (_dir, blobs) = blobs();
        let kept = blobs.put_bytes(b"kept").unwrap();
        blobs.put_bytes(b"gone").unwrap();
        let writing = Unfinished::create(&blobs.folder.join("x")).unwrap();
        let removed = blobs.retain(&[kept.digest.clone()].into()).unwrap();
        assert_eq!(removed.len(), 1);
        assert!(writing.path().exists());
        assert!(blobs.path(&kept.digest).exists());
    }
}
