//! Gives a file new content, at once: a reader sees the old one or the new one, and when it fails, the old one is there.
//!
//! ```text
//!   a file of its own       temporary file beside it, owner, mode and attributes of the old one, rename
//!   has other hard links    written in place: a rename would part it from its other names
//!   directory not writable,
//!   owner cannot be kept,
//!   is a mount point        written in place
//! ```

use crate::{
    Root,
    error::{ToolError, reason},
    root::{is_directory, is_regular},
};
use rustix::{
    fs::{Access, AtFlags, Mode, OFlags, Stat, XattrFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Why a file did not get its content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplaceError {
    /// The system refused; the old content is there.
    #[error("unchanged")]
    System(#[source] Errno),
    /// It was written in place and that broke off.
    #[error("partly written")]
    Partly(#[source] Errno),
    /// It is a FIFO, socket or device.
    #[error("not a regular file")]
    NotRegular,
    /// Something on the way to it is no directory.
    #[error("{0} is not a directory")]
    ParentIsFile(String),
    /// Somebody else changed it since it was read.
    #[error("changed meanwhile")]
    Changed,
}

impl From<Errno> for ReplaceError {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl ReplaceError {
    /// The sentence.
    pub(crate) fn for_model(self, tool: &'static str, given: &str) -> ToolError {
        let reason = match self {
            Self::System(Errno::LOOP) => "the path changed while it was being opened; try again".to_owned(),
            Self::System(error) => reason(error),
            Self::Partly(error) => format!("{}; the file is only partly written", reason(error)),
            Self::NotRegular => "not a regular file".to_owned(),
            Self::ParentIsFile(parent) => format!("not a directory: {parent} is a file"),
            Self::Changed => {
                "the file was changed by something else while it was being edited; read it again".to_owned()
            }
        };
        ToolError::path(tool, given, reason)
    }
}

/// Whether two looks at a file saw the same content.
fn same(a: &Stat, b: &Stat) -> bool {
    (
        a.st_dev,
        a.st_ino,
        a.st_size,
        a.st_mtime,
        a.st_mtime_nsec,
        a.st_ctime,
        a.st_ctime_nsec,
    ) == (
        b.st_dev,
        b.st_ino,
        b.st_size,
        b.st_mtime,
        b.st_mtime_nsec,
        b.st_ctime,
        b.st_ctime_nsec,
    )
}

/// Makes `content` the content of the file at a canonical path; parents are made. With `expected`, only if the file is
/// still the one that was seen so.
pub(crate) fn replace(
    root: &Root,
    canonical: &Path,
    content: &[u8],
    expected: Option<&Stat>,
) -> Result<(), ReplaceError> {
    let (Some(parent), Some(name)) = (canonical.parent(), canonical.file_name()) else {
        return Err(Errno::ISDIR.into());
    };
    let parent = open_parent(root, parent)?;
    let parent = parent.as_fd();
    let old = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) if expected.is_none() => return new_file(parent, name, content),
        Err(error) => return Err(error.into()),
    };
    if is_directory(&old) {
        return Err(Errno::ISDIR.into());
    }
    if !is_regular(&old) {
        return Err(ReplaceError::NotRegular);
    }
    if expected.is_some_and(|expected| !same(expected, &old)) {
        return Err(ReplaceError::Changed);
    }
    // A rename asks for no permission on the file itself; who could not write it must not replace it.
    rustix::fs::accessat(parent, name, Access::WRITE_OK, AtFlags::EACCESS)?;
    if old.st_nlink > 1 {
        return in_place(parent, name, content);
    }
    match beside(parent, name, content, &old, expected) {
        Err(ReplaceError::System(Errno::ACCESS | Errno::PERM | Errno::BUSY | Errno::ROFS)) => {
            in_place(parent, name, content)
        }
        other => other,
    }
}

/// Opens the directory, making what is missing of it.
fn open_parent(root: &Root, path: &Path) -> Result<OwnedFd, ReplaceError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut missing = Vec::new();
    let mut at = path;
    let mut fd = loop {
        match (root.at(at, flags), at.parent(), at.file_name()) {
            (Ok(fd), _, _) => break fd,
            (Err(Errno::NOENT), Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            (Err(Errno::NOTDIR), _, _) => return Err(ReplaceError::ParentIsFile(first_file(root, at))),
            (Err(error), _, _) => return Err(error.into()),
        }
    };
    for name in missing.into_iter().rev() {
        match rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        fd = rustix::fs::openat(
            &fd,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
    }
    Ok(fd)
}

/// The component that is not a directory.
fn first_file(root: &Root, path: &Path) -> String {
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    let file = ancestors
        .into_iter()
        .find(|path| root.stat(path).is_ok_and(|stat| !is_directory(&stat)));
    file.unwrap_or(path).display().to_string()
}

/// A temporary file that is removed unless it was renamed.
struct Temporary<'a> {
    parent: BorrowedFd<'a>,
    name: String,
    fd: OwnedFd,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn create(parent: BorrowedFd<'a>, mode: u32) -> Result<Self, Errno> {
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".omnirun-{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, &name, flags, Mode::from_raw_mode(mode))?;
        Ok(Self {
            parent,
            name,
            fd,
            renamed: false,
        })
    }

    fn rename(mut self, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::renameat(self.parent, &self.name, self.parent, name)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing can be done about it here, and the error that led here is the one to tell.
            let _ = rustix::fs::unlinkat(self.parent, &self.name, AtFlags::empty());
        }
    }
}

fn new_file(parent: BorrowedFd<'_>, name: &OsStr, content: &[u8]) -> Result<(), ReplaceError> {
    let temporary = Temporary::create(parent, 0o666)?;
    write_all(temporary.fd.as_fd(), content)?;
    Ok(temporary.rename(name)?)
}

fn beside(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    content: &[u8],
    old: &Stat,
    expected: Option<&Stat>,
) -> Result<(), ReplaceError> {
    let temporary = Temporary::create(parent, 0o600)?;
    let fd = temporary.fd.as_fd();
    let made = rustix::fs::fstat(fd)?;
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(old.st_uid),
            rustix::fs::Gid::from_raw(old.st_gid),
        );
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    write_all(fd, content)?;
    copy_attributes(parent, name, fd);
    // Last: a write, and a change of owner, take the set-user-id bit away.
    rustix::fs::fchmod(fd, Mode::from_raw_mode(old.st_mode & 0o7777))?;
    if let Some(expected) = expected {
        let now = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !same(expected, &now) {
            return Err(ReplaceError::Changed);
        }
    }
    Ok(temporary.rename(name)?)
}

/// Copies extended attributes (access lists among them), as far as it is allowed: they are no reason to fail.
fn copy_attributes(parent: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>) {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(from) = rustix::fs::openat(parent, name, flags, Mode::empty()) else {
        return;
    };
    let mut list = vec![0u8; 64 * 1024];
    let Ok(count) = rustix::fs::flistxattr(&from, &mut list[..]) else {
        return;
    };
    for attribute in list[..count]
        .split(|byte| *byte == 0)
        .filter(|attribute| !attribute.is_empty())
    {
        let mut value = vec![0u8; 64 * 1024];
        if let Ok(count) = rustix::fs::fgetxattr(&from, attribute, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(to, attribute, &value[..count], XattrFlags::empty());
        }
    }
}

fn in_place(parent: BorrowedFd<'_>, name: &OsStr, content: &[u8]) -> Result<(), ReplaceError> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if !is_regular(&rustix::fs::fstat(&fd)?) {
        return Err(ReplaceError::NotRegular);
    }
    write_all(fd.as_fd(), content).map_err(ReplaceError::Partly)?;
    rustix::fs::ftruncate(&fd, content.len() as u64).map_err(ReplaceError::Partly)
}

fn write_all(fd: BorrowedFd<'_>, mut content: &[u8]) -> Result<(), Errno> {
    while !content.is_empty() {
        match rustix::io::write(fd, content) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => content = &content[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
