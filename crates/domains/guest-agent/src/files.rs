//! Operations on files, in a [worker](crate::worker): relative paths start at the claim's working directory.

use crate::reply::{Failure, done, outcome};
use omnirun_guest_proto::message::{
    ErrorKind, FileList, FileMkdir, FileRead, FileRemove, FileRename, FileStat, FileWrite, Outcome, Reply,
};
use std::{
    ffi::OsStr,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Entries of a directory that are told.
const MAX_ENTRIES: usize = 10_000;

/// The stream from the host, and the one to it.
pub(crate) fn input() -> impl Read {
    Descriptor(rustix::stdio::stdin())
}

pub(crate) fn output() -> impl Write {
    Descriptor(rustix::stdio::stdout())
}

struct Descriptor(std::os::fd::BorrowedFd<'static>);

impl Read for Descriptor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn path(bytes: &[u8]) -> Result<&Path, Failure> {
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Failure::new(ErrorKind::Invalid, "not a path"));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

pub(crate) fn answer(result: Result<Reply, Failure>) -> Reply {
    result.unwrap_or_else(Into::into)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let shown = path.display().to_string();
    move |e| Failure::of(shown, e)
}

pub(crate) fn read(request: &FileRead) -> Result<Reply, Failure> {
    let path = path(&request.path)?;
    // A FIFO without a writer must not hold us.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(at(path))?;
    if !file.metadata().map_err(at(path))?.is_file() {
        return Err(Failure::new(
            ErrorKind::Invalid,
            format!("{}: not a regular file", path.display()),
        ));
    }
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset)).map_err(at(path))?;
    }
    let length = if request.length == 0 {
        u64::MAX
    } else {
        request.length
    };
    io::copy(&mut file.take(length), &mut output()).map_err(at(path))?;
    Ok(done())
}

pub(crate) fn write(request: &FileWrite) -> Result<Reply, Failure> {
    let path = path(&request.path)?;
    // What a link points to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Some(parent) = target.parent() else {
        return Err(Failure::new(ErrorKind::Invalid, "not a file"));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    if request.parents {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    let old = fs::metadata(&target).ok();
    if old.as_ref().is_some_and(Metadata::is_dir) {
        return Err(Failure::new(
            ErrorKind::Invalid,
            format!("{}: is a directory", path.display()),
        ));
    }
    let mode = match (request.mode & 0o7777, &old) {
        (0, Some(old)) => old.permissions().mode() & 0o7777,
        (0, None) => 0o644,
        (mode, _) => mode,
    };
    let temporary = beside(parent)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(at(path))?;
    let written = io::copy(&mut input(), &mut file).and_then(|_| {
        if let Some(old) = &old {
            // Root keeps the owner; others can only own what they write.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, &target)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(Failure::of(path.display(), error));
    }
    Ok(done())
}

/// A name that nobody has.
fn beside(folder: &Path) -> Result<PathBuf, Failure> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Failure::of("no random bytes", e))?;
    Ok(folder.join(format!(".omnirun-{:016x}", u64::from_ne_bytes(random))))
}

fn stat_of(metadata: &Metadata, name: Vec<u8>, path: &Path) -> FileStat {
    let target = if metadata.is_symlink() {
        fs::read_link(path).unwrap_or_default()
    } else {
        PathBuf::new()
    };
    FileStat {
        mode: metadata.mode(),
        size: metadata.size(),
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        uid: metadata.uid(),
        gid: metadata.gid(),
        target: target.into_os_string().into_vec(),
        name,
    }
}

pub(crate) fn stat(bytes: &[u8]) -> Result<Reply, Failure> {
    let path = path(bytes)?;
    let metadata = fs::symlink_metadata(path).map_err(at(path))?;
    Ok(outcome(Outcome::Stat(stat_of(&metadata, Vec::new(), path))))
}

pub(crate) fn list(bytes: &[u8]) -> Result<Reply, Failure> {
    let path = path(bytes)?;
    let mut entries = Vec::new();
    let mut truncated = false;
    for entry in fs::read_dir(path).map_err(at(path))? {
        let entry = entry.map_err(at(path))?;
        if entries.len() == MAX_ENTRIES {
            truncated = true;
            break;
        }
        // What has gone in between is not listed.
        if let Ok(metadata) = entry.metadata() {
            entries.push(stat_of(&metadata, entry.file_name().into_vec(), &entry.path()));
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(outcome(Outcome::List(FileList { entries, truncated })))
}

pub(crate) fn mkdir(request: &FileMkdir) -> Result<Reply, Failure> {
    let path = path(&request.path)?;
    fs::DirBuilder::new()
        .recursive(request.parents)
        .mode(0o755)
        .create(path)
        .map_err(at(path))?;
    Ok(done())
}

pub(crate) fn rename(request: &FileRename) -> Result<Reply, Failure> {
    let (from, to) = (path(&request.from)?, path(&request.to)?);
    fs::rename(from, to).map_err(at(from))?;
    Ok(done())
}

pub(crate) fn remove(request: &FileRemove) -> Result<Reply, Failure> {
    let path = path(&request.path)?;
    let is_folder = fs::symlink_metadata(path).map_err(at(path))?.is_dir();
    match (is_folder, request.recursive) {
        (true, true) => fs::remove_dir_all(path),
        (true, false) => fs::remove_dir(path),
        (false, _) => fs::remove_file(path),
    }
    .map_err(at(path))?;
    Ok(done())
}
