//! A tar stream from a guest, into a folder of the host. Every byte of it is hostile.
//!
//! The order of things is the safety: the folder is private and empty, only real folders and files are made while the
//! stream is read, and links come last, when nothing is written any more. So no entry can be written through a link.
//! A link must be relative, go up at its start alone, and no higher than what was asked for: then it points to something
//! that came with it, and so does every link behind it, by the same rule. What was asked for is moved to its place
//! afterwards, so the folder that it was unpacked in does not count: a link to a neighbour would find the user's files.
//!
//! `tar` is used in raw mode: it would read a long name into memory whatever its length.

mod names;

use names::{relative, shown, stays};
use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tar::EntryType;

/// Longest name or link target, and longest extended header.
const MAX_NAME: u64 = 4096;
const MAX_PAX: u64 = 64 * 1024;
/// Entries of one stream.
const MAX_ENTRIES: u64 = 2_000_000;
/// Bytes of folders' names and links that are kept until the end. A long name makes many folders, each with all the
/// names above it, so an archive of a few megabytes could otherwise fill the host's memory.
const MAX_KEPT: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// Bytes behind the archive's end that are read and thrown away: padding to a tape block.
const MAX_TAIL: u64 = 1 << 20;

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Why a stream was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A name that leads outside, or is none.
    #[error("the sandbox sent a path that leads outside: {0}")]
    Path(String),
    /// A link that leads outside.
    #[error("the sandbox sent a link that leads outside: {0}")]
    Link(String),
    /// Neither file, folder nor link.
    #[error("the sandbox sent something that is no file, folder or link: {0}")]
    Kind(String),
    /// Two entries of one name, or one below a file.
    #[error("the sandbox sent two things for one path: {0}")]
    Twice(String),
    /// Too much of something.
    #[error("the sandbox sent more than {0}")]
    TooMuch(String),
    /// Not a tar stream, or cut off.
    #[error("the sandbox sent a broken archive")]
    Broken(#[source] io::Error),
    /// The host's own file system.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Unpacks what is in a folder into an empty, private one; at most `max_bytes` of file data. Owners are not kept, and of
/// a mode the permission bits alone.
///
/// # Errors
/// [`UnpackError`]; the folder is half-full then.
pub fn unpack(stream: impl Read, into: &Path, max_bytes: u64) -> Result<Unpacked, UnpackError> {
    unpack_named(stream, into, None, max_bytes)
}

/// The same; with a name, that file or folder alone may come.
pub(crate) fn unpack_named(
    stream: impl Read,
    into: &Path,
    name: Option<&OsStr>,
    max_bytes: u64,
) -> Result<Unpacked, UnpackError> {
    let mut archive = tar::Archive::new(stream);
    let mut state = State {
        into,
        name,
        max_bytes,
        done: Unpacked::default(),
        links: Vec::new(),
        kept: 0,
        dirs: HashMap::new(),
    };
    let mut long = Long::default();
    for entry in archive.entries().map_err(UnpackError::Broken)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Broken)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => long.name = Some(text(&mut entry, MAX_NAME, true)?),
            EntryType::GNULongLink => long.link = Some(text(&mut entry, MAX_NAME, true)?),
            EntryType::XHeader => long.pax(&text(&mut entry, MAX_PAX, false)?)?,
            EntryType::XGlobalHeader => {}
            _ => state.entry(&mut entry, std::mem::take(&mut long))?,
        }
    }
    state.finish()?;
    let done = state.done;
    let mut rest = archive.into_inner().take(MAX_TAIL + 1);
    if io::copy(&mut rest, &mut io::sink()).map_err(UnpackError::Broken)? > MAX_TAIL {
        return Err(UnpackError::TooMuch("an archive".to_owned()));
    }
    Ok(done)
}

/// What extension entries said about the next one.
#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Long {
    fn pax(&mut self, mut records: &[u8]) -> Result<(), UnpackError> {
        let broken = || UnpackError::Broken(io::Error::other("a malformed extended header"));
        while !records.is_empty() {
            let space = records.iter().position(|b| *b == b' ').ok_or_else(broken)?;
            let length: usize = std::str::from_utf8(&records[..space])
                .ok()
                .and_then(|s| s.parse().ok())
                .ok_or_else(broken)?;
            let record = records
                .get(space + 1..length)
                .and_then(|r| r.strip_suffix(b"\n"))
                .ok_or_else(broken)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let value = &record[equals + 1..];
            match &record[..equals] {
                b"path" if value.len() as u64 <= MAX_NAME => self.name = Some(value.to_vec()),
                b"linkpath" if value.len() as u64 <= MAX_NAME => self.link = Some(value.to_vec()),
                b"path" | b"linkpath" => {
                    return Err(UnpackError::TooMuch(format!("{MAX_NAME} bytes of name")));
                }
                // It would have to be followed, and is needed above 8 GiB alone.
                b"size" => return Err(UnpackError::TooMuch("8 GiB in one file".to_owned())),
                // Times and owners are not kept; sparse files are refused with the data that belongs to them.
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(UnpackError::Kind("a sparse file".to_owned()));
                }
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }
}

fn text(entry: &mut impl Read, max: u64, strip_nul: bool) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry
        .take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(UnpackError::Broken)?;
    if bytes.len() as u64 > max {
        return Err(UnpackError::TooMuch(format!("{max} bytes of name")));
    }
    if strip_nul && bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

struct State<'a> {
    into: &'a Path,
    /// The only name at the top.
    name: Option<&'a OsStr>,
    max_bytes: u64,
    done: Unpacked,
    links: Vec<(PathBuf, PathBuf)>,
    /// Bytes in `links` and `dirs`.
    kept: usize,
    /// Folders and the modes that they get at the end, so that a read-only one can be filled.
    dirs: HashMap<PathBuf, u32>,
}

impl State<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, long: Long) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > MAX_ENTRIES {
            return Err(UnpackError::TooMuch(format!("{MAX_ENTRIES} entries")));
        }
        let header = entry.header();
        let kind = header.entry_type();
        let name = long.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let mode = header.mode().map_err(UnpackError::Broken)? & 0o777;
        let mtime = header.mtime().unwrap_or(0);
        let Some(path) = relative(&name)? else {
            // The top itself.
            return if kind == EntryType::Directory {
                Ok(())
            } else {
                Err(UnpackError::Path(shown(&name)))
            };
        };
        if self.name.is_some_and(|top| !path.starts_with(top)) {
            return Err(UnpackError::Path(shown(&name)));
        }
        let target = || {
            let link = long
                .link
                .clone()
                .or_else(|| entry.header().link_name_bytes().map(|l| l.into_owned()));
            link.ok_or_else(|| UnpackError::Link(shown(&name)))
        };
        match kind {
            EntryType::Directory => {
                self.parents(&path)?;
                self.directory(&path)?;
                self.keep_directory(path, mode | 0o700)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                self.parents(&path)?;
                self.file(entry, &path, mode, mtime)?;
            }
            EntryType::Symlink => {
                let target = target()?;
                let target = Path::new(OsStr::from_bytes(&target));
                if !stays(&path, target, self.name.is_some()) {
                    return Err(UnpackError::Link(format!(
                        "{} -> {}",
                        shown(&name),
                        target.display()
                    )));
                }
                self.parents(&path)?;
                self.keep(path.as_os_str().len() + target.as_os_str().len())?;
                self.links.push((path, target.to_owned()));
            }
            EntryType::Link => {
                let target = target()?;
                let first = relative(&target)?.ok_or_else(|| UnpackError::Link(shown(&name)))?;
                self.parents(&path)?;
                self.hard_link(&first, &path, &name)?;
            }
            _ => return Err(UnpackError::Kind(shown(&name))),
        }
        Ok(())
    }

    /// Accounts for what is kept to the end: its bytes, and what a list's or map's place takes.
    fn keep(&mut self, bytes: usize) -> Result<(), UnpackError> {
        self.kept += bytes + size_of::<(PathBuf, PathBuf)>();
        if self.kept > MAX_KEPT {
            return Err(UnpackError::TooMuch(format!("{} MiB of names", MAX_KEPT >> 20)));
        }
        Ok(())
    }

    fn keep_directory(&mut self, path: PathBuf, mode: u32) -> Result<(), UnpackError> {
        if !self.dirs.contains_key(&path) {
            self.keep(path.as_os_str().len())?;
        }
        self.dirs.insert(path, mode);
        Ok(())
    }

    /// Makes the folders above a path. What is there must be a folder: nothing but folders and files is, yet.
    fn parents(&mut self, path: &Path) -> Result<(), UnpackError> {
        let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(());
        };
        if self.dirs.contains_key(parent) {
            return Ok(());
        }
        let mut made = PathBuf::new();
        for part in parent.components() {
            made.push(part);
            if !self.dirs.contains_key(&made) {
                self.directory(&made)?;
                self.keep_directory(made.clone(), 0o755)?;
            }
        }
        Ok(())
    }

    fn directory(&self, path: &Path) -> Result<(), UnpackError> {
        let full = self.into.join(path);
        match DirBuilder::new().mode(0o700).create(&full) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.dirs.contains_key(path) => Ok(()),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory
                ) =>
            {
                Err(UnpackError::Twice(path.display().to_string()))
            }
            Err(source) => Err(UnpackError::Write { path: full, source }),
        }
    }

    fn file(&mut self, data: &mut impl Read, path: &Path, mode: u32, mtime: u64) -> Result<(), UnpackError> {
        let full = self.into.join(path);
        let write = |source| UnpackError::Write {
            path: full.clone(),
            source,
        };
        let mut file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&full)
        {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(UnpackError::Twice(path.display().to_string()));
            }
            other => other.map_err(write)?,
        };
        let left = self.max_bytes - self.done.bytes;
        let mut buffer = [0; 64 * 1024];
        let mut size = 0;
        loop {
            let n = data.read(&mut buffer).map_err(UnpackError::Broken)?;
            if n == 0 {
                break;
            }
            size += n as u64;
            if size > left {
                return Err(UnpackError::TooMuch(format!("{} bytes of data", self.max_bytes)));
            }
            io::Write::write_all(&mut file, &buffer[..n]).map_err(write)?;
        }
        self.done.bytes += size;
        finish_file(&file, mode, mtime).map_err(write)
    }

    fn hard_link(&mut self, first: &Path, path: &Path, name: &[u8]) -> Result<(), UnpackError> {
        let (from, to) = (self.into.join(first), self.into.join(path));
        match fs::symlink_metadata(&from) {
            Ok(meta) if meta.is_file() => {}
            _ => return Err(UnpackError::Link(shown(name))),
        }
        fs::hard_link(&from, &to).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => UnpackError::Twice(path.display().to_string()),
            _ => UnpackError::Write {
                path: to.clone(),
                source,
            },
        })
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, target) in &self.links {
            let full = self.into.join(path);
            symlink(target, &full).map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => UnpackError::Twice(path.display().to_string()),
                _ => UnpackError::Write {
                    path: full.clone(),
                    source,
                },
            })?;
        }
        for (path, mode) in &self.dirs {
            let full = self.into.join(path);
            fs::set_permissions(&full, fs::Permissions::from_mode(*mode)).map_err(|source| {
                UnpackError::Write {
                    path: full.clone(),
                    source,
                }
            })?;
        }
        Ok(())
    }
}

fn finish_file(file: &File, mode: u32, mtime: u64) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(mtime)) {
        // A time that the file system cannot hold is no reason to lose the file.
        let _ = file.set_modified(time);
    }
    Ok(())
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
