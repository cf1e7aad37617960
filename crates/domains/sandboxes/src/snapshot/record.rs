//! What is known of a file of a snapshot: its keyed digest, and how it looked when that was taken.

use super::{SnapshotError, manifest::MacKey};
use hmac::Mac;
use rustix::fs::{OFlags, SeekFrom};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Pieces in which files are read for their digest.
const PIECE: usize = 64 * 1024;
/// The clock of a file system's times may stand still for so long: a tick of the slowest kernels, twice.
const TICK: Duration = Duration::from_millis(20);

/// Opens a plain file to be read. `None`: there is something else, be it a link to one. Opening a pipe would wait for ever.
pub(crate) fn open_plain(path: &Path) -> io::Result<Option<File>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

fn ctime_ns(meta: &Metadata) -> i128 {
    i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec())
}

/// What a file was when it was last known to be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    /// Its keyed digest, hexadecimal.
    pub(crate) digest: String,
    pub(crate) bytes: u64,
    device: u64,
    inode: u64,
    ctime_ns: i128,
}

impl FileRecord {
    /// Reads a file and records it. `None`: it is no plain file.
    pub(crate) fn of(key: &MacKey, path: &Path) -> Result<Option<Self>, SnapshotError> {
        let err = |step| {
            move |source| SnapshotError::File {
                step,
                path: path.to_owned(),
                source,
            }
        };
        let Some(file) = open_plain(path).map_err(err("open"))? else {
            return Ok(None);
        };
        // Looked at before it is read: a change while it is read shows the next time.
        let meta = file.metadata().map_err(err("stat"))?;
        let digest = digest(key, &file, meta.len()).map_err(err("read"))?;
        Ok(Some(Self {
            digest,
            bytes: meta.len(),
            device: meta.dev(),
            inode: meta.ino(),
            ctime_ns: ctime_ns(&meta),
        }))
    }

    /// The same, so that every later change shows: a file that changed within the last tick of the kernel's clock can
    /// change again within it, and its times stay.
    pub(crate) fn lasting(key: &MacKey, path: &Path) -> Result<Option<Self>, SnapshotError> {
        let changed = fs::symlink_metadata(path).map_or(0, |meta| ctime_ns(&meta));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(now.as_nanos()).unwrap_or_default();
        // A clock that went back makes it no longer than a tick.
        let left = (changed + TICK.as_nanos() as i128 - now).clamp(0, TICK.as_nanos() as i128);
        std::thread::sleep(Duration::from_nanos(left as u64));
        Self::of(key, path)
    }

    /// Whether the file at a path is, by the looks of it, the very one that was recorded.
    pub(crate) fn looks_like(&self, path: &Path) -> Result<bool, SnapshotError> {
        let meta = fs::symlink_metadata(path).map_err(|source| SnapshotError::File {
            step: "stat",
            path: path.to_owned(),
            source,
        })?;
        Ok(meta.is_file()
            && (meta.len(), meta.dev(), meta.ino(), ctime_ns(&meta))
                == (self.bytes, self.device, self.inode, self.ctime_ns))
    }
}

/// A digest of a sparse file. Pieces that hold zeros alone count for nothing, so a copy with other holes has the same
/// digest, and a gigabyte of memory of which a tenth was used costs a tenth.
fn digest(key: &MacKey, file: &File, length: u64) -> std::io::Result<String> {
    let mut mac = key.mac();
    mac.update(b"omnirun snapshot file\0");
    mac.update(&length.to_le_bytes());
    let mut piece = vec![0u8; PIECE];
    let mut at = 0u64;
    while at < length {
        // From here to the next data all is zeros.
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data - data % PIECE as u64,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
            Ok(hole) => hole.max(at + 1),
            Err(_) => length,
        }
        .min(length);
        while at < end {
            let want = PIECE.min(usize::try_from(length - at).unwrap_or(PIECE));
            file.read_exact_at(&mut piece[..want], at)?;
            if piece[..want].iter().any(|b| *b != 0) {
                mac.update(&at.to_le_bytes());
                mac.update(&piece[..want]);
            }
            at += want as u64;
        }
    }
    Ok(hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_do_not_matter_and_bytes_do() {
        let tmp = tempfile::tempdir().unwrap();
        let key = MacKey::load_or_create(&tmp.path().join("k")).unwrap();
        let of = |path: &Path| FileRecord::of(&key, path).unwrap().unwrap();
        let sparse = tmp.path().join("sparse");
        let full = tmp.path().join("full");
        let f = File::create(&sparse).unwrap();
        f.set_len(1 << 20).unwrap();
        f.write_all_at(b"hello", 300_000).unwrap();
        fs::write(&full, fs::read(&sparse).unwrap()).unwrap();
        let a = of(&sparse);
        assert_eq!(a.digest, of(&full).digest);
        // The same bytes elsewhere are other bytes, and so is a shorter file.
        f.write_all_at(&[0; 5], 300_000).unwrap();
        f.write_all_at(b"hello", 300_000 + PIECE as u64).unwrap();
        assert_ne!(a.digest, of(&sparse).digest);
        File::options()
            .write(true)
            .open(&full)
            .unwrap()
            .set_len((1 << 20) - 1)
            .unwrap();
        assert_ne!(a.digest, of(&full).digest);
        assert!(!a.looks_like(&full).unwrap());
    }

    #[test]
    fn what_is_no_plain_file_is_none() {
        let tmp = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (tmp.path().join("f"), tmp.path().join("l"), tmp.path().join("p"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, 0o600.into(), 0).unwrap();
        assert!(open_plain(&file).unwrap().is_some());
        for other in [&link, &pipe, &tmp.path().to_owned()] {
            assert!(open_plain(other).unwrap().is_none(), "{other:?}");
        }
        assert_eq!(
            open_plain(&tmp.path().join("no")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_change_right_after_the_record_shows() {
        let tmp = tempfile::tempdir().unwrap();
        let key = MacKey::load_or_create(&tmp.path().join("k")).unwrap();
        let path = tmp.path().join("f");
        for _ in 0..20 {
            fs::write(&path, "one").unwrap();
            let record = FileRecord::lasting(&key, &path).unwrap().unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"two", 0).unwrap();
            assert!(!record.looks_like(&path).unwrap());
        }
    }
}
