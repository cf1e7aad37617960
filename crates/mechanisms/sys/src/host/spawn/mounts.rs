//! What a child finds mounted.

use std::{
    ffi::{CStr, c_char, c_ulong},
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

/// A file that is mounted, read-only, in a process's own mount namespace.
#[derive(Debug, Clone, Copy)]
pub struct Mount<'a> {
    /// A detached mount as `open_tree` makes it, of a file that has a name.
    pub tree: BorrowedFd<'a>,
    /// Where it goes.
    pub at: &'a CStr,
    /// Whether it is a program that may be run.
    pub runs: bool,
}

/// The same for the child.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    tree: RawFd,
    at: *const c_char,
    flags: c_ulong,
}

impl Mount<'_> {
    pub(super) fn plan(&self) -> Planned {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
        Planned {
            tree: self.tree.as_raw_fd(),
            at: self.at.as_ptr(),
            flags: match self.runs {
                true => flags,
                false => flags | libc::MS_NOEXEC,
            },
        }
    }
}

/// Takes on a mount namespace and puts the mounts into it; `false` with `errno` set if one cannot be.
///
/// # Safety
///
/// Only in a child as [`super::spawn`] makes it, with all pointers valid.
pub(super) unsafe fn enter(mounts: &[Planned]) -> bool {
    let none = ptr::null::<c_char>();
    // SAFETY: system calls on plain integers and on strings that the caller keeps valid; what the kernel does not need
    // may be null.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) < 0 {
            return false;
        }
        // Nothing of it comes to the host's namespace.
        let private = libc::MS_REC | libc::MS_PRIVATE;
        if libc::mount(none, c"/".as_ptr(), none, private, ptr::null()) < 0 {
            return false;
        }
        for Planned { tree, at, flags } in mounts {
            let here = (*tree, c"".as_ptr(), libc::AT_FDCWD, *at);
            let empty = libc::MOVE_MOUNT_F_EMPTY_PATH;
            if libc::syscall(libc::SYS_move_mount, here.0, here.1, here.2, here.3, empty) < 0
                || libc::mount(none, *at, none, *flags, ptr::null()) < 0
            {
                return false;
            }
        }
    }
    true
}
