//! A child that is born in a control group.
//!
//! A process that moves itself into a group waits until every CPU of the host has taken note, 10 ms and more. One that is
//! born in it waits for nothing, but only `clone3` can do that, and the C library does not offer it to others.

use std::{
    ffi::{c_int, c_long, c_void},
    io,
    os::fd::RawFd,
};

/// The kernel's `struct clone_args`, as it is since Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child as `clone` with these flags does, in the group that `group` is the folder of. An older kernel, or a
/// container's filter of system calls, does not know the call; then nothing has happened.
///
/// # Safety
///
/// As for `clone`: `flags` has `CLONE_VM` and `CLONE_VFORK`; `stack` (whose length is a multiple of 16, at an address
/// that is one too) and what `plan` points to are the child's until this returns; `child` never returns.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn born_in(
    group: RawFd,
    flags: c_int,
    stack: &mut [u128],
    pidfd: &mut c_int,
    child: extern "C" fn(*mut c_void) -> c_int,
    plan: *mut c_void,
) -> io::Result<c_int> {
    let args = CloneArgs {
        flags: u64::from((flags & !libc::CSIGNAL).cast_unsigned()) | CLONE_INTO_CGROUP,
        pidfd: std::ptr::from_mut(pidfd) as u64,
        exit_signal: u64::from((flags & libc::CSIGNAL).cast_unsigned()),
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        cgroup: u64::from(group.cast_unsigned()),
        ..CloneArgs::default()
    };
    let pid: c_long;
    // SAFETY: the kernel reads `args` and writes the pidfd. The parent goes on behind the label with its own stack and
    // registers; the child has the new stack, 16-byte aligned as a call wants it, on which it calls `child` and stays.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") plan,
            in("r13") child,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
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
    _: RawFd,
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
