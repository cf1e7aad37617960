//! Starting processes from a single-threaded PID 1, cheaply and in the right place.
//!
//! [`spawn`] is `vfork` done by hand: the child runs on a small stack of its own in our memory while we stand still, so no
//! page table is copied, and it is born in its cgroup (`CLONE_INTO_CGROUP`; moving it later would wait for a grace
//! period of the kernel). [`fork`] makes a copy of ourselves for work that needs no other program.

use crate::clone::{clone_args, clone_with_entry};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// Stack of a child before its `execve`. Our own few calls need some hundred bytes, the C library's wrappers little more.
const STACK: usize = 32 * 1024;

/// Where a child lives.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// The mount namespace that it enters; its root is then that namespace's.
    pub mounts: Option<BorrowedFd<'a>>,
    /// The cgroup that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// A directory that it makes its root.
    pub root: Option<&'a CStr>,
}

/// Who a child is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A program to start in a session of its own.
#[derive(Debug)]
pub struct Command<'a> {
    /// Paths to try, in this order, as `execvp` does.
    pub programs: &'a [CString],
    /// Its arguments, the zeroth included.
    pub argv: &'a [CString],
    /// Its environment, each `NAME=value`.
    pub env: &'a [CString],
    /// Its working directory.
    pub cwd: &'a CStr,
    /// Its descriptors, and the number that each gets there: no source may be the number of an earlier target. All
    /// others of ours close on exec.
    pub fds: &'a [(BorrowedFd<'a>, i32)],
    /// Where.
    pub place: Place<'a>,
    /// As whom; `None`: as ourselves.
    pub identity: Option<&'a Identity>,
}

/// A child that has not been reaped.
#[derive(Debug)]
pub struct Child {
    /// Its id, as we see it; its process group's too, if it was [spawned](spawn).
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// The step at which a child failed to become what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Making the process.
    Clone,
    /// Entering its namespace or root.
    Enter,
    /// Its descriptors.
    Stdio,
    /// Its user and groups.
    Identity,
    /// Its working directory.
    Cwd,
    /// The program.
    Exec,
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a process ({step:?})")]
pub struct SpawnError {
    /// Where it failed.
    pub step: Step,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What the child reads, prepared by the parent, and the place where it leaves its failure. The child allocates nothing.
struct Plan {
    programs: *const *const libc::c_char,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    cwd: *const libc::c_char,
    root: *const libc::c_char,
    fds: *const (BorrowedFd<'static>, i32),
    fd_count: usize,
    mounts: RawFd,
    identity: *const Identity,
    failed: libc::c_int,
    step: Step,
}

/// Starts a program.
///
/// # Errors
/// [`SpawnError`], with the step; nothing is left behind then.
pub fn spawn(command: &Command<'_>) -> Result<Child, SpawnError> {
    let programs = pointers(command.programs);
    let argv = pointers(command.argv);
    let env = pointers(command.env);
    let mut plan = Plan {
        programs: programs.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd: command.cwd.as_ptr(),
        root: command.place.root.map_or(ptr::null(), CStr::as_ptr),
        fds: command.fds.as_ptr().cast(),
        fd_count: command.fds.len(),
        mounts: command.place.mounts.map_or(-1, |fd| fd.as_raw_fd()),
        identity: command.identity.map_or(ptr::null(), ptr::from_ref),
        failed: 0,
        step: Step::Clone,
    };
    let mut stack = Vec::<u8>::with_capacity(STACK);
    let flags = libc::CLONE_VM as u64 | libc::CLONE_VFORK as u64;
    let mut pidfd: RawFd = -1;
    let mut args = clone_args(flags, command.place.cgroup, &mut pidfd);
    args.stack = stack.as_mut_ptr() as u64;
    // The calling convention wants the top aligned to 16 bytes.
    args.stack_size = STACK as u64 - (args.stack + STACK as u64) % 16;
    // SAFETY: `args` is whole and outlives the call, its stack is ours and untouched by anybody else, `pidfd` is live.
    // CLONE_VFORK keeps this thread still until the child has called execve or _exit, so `plan`, the vectors that it
    // points into and the stack outlive the child's use of them; nothing else in this process touches them.
    let pid = unsafe { clone_with_entry(&args, become_program, ptr::from_mut(&mut plan)) };
    if pid < 0 {
        return Err(SpawnError {
            step: Step::Clone,
            source: io::Error::from_raw_os_error(-pid as i32),
        });
    }
    let child = Child {
        pid: pid as i32,
        pidfd: own(pidfd),
    };
    // SAFETY: `plan` is a live local; read as volatile since another process wrote it.
    let failed = unsafe { ptr::read_volatile(&raw const plan.failed) };
    if failed != 0 {
        // SAFETY: as above.
        let step = unsafe { ptr::read_volatile(&raw const plan.step) };
        // It has called _exit: this does not wait for long.
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(child.pid, ptr::null_mut(), 0) };
        return Err(SpawnError {
            step,
            source: io::Error::from_raw_os_error(failed),
        });
    }
    Ok(child)
}

/// A descriptor that the kernel has just made for us.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: both callers pass what a system call has returned to them, which is nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// In the child: a straight line to `execve`. System calls only; no allocation, no locks.
extern "C" fn become_program(plan: *mut Plan) -> ! {
    // SAFETY: the parent stands still and keeps all of it alive (see `spawn`).
    let plan = unsafe { &mut *plan };
    // SAFETY: system calls on descriptors, C strings and arrays with a null at their end, all prepared by `spawn`. Users
    // and groups are set by raw calls: the C library's would tell other threads of the parent, whose memory this is.
    unsafe {
        libc::setsid();
        if plan.mounts >= 0 && libc::setns(plan.mounts, libc::CLONE_NEWNS) < 0 {
            give_up(plan, Step::Enter);
        }
        if !plan.root.is_null() && libc::chroot(plan.root) < 0 {
            give_up(plan, Step::Enter);
        }
        for &(fd, number) in std::slice::from_raw_parts(plan.fds, plan.fd_count) {
            if libc::dup2(fd.as_raw_fd(), number) < 0 {
                give_up(plan, Step::Stdio);
            }
        }
        if !plan.identity.is_null() && become_user(&*plan.identity).is_err() {
            give_up(plan, Step::Identity);
        }
        if libc::chdir(plan.cwd) < 0 {
            give_up(plan, Step::Cwd);
        }
        let mut program = plan.programs;
        let mut errno = libc::ENOENT;
        while !(*program).is_null() {
            libc::execve(*program, plan.argv, plan.env);
            match *libc::__errno_location() {
                libc::ENOENT | libc::ENOTDIR => {}
                // Worth telling if none of the others is there.
                libc::EACCES => errno = libc::EACCES,
                other => {
                    errno = other;
                    break;
                }
            }
            program = program.add(1);
        }
        *libc::__errno_location() = errno;
        give_up(plan, Step::Exec)
    }
}

fn give_up(plan: &mut Plan, step: Step) -> ! {
    // SAFETY: the place of this thread's errno, and an exit that runs no handlers.
    unsafe {
        plan.failed = *libc::__errno_location();
        plan.step = step;
        libc::_exit(127)
    }
}

/// Sets groups and user of the calling thread alone, for ever. Neither allocates nor locks.
///
/// # Errors
/// We may not.
pub fn become_user(identity: &Identity) -> io::Result<()> {
    let (uid, gid) = (identity.uid, identity.gid);
    // SAFETY: the pointer is to that many live integers; the others take integers.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_setgroups,
            identity.groups.len(),
            identity.groups.as_ptr(),
        ) < 0
            || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
            || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
    };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// New namespaces for a copy of ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// None: ours.
    Ours,
    /// Process ids and mounts.
    PidsAndMounts,
}

/// Makes a copy of this process: `Some` in the parent, `None` in the child.
///
/// In a process with one thread (PID 1) this is the bare system call. With more threads, as in tests, it goes through the
/// C library, whose allocator then works in the child too; namespaces and cgroup are refused there.
///
/// # Errors
/// The kernel refuses, or there are other threads and more than a plain copy is asked for.
pub fn fork(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Child>> {
    if !single_threaded() {
        if namespaces != Namespaces::Ours || cgroup.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // SAFETY: the C library makes its own locks usable in the child.
        let pid = unsafe { libc::fork() };
        return match pid {
            0 => Ok(None),
            _ if pid < 0 => Err(io::Error::last_os_error()),
            _ => {
                // SAFETY: a plain system call; the child is ours and not reaped, so the id is its.
                let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
                if pidfd < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(Some(Child {
                    pid,
                    pidfd: own(pidfd as RawFd),
                }))
            }
        };
    }
    let flags = match namespaces {
        Namespaces::Ours => 0,
        Namespaces::PidsAndMounts => libc::CLONE_NEWPID as u64 | libc::CLONE_NEWNS as u64,
    };
    let mut pidfd: RawFd = -1;
    let args = clone_args(flags, cgroup, &mut pidfd);
    // SAFETY: `args` is whole and live. Without CLONE_VM and without a stack this is a fork; there is one thread, so no
    // lock of this process can be held by a thread that the child does not have.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(None),
        _ if pid < 0 => Err(io::Error::last_os_error()),
        _ => Ok(Some(Child {
            pid: pid as i32,
            pidfd: own(pidfd),
        })),
    }
}

fn single_threaded() -> bool {
    unsafe extern "C" {
        /// The C library's own word; false once a second thread has been started.
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: the C library defines it, and writes it only when it starts a thread.
    unsafe { ptr::read_volatile(&raw const __libc_single_threaded) != 0 }
}
