//! Where the file tools may go, and how they get there.

use crate::error::ToolError;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Component, Path, PathBuf},
};

/// As many links in one path as Linux follows.
const MAX_LINKS: usize = 40;

/// Which directories the tools may use. All paths are absolute, within the root.
#[derive(Debug, Clone)]
pub struct RootConfig {
    /// Where relative paths start.
    pub workdir: PathBuf,
    /// Permitted directories besides it.
    pub also: Vec<PathBuf>,
    /// Directories within the permitted ones that `write` and `edit` refuse.
    pub read_only: Vec<PathBuf>,
}

impl Default for RootConfig {
    fn default() -> Self {
        Self {
            workdir: "/workspace".into(),
            also: vec!["/mnt/session/outputs".into()],
            read_only: Vec::new(),
        }
    }
}

/// The root of a sandbox's file system, and what is permitted in it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// Where that root is in this process's own view: `/` in the helper, a folder in tests.
    seen_at: PathBuf,
    workdir: PathBuf,
    /// Permitted directories, canonical, the working directory first.
    permitted: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
}

impl Root {
    /// Opens the root at `path`. Links in the permitted directories' own names are followed here, once, so that they do not
    /// widen while a call runs.
    pub fn open(path: &Path, config: &RootConfig) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let mut root = Self {
            fd,
            seen_at: path.into(),
            workdir: PathBuf::new(),
            permitted: Vec::new(),
            read_only: Vec::new(),
        };
        root.workdir = root.canonical(&collapse(&config.workdir))?;
        root.permitted.push(root.workdir.clone());
        for path in &config.also {
            root.permitted.push(root.canonical(&collapse(path))?);
        }
        for path in &config.read_only {
            root.read_only.push(root.canonical(&collapse(path))?);
        }
        Ok(root)
    }

    /// The working directory.
    pub fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// The canonical form of a path that a model gave, which lies in a permitted directory. What it names need not
    /// exist.
    pub(crate) fn resolve(&self, tool: &'static str, given: &str) -> Result<PathBuf, ToolError> {
        let lexical = collapse(&self.workdir.join(given));
        let canonical = self
            .canonical(&lexical)
            .map_err(|error| ToolError::system(tool, given, error))?;
        if self.permits(&canonical) {
            Ok(canonical)
        } else {
            Err(self.outside(tool, given))
        }
    }

    /// Whether a canonical path lies in a permitted directory.
    pub(crate) fn permits(&self, canonical: &Path) -> bool {
        self.permitted.iter().any(|root| canonical.starts_with(root))
    }

    /// As [`Self::resolve`], for a file that is to be changed.
    pub(crate) fn resolve_for_writing(&self, tool: &'static str, given: &str) -> Result<PathBuf, ToolError> {
        let canonical = self.resolve(tool, given)?;
        match self.read_only.iter().find(|root| canonical.starts_with(root)) {
            Some(root) => Err(ToolError::message(format!(
                "{tool}: path '{given}' is inside read-only directory {}",
                root.display()
            ))),
            None => Ok(canonical),
        }
    }

    fn outside(&self, tool: &'static str, given: &str) -> ToolError {
        let others: Vec<String> = self
            .permitted
            .iter()
            .skip(1)
            .map(|root| root.display().to_string())
            .collect();
        let others = match others.len() {
            0 => String::new(),
            _ => format!(" and the other permitted directories ({})", others.join(", ")),
        };
        ToolError::message(format!(
            "{tool}: path '{given}' is outside the session's working directory ({}){others}; use bash to reach it",
            self.workdir.display()
        ))
    }

    /// Opens a canonical path. It follows no link, so a path that has changed since it was resolved does not open.
    pub(crate) fn at(&self, canonical: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(
                &self.fd,
                relative(canonical),
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // A rename somewhere on the machine got in the way of a `..` check; the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) if tries < 64 => tries += 1,
                other => return other,
            }
        }
    }

    /// Opens a regular file for reading. Anything else is not even opened: an open of a FIFO waits, one of a device
    /// may do things.
    pub(crate) fn regular(&self, canonical: &Path) -> Result<Option<(OwnedFd, Stat)>, Errno> {
        let seen = rustix::fs::fstat(self.at(canonical, OFlags::PATH | OFlags::NOFOLLOW)?)?;
        if !is_regular(&seen) {
            return Ok(None);
        }
        let fd = self.at(
            canonical,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW,
        )?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(is_regular(&stat).then_some((fd, stat)))
    }

    /// Stat of a canonical path, itself.
    pub(crate) fn stat(&self, canonical: &Path) -> Result<Stat, Errno> {
        rustix::fs::fstat(self.at(canonical, OFlags::PATH | OFlags::NOFOLLOW)?)
    }

    /// A canonical path as this process sees it, for libraries that want paths.
    pub(crate) fn seen(&self, canonical: &Path) -> PathBuf {
        self.seen_at.join(relative(canonical))
    }

    /// The reverse of [`Self::seen`].
    pub(crate) fn unseen(&self, path: &Path) -> Option<PathBuf> {
        Some(Path::new("/").join(path.strip_prefix(&self.seen_at).ok()?))
    }

    /// Follows every link of a collapsed path. What does not exist stays as it is.
    pub(crate) fn canonical(&self, lexical: &Path) -> Result<PathBuf, Errno> {
        match self.at(lexical, OFlags::PATH) {
            // The kernel met no link, up to the end or up to what is missing.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(lexical.to_owned()),
            Err(Errno::LOOP) => {}
            Err(error) => return Err(error),
        }
        let mut resolved = PathBuf::from("/");
        let mut pending: VecDeque<OsString> = names(lexical).collect();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&name);
            let Some(target) = self.link_target(&next)? else {
                resolved = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            }
            for name in names(&target).rev() {
                pending.push_front(name);
            }
        }
        Ok(resolved)
    }

    /// Where a link points; none for what is no link or is not there.
    fn link_target(&self, path: &Path) -> Result<Option<PathBuf>, Errno> {
        let fd = match self.at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if !kind.is_symlink() {
            return Ok(None);
        }
        let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?;
        Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))))
    }
}

pub(crate) fn is_regular(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// Takes `.` and `..` out of an absolute path, as text.
fn collapse(path: &Path) -> PathBuf {
    let mut collapsed = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                collapsed.pop();
            }
            Component::Normal(name) => collapsed.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    collapsed
}

/// The names in a path, `..` included.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let named = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components()
        .filter(named)
        .map(|component| component.as_os_str().to_owned())
}

/// An absolute path as one below a directory's descriptor.
fn relative(path: &Path) -> &Path {
    match path.strip_prefix("/") {
        Ok(path) if path.as_os_str().is_empty() => Path::new(OsStr::new(".")),
        Ok(path) => path,
        Err(_) => path,
    }
}
