//! A child that is born in a control group, or moves itself there.

#[cfg(target_arch = "x86_64")]
use crate::clone::{clone_args, clone_with_entry};
use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{BorrowedFd, RawFd},
};

/// Makes a child as `clone` with these flags does, in the group that `group` is the folder of. An older kernel, or a
/// container's filter of system calls, does not know the call; then nothing has happened.
///
/// # Safety
///
/// As for `clone`: `flags` has `CLONE_VM`, `CLONE_VFORK`, `CLONE_PIDFD` and `SIGCHLD`; `stack` (whose length is a multiple of
/// 16, at an address that is one too) and what `plan` points to are the child's until this returns; `child` never returns.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn born_in(
    group: BorrowedFd<'_>,
    flags: c_int,
    stack: &mut [u128],
    pidfd: &mut c_int,
    child: extern "C" fn(*mut c_void) -> c_int,
    plan: *mut c_void,
) -> io::Result<c_int> {
    let mut args = clone_args(
        u64::from((flags & !libc::CSIGNAL).cast_unsigned()),
        Some(group),
        pidfd,
    );
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = size_of_val(stack) as u64;
    // SAFETY: this function's own conditions.
    let pid = unsafe { clone_with_entry(&args, child, plan) };
    match c_int::try_from(pid) {
        Ok(pid @ 1..) => Ok(pid),
        Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
        Err(_) => Err(io::ErrorKind::Other.into()),
    }
}

/// Not written for this processor: the child moves itself.
///
/// # Safety
///
/// Nothing happens.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn born_in(
    _: BorrowedFd<'_>,
    _: c_int,
    _: &mut [u128],
    _: &mut c_int,
    _: extern "C" fn(*mut c_void) -> c_int,
    _: *mut c_void,
) -> io::Result<c_int> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Moves the calling process into a group.
///
/// # Safety
///
/// Allocates nothing and takes no lock: it may be called in a child that shares its parent's memory.
pub(super) unsafe fn join(group: RawFd) -> bool {
    // SAFETY: system calls on plain integers and on strings that are always there.
    unsafe {
        let file = libc::openat(group, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        // Zero is whoever writes it.
        let joined = file >= 0 && libc::write(file, c"0".as_ptr().cast(), 1) == 1;
        if file >= 0 {
            let errno = *libc::__errno_location();
            libc::close(file);
            *libc::__errno_location() = errno;
        }
        joined
    }
}
