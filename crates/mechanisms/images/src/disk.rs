//! Session disks: an empty one per size, made once, copied for each session.
//!
//! The host formats these files and never looks into a disk that a guest has had.

use crate::{
    build::{BuildDir, find, install_command},
    error::{ImageError, file},
    store::ImageStore,
};
use omnirun_ids::ByteSize;
use omnirun_store::{FileLock, sync_dir};
use rustix::{fs::SeekFrom, io::Errno};
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Version of how a disk is formatted; part of the file's name, so that a change makes new ones.
const FORMAT: u32 = 1;

/// The smallest disk that a file system with a journal fits on with room to work.
const MIN_BYTES: u64 = 64 << 20;

/// Every disk has it: no two are ever mounted by one kernel.
const UUID: &str = "6f6d6e69-7275-6e00-8000-000000000002";

/// Written out, since the defaults differ from host to host and a guest's kernel may be older than the host's tools.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";

/// The journal, in MiB. It bounds what a mount replays after a VM was killed, and Linux's default for 8 GiB (64 MiB)
/// gains nothing for one VM's load.
const JOURNAL_MIB: u32 = 16;

impl ImageStore {
    /// An empty, formatted, sparse session disk of a size, to be copied with [`copy_sparse`]. Made at the first use of
    /// the size, and without lazy initialisation: a guest's kernel finds nothing left to do.
    ///
    /// # Errors
    /// [`ImageError::MissingTools`], [`ImageError::Program`], [`ImageError::File`].
    pub fn session_disk_template(&self, size: ByteSize) -> Result<PathBuf, ImageError> {
        // ext4 counts in blocks of 4 KiB.
        let bytes = size.0.max(MIN_BYTES).next_multiple_of(4096);
        let path = self.disks().join(format!("{bytes}-v{FORMAT}.ext4"));
        if path.is_file() {
            return Ok(path);
        }
        let _lock = FileLock::exclusive(&self.disks().join("lock"))?;
        if path.is_file() {
            return Ok(path);
        }
        let work = BuildDir::create(self.tmp())?;
        let (formatted, unfinished) = (work.path().join("formatted"), work.path().join("disk"));
        format(&formatted, bytes)?;
        copy_without_zeros(&formatted, &unfinished).map_err(file("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(file("rename", &unfinished))?;
        sync_dir(&self.disks())?;
        Ok(path)
    }
}

fn format(path: &Path, bytes: u64) -> Result<(), ImageError> {
    let mkfs = find("mkfs.ext4").ok_or_else(|| ImageError::MissingTools {
        missing: "mkfs.ext4".to_owned(),
        install: install_command(&["e2fsprogs"]),
    })?;
    let f = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(file("create", path))?;
    f.set_len(bytes).map_err(file("size", path))?;
    // In place of the host's profile of defaults.
    let config = path.with_extension("conf");
    let profile = "[fs_types]\n ext4 = {\n  features = has_journal\n }\n";
    fs::write(&config, profile).map_err(file("write", &config))?;
    let extended =
        format!("lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed={UUID},root_owner=0:0");
    let output = Command::new(&mkfs)
        .args([
            "-q", "-F", "-m", "0", "-b", "4096", "-i", "16384", "-I", "256", "-U", UUID, "-L", "omnirun",
        ])
        .args([
            "-O",
            FEATURES,
            "-E",
            &extended,
            "-J",
            &format!("size={JOURNAL_MIB}"),
        ])
        .arg(path)
        // Nothing of ours: there are keys in it.
        .env_clear()
        .env("MKE2FS_CONFIG", &config)
        .output()
        .map_err(|source| ImageError::Spawn {
            program: mkfs.display().to_string(),
            source,
        })?;
    if !output.status.success() {
        return Err(ImageError::Program {
            step: "formatting a session disk".to_owned(),
            status: output.status.to_string(),
            tail: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(())
}

/// Copies a disk, leaving out blocks of zeros: mkfs has written out the inode tables and the journal, and each session
/// would copy them.
fn copy_without_zeros(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    const BLOCK: usize = 4096;
    let source = fs::File::open(from)?;
    let target = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(to)?;
    let len = source.metadata()?.len();
    target.set_len(len)?;
    let mut buffer = vec![0; 256 * BLOCK];
    for (start, end) in data_ranges(&source, len)? {
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            source.read_exact_at(&mut buffer[..want], at)?;
            for (n, block) in buffer[..want].chunks(BLOCK).enumerate() {
                if block.iter().any(|b| *b != 0) {
                    target.write_all_at(block, at + (n * BLOCK) as u64)?;
                }
            }
            at += want as u64;
        }
    }
    target.sync_all()
}

/// Start and end of each range of a file that is not a hole.
fn data_ranges(source: &fs::File, len: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut offset = 0;
    while offset < len {
        let start = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // Holes up to the end.
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        ranges.push((start, end));
        offset = end;
    }
    Ok(ranges)
}

/// Copies a file without filling its holes; shares its blocks where the file system can. `to` must not exist; mode 0600.
/// Not synced.
///
/// # Errors
/// [`ImageError::File`]; `to` is gone then.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<(), ImageError> {
    let target = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(file("create", to))?;
    let copied = copy_sparse_into(from, &target, to);
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

/// The same into an empty file that is open already. `to` names it in messages.
///
/// # Errors
/// [`ImageError::File`]
pub fn copy_sparse_into(from: &Path, target: &fs::File, to: &Path) -> Result<(), ImageError> {
    let source = fs::File::open(from).map_err(file("open", from))?;
    if rustix::fs::ioctl_ficlone(target, &source).is_ok() {
        return Ok(());
    }
    copy_data(&source, target).map_err(file("copy to", to))
}

fn copy_data(source: &fs::File, target: &fs::File) -> std::io::Result<()> {
    let len = source.metadata()?.len();
    target.set_len(len)?;
    for (start, end) in data_ranges(source, len)? {
        let (mut from, mut to) = (start, start);
        while from < end {
            let chunk = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), chunk) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // Two file systems, or one that has no such call.
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    copy_bytes(source, target, from, end)?;
                    from = end;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

fn copy_bytes(source: &fs::File, target: &fs::File, mut at: u64, end: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 20];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let n = source.read_at(&mut buffer[..want], at)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(&buffer[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let f = fs::File::create(&from).unwrap();
        f.set_len(64 << 20).unwrap();
        f.write_all_at(b"start", 0).unwrap();
        f.write_all_at(b"middle", 33 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
        assert!(
            copy_sparse(&from, &to).is_err(),
            "an existing file is not overwritten"
        );
        copy_bytes(
            &f_open(&from),
            &fs::OpenOptions::new().write(true).open(&to).unwrap(),
            0,
            100,
        )
        .unwrap();
    }

    fn f_open(path: &Path) -> fs::File {
        fs::File::open(path).unwrap()
    }

    #[test]
    fn a_template_is_sparse_whole_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open_with(dir.path(), b"agent").unwrap();
        let size = ByteSize::gib(1);
        let paths: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..3)
                .map(|_| s.spawn(|| store.session_disk_template(size).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(paths.iter().all(|p| *p == paths[0]));
        let meta = fs::metadata(&paths[0]).unwrap();
        assert_eq!(meta.len(), size.0);
        assert!(meta.blocks() * 512 < 2 << 20, "{} KiB", meta.blocks() / 2);
        // ext4's magic, at 1,024 + 56.
        let mut magic = [0; 2];
        fs::File::open(&paths[0])
            .unwrap()
            .read_exact_at(&mut magic, 1080)
            .unwrap();
        assert_eq!(magic, [0x53, 0xef]);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
