//! `clone3`, which the C library does not offer to others: a child that is born in a control group, and one that goes on
//! in a function of its own while we stand still.
//!
//! A process that moves itself into a group waits until every CPU of the host has taken note, 10 ms and more. One that is
//! born in it waits for nothing.

use std::{
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

/// `libc` has it in a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What makes a child with a pidfd, which ends with `SIGCHLD`, born in this group. The stack is the caller's to add.
pub(crate) fn clone_args(flags: u64, cgroup: Option<BorrowedFd<'_>>, pidfd: &mut RawFd) -> libc::clone_args {
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    args
}

/// `clone3`; the child calls `entry` on the stack of `args`. The child's number, or the error's negative one.
///
/// # Safety
/// `args` must have `CLONE_VM`, `CLONE_VFORK` and a stack whose top is aligned to 16 bytes, the pidfd that it names must be
/// live, and `plan` and all that it points to must live until the child has called `execve` or `_exit`. `entry` never
/// returns.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn clone_with_entry<P, R>(
    args: &libc::clone_args,
    entry: extern "C" fn(*mut P) -> R,
    plan: *mut P,
) -> i64 {
    let result: i64;
    // SAFETY: the parent's path through the assembly changes no register but rax, and rcx and r11 as every system call
    // does. The child's path never comes back: it calls a function that does not return, on the new stack, whose top is
    // aligned as the calling convention wants it before a call.
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
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") plan,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}
