//! The folder that a VMM process finds itself in.

use super::{
    command_line::{API, LOG, METRICS, RUN},
    starter::{FOLDER, PROGRAM},
};
use crate::{VmIdentity, VmmError, memory};
use omnirun_sys::host::spawn::Mount;
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, Stat, chmodat, chownat, fchown, fstat, ftruncate, linkat,
        mkdirat, mknodat, openat, unlinkat,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
    process::{Gid, Uid},
};
use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// A jail, empty or lived in.
#[derive(Debug)]
pub(in crate::firecracker) struct Jail {
    /// Where it is on the host.
    path: PathBuf,
    root: OwnedFd,
    run: OwnedFd,
    uid: u32,
    mounts: Vec<(OwnedFd, CString, bool)>,
}

impl Jail {
    /// Makes an empty one. Whatever is already where it should be makes that fail, and stays as it is: the jailer works
    /// with root's rights in there, and would follow links (CVE-2026-1386). `starter` is the program that the jailer
    /// copies into it, if that is not the real one.
    pub(in crate::firecracker) fn make(
        identity: &VmIdentity,
        program: &str,
        starter: Option<&[u8]>,
        id: &str,
        uid: u32,
    ) -> Result<Self, VmmError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| VmmError::File { step, path, source }
        };
        let folder = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut path = identity.run_dir.clone();
        let mut at =
            openat(CWD, &path, folder, Mode::empty()).map_err(|e| failed("open", &path)(e.into()))?;
        let stat = fstat(&at).map_err(|e| failed("look at", &path)(e.into()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            let others = io::Error::other("others may write in it");
            return Err(failed("build a jail in", &path)(others));
        }
        let enter = |at: &OwnedFd, path: &mut PathBuf, name: &str| {
            path.push(name);
            mkdirat(at, name, Mode::RWXU).map_err(|e| failed("create", path)(e.into()))?;
            openat(at, name, folder, Mode::empty()).map_err(|e| failed("open", path)(e.into()))
        };
        at = enter(&at, &mut path, program)?;
        if let Some(starter) = starter {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let path = path.join(program);
            let file = openat(&at, program, flags, Mode::from_raw_mode(0o755))
                .map_err(|e| failed("create", &path)(e.into()))?;
            io::Write::write_all(&mut std::fs::File::from(file), starter).map_err(failed("write", &path))?;
        }
        for name in [id, "root"] {
            at = enter(&at, &mut path, name)?;
        }
        let run = enter(&at, &mut path.clone(), RUN)?;
        Ok(Self {
            path,
            root: at,
            run,
            uid,
            mounts: Vec::new(),
        })
    }

    fn failed(&self, step: &'static str, name: &str) -> impl FnOnce(Errno) -> VmmError + use<> {
        let path = self.path.join(name);
        move |source| VmmError::File {
            step,
            path,
            source: source.into(),
        }
    }

    /// A small file for the process to read.
    pub(in crate::firecracker) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), VmmError> {
        let file = self.new_file(name, OFlags::WRONLY)?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::RGRP | Mode::ROTH)
            .map_err(self.failed("let the VM's user read", name))?;
        io::Write::write_all(&mut std::fs::File::from(file), bytes).map_err(|source| VmmError::File {
            step: "write",
            path: self.path.join(name),
            source,
        })
    }

    /// Lets the process read a file under this name. Reads it whole if it has lost its own.
    pub(in crate::firecracker) fn show(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), VmmError> {
        // Who may come near it is up to the folder that it is in; in the jail the VM's user must be able to read it.
        let stat = fstat(file).map_err(self.failed("look at", name))?;
        if stat.st_mode & 0o004 == 0 {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777) | Mode::RUSR | Mode::RGRP | Mode::ROTH;
            rustix::fs::fchmod(file, mode).map_err(self.failed("let the VM's user read", name))?;
        }
        let here = self.new_file(name, OFlags::WRONLY)?;
        if stat.st_nlink == 0 {
            // The kernel mounts no such file. It is rare: the snapshot of a process that has it open was evicted.
            memory::save(file, &here).map_err(|source| VmmError::File {
                step: "copy a file to",
                path: self.path.join(name),
                source,
            })?;
            return rustix::fs::fchmod(&here, Mode::RUSR | Mode::RGRP | Mode::ROTH)
                .map_err(self.failed("let the VM's user read", name));
        }
        self.mount(name, file, false)
    }

    /// Lets the process run a program of the host as [`PROGRAM`].
    pub(in crate::firecracker) fn show_program(&mut self, file: BorrowedFd<'_>) -> Result<(), VmmError> {
        mkdirat(&self.root, FOLDER, Mode::RWXU).map_err(self.failed("create", FOLDER))?;
        // Whatever the umask is.
        chmodat(&self.root, FOLDER, Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(self.failed("let the VM's user enter", FOLDER))?;
        drop(self.new_file(PROGRAM, OFlags::WRONLY)?);
        self.mount(PROGRAM, file, true)
    }

    fn mount(&mut self, name: &str, file: BorrowedFd<'_>, runs: bool) -> Result<(), VmmError> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(file, c"", flags).map_err(self.failed("mount a file on", name))?;
        let at = CString::new(self.path.join(name).as_os_str().as_bytes());
        let at = at.map_err(|_| self.failed("name", name)(Errno::INVAL))?;
        self.mounts.push((tree, at, runs));
        Ok(())
    }

    /// What [`Self::show`] showed, for the start of the process.
    pub(in crate::firecracker) fn mounts(&self) -> Vec<Mount<'_>> {
        let mounts = self.mounts.iter().map(|(tree, at, runs)| Mount {
            tree: tree.as_fd(),
            at,
            runs: *runs,
        });
        mounts.collect()
    }

    /// Lets go of what only the start of the process needs. Closing a mount waits for every CPU of the host, 10 ms and
    /// more; nobody waits for that.
    pub(in crate::firecracker) fn started(&mut self) {
        let mounts = std::mem::take(&mut self.mounts);
        drop(tokio::task::spawn_blocking(move || drop(mounts)));
    }

    /// A new file that the process may write to, of this size.
    pub(in crate::firecracker) fn writable(&self, name: &str, bytes: u64) -> Result<OwnedFd, VmmError> {
        let file = self.new_file(name, OFlags::RDWR)?;
        ftruncate(&file, bytes).map_err(self.failed("size", name))?;
        self.give(&file).map_err(self.failed("give away", name))?;
        Ok(file)
    }

    /// Removes a name.
    pub(in crate::firecracker) fn remove(&self, name: &str) -> Result<(), VmmError> {
        unlinkat(&self.root, name, AtFlags::empty()).map_err(self.failed("remove", name))
    }

    /// Puts a file of the host into the jail, for the process to write to, by a hard link.
    pub(in crate::firecracker) fn link(&self, name: &str, file: &OwnedFd) -> io::Result<()> {
        self.give(file)?;
        // By its descriptor, so that it is this very file whatever its name leads to now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, path, &self.root, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }

    /// A pipe for what the process logs: our end, and one for it to be born with.
    pub(in crate::firecracker) fn log(&self) -> Result<(OwnedFd, OwnedFd), VmmError> {
        self.make_pipe(LOG)?;
        // Reading first: the other end would wait for a reader.
        let ours = self.open_pipe(LOG, OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok((ours, self.open_pipe(LOG, OFlags::WRONLY)?))
    }

    /// A pipe for what the process counts: our end, which lets the pipe have no end.
    pub(in crate::firecracker) fn metrics(&self) -> Result<OwnedFd, VmmError> {
        self.make_pipe(METRICS)?;
        self.open_pipe(METRICS, OFlags::RDWR | OFlags::NONBLOCK)
    }

    fn make_pipe(&self, name: &str) -> Result<(), VmmError> {
        mknodat(&self.root, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(self.failed("create", name))?;
        let (uid, gid) = self.owner();
        chownat(&self.root, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("give away", name))
    }

    fn open_pipe(&self, name: &str, flags: OFlags) -> Result<OwnedFd, VmmError> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&self.root, name, flags, Mode::empty()).map_err(self.failed("open", name))
    }

    /// The folder of the process's sockets.
    pub(in crate::firecracker) fn run(&self) -> BorrowedFd<'_> {
        self.run.as_fd()
    }

    /// The API's socket, if it is there.
    pub(in crate::firecracker) fn api_socket(&self) -> io::Result<OwnedFd> {
        self.socket(API)
    }

    /// A socket that the process made. It could have made a link instead, to one of the host's or of another VM's that
    /// we may connect to and it may not; so this is the socket itself, to be connected to by [`path_of`].
    pub(in crate::firecracker) fn socket(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = openat(&self.run, name, flags, Mode::empty())?;
        match is_a(&fstat(&socket)?, FileType::Socket) {
            true => Ok(socket),
            false => Err(io::Error::other(format!("{name} is no socket"))),
        }
    }

    /// Where it is on the host.
    #[cfg(test)]
    pub(in crate::firecracker) fn path(&self) -> &Path {
        &self.path
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.uid)))
    }

    fn give(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        let (uid, gid) = self.owner();
        fchown(file, uid, gid)
    }

    fn new_file(&self, name: &str, access: OFlags) -> Result<OwnedFd, VmmError> {
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.root, name, flags, Mode::RUSR | Mode::WUSR).map_err(self.failed("create", name))
    }
}

fn is_a(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// A descriptor in a path that fits a socket address, however long its file's own is.
pub(in crate::firecracker) fn path_of(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
