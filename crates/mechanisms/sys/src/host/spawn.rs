//! Starting a process that is handed exactly what it is named, and nothing else.
//!
//! `std::process::Command` falls back from `posix_spawn` to `fork` as soon as a step must run between the two halves,
//! and a fork of a large owner costs milliseconds. Here the child is made as `posix_spawn` makes it: it borrows the
//! parent's memory on a stack of its own while the calling thread waits (`CLONE_VM | CLONE_VFORK`), and reports a
//! failure by writing it into that memory.
//!
//! One thing that the child does shows in the parent: a change of identity makes the memory that both share
//! "not dumpable", and with that the parent's own `/proc` files root's. So it is put back, and starts go one by one:
//! each would otherwise take another's change for how things were.
//!
//! A process that belongs in a control group is born there where the kernel can do that (`birth`), and else moves itself
//! there before anything else.
//!
//! The child's steps are a straight line, in this order: control group, own session, OOM score, user and network namespace, further namespaces,
//! mounts, identity, no new privileges, Landlock, descriptors, limits, signals, exec. Landlock comes before the
//! descriptors since its ruleset is one that the program must not keep; limits come after, since a low `RLIMIT_NOFILE`
//! would forbid the shuffle.
//!
//! A new pid namespace is there from the child's birth, so that the program itself is its first process: whoever kills
//! that one ends all of them.

mod birth;
mod mounts;

pub use mounts::Mount;

use std::{
    ffi::{CStr, CString, c_int, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::{Mutex, PoisonError},
};

/// Who the process is to be.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User id, real, effective and saved; as seen from inside the user namespace, if one is entered.
    pub uid: u32,
    /// Group id, the same way.
    pub gid: u32,
    /// Supplementary groups. `None` leaves them as they are.
    pub groups: Option<Vec<u32>>,
}

/// Size of a core dump.
pub const CORE: u32 = libc::RLIMIT_CORE;
/// Number of open files.
pub const NOFILE: u32 = libc::RLIMIT_NOFILE;
/// An empty network namespace.
pub const NEW_NETWORK: c_int = libc::CLONE_NEWNET;
/// An empty IPC namespace.
pub const NEW_IPC: c_int = libc::CLONE_NEWIPC;
/// A user namespace without a map.
pub const NEW_USER: c_int = libc::CLONE_NEWUSER;
/// A pid namespace of which the process is the first.
pub const NEW_PID: c_int = libc::CLONE_NEWPID;

/// A limit to set: resource ([`CORE`], [`NOFILE`]), soft, hard.
pub type Limit = (u32, u64, u64);

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Absolute path of the program. Its environment will be empty.
    pub program: &'a CStr,
    /// Arguments, with the program's name first.
    pub args: &'a [CString],
    /// Its descriptors: the first becomes 0, the next 1, and so on. There are no others.
    pub fds: &'a [BorrowedFd<'a>],
    /// Limits.
    pub limits: &'a [Limit],
    /// What is written to `oom_score_adj`, as text.
    pub oom_score_adj: Option<&'a str>,
    /// A user namespace to enter.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// A network namespace to enter.
    pub network_namespace: Option<BorrowedFd<'a>>,
    /// Namespaces to leave ([`NEW_NETWORK`], [`NEW_IPC`], [`NEW_USER`], [`NEW_PID`]).
    pub unshare: c_int,
    /// Mounts in a mount namespace of the process's own. With none of them it stays in the caller's.
    pub mounts: &'a [Mount<'a>],
    /// The folder of a control group to be in, from the first step on.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Identity to take on.
    pub credentials: Option<Credentials>,
    /// A Landlock ruleset to live under.
    pub landlock: Option<BorrowedFd<'a>>,
}

/// A started process. It becomes a zombie until its pidfd is waited on.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// Names it beyond any reuse of the id.
    pub pidfd: OwnedFd,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct SpawnError {
    /// The step.
    pub step: &'static str,
    /// The cause.
    #[source]
    pub source: io::Error,
}

const STEPS: [&str; 16] = [
    "making the process",
    "starting a session",
    "setting the OOM score",
    "entering the user namespace",
    "leaving namespaces",
    "setting groups",
    "setting the group id",
    "setting the user id",
    "giving up new privileges",
    "restricting with Landlock",
    "handing over descriptors",
    "setting limits",
    "running the program",
    "mounting files",
    "joining the control group",
    "entering the network namespace",
];

/// Everything that the child reads, prepared before it exists: it must not allocate.
struct Plan {
    program: *const libc::c_char,
    argv: Vec<*const libc::c_char>,
    envp: [*const libc::c_char; 1],
    fds: Vec<RawFd>,
    moved: Vec<RawFd>,
    limits: Vec<Limit>,
    oom: Option<CString>,
    user_namespace: RawFd,
    network_namespace: RawFd,
    unshare: c_int,
    mounts: Vec<mounts::Planned>,
    /// To be joined; none if the child is born in it.
    cgroup: RawFd,
    credentials: Option<Credentials>,
    landlock: RawFd,
    failed: (usize, c_int),
}

const STACK: usize = 64 * 1024;

/// Starts a process.
pub fn spawn(what: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    start(what, true)
}

/// Starts a process; `born_in`: in its control group from its birth, if the kernel can do that.
fn start(what: &Spawn<'_>, born_in: bool) -> Result<Spawned, SpawnError> {
    let fail = |step: usize, errno: c_int| SpawnError {
        step: STEPS[step],
        source: io::Error::from_raw_os_error(errno),
    };
    let oom = match what.oom_score_adj.map(CString::new).transpose() {
        Ok(oom) => oom,
        Err(_) => return Err(fail(2, libc::EINVAL)),
    };
    let mut argv: Vec<_> = what.args.iter().map(|a| a.as_ptr()).collect();
    argv.push(ptr::null());
    let mut plan = Plan {
        program: what.program.as_ptr(),
        argv,
        envp: [ptr::null()],
        fds: what.fds.iter().map(|fd| fd.as_raw_fd()).collect(),
        moved: vec![-1; what.fds.len()],
        limits: what.limits.to_vec(),
        oom,
        user_namespace: what.user_namespace.map_or(-1, |fd| fd.as_raw_fd()),
        network_namespace: what.network_namespace.map_or(-1, |fd| fd.as_raw_fd()),
        unshare: what.unshare & !NEW_PID,
        mounts: what.mounts.iter().map(Mount::plan).collect(),
        cgroup: -1,
        credentials: what.credentials.clone(),
        landlock: what.landlock.map_or(-1, |fd| fd.as_raw_fd()),
        failed: (0, 0),
    };
    let mut stack = vec![0u128; STACK / 16];
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let one = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dumpable = rustix::process::dumpable_behavior();
    let mut pidfd: c_int = -1;
    // SAFETY:
    // - The signal sets are initialised by `sigfillset` and `pthread_sigmask` before they are read.
    // - All signals are blocked while the child shares our memory, so no handler of ours runs in it.
    // - `stack` is 16-byte aligned, the child's stack pointer starts at its end, and both `stack` and `plan` outlive
    //   the child's use of them: `CLONE_VFORK` keeps this thread from going on until the child has exec'd or exited.
    // - `child` allocates nothing, takes no lock and does not unwind (see there).
    let (pid, errno) = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let born = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let flags = born | (what.unshare & NEW_PID);
        let in_group = what.cgroup.filter(|_| born_in).and_then(|group| {
            let plan = ptr::from_mut(&mut plan).cast();
            birth::born_in(group, flags, &mut stack, &mut pidfd, child, plan).ok()
        });
        let pid = in_group.unwrap_or_else(|| {
            // Whatever was wrong with that: what stands against the group itself, joining it will tell.
            plan.cgroup = what.cgroup.map_or(-1, |fd| fd.as_raw_fd());
            libc::clone(
                child,
                stack.as_mut_ptr().add(stack.len()).cast::<c_void>(),
                flags,
                ptr::from_mut(&mut plan).cast(),
                ptr::from_mut(&mut pidfd),
            )
        });
        let errno = *libc::__errno_location();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        (pid, errno)
    };
    if let Ok(behavior) = dumpable {
        // Refused only for "readable by root", which is what the child's change amounts to.
        let _ = rustix::process::set_dumpable_behavior(behavior);
    }
    drop(one);
    if pid < 0 {
        return Err(fail(0, errno));
    }
    // SAFETY: with CLONE_PIDFD a successful clone stored a new descriptor there, which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: read through a volatile load since another process of the same memory wrote it.
    let failed = unsafe { ptr::read_volatile(&plan.failed) };
    if failed.1 != 0 {
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(rustix::fd::AsFd::as_fd(&pidfd)),
            rustix::process::WaitIdOptions::EXITED,
        );
        return Err(fail(failed.0, failed.1));
    }
    Ok(Spawned {
        pid: pid.cast_unsigned(),
        pidfd,
    })
}

/// The child's side. Raw system calls only: the C library's `setuid` family would signal the parent's threads.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to its `Plan`, which lives until this process execs or exits, and touches it
    // no more in the meantime. Nothing below allocates or frees: the vectors are read and written in place.
    unsafe {
        let plan = &mut *plan.cast::<Plan>();
        let failed = run(plan);
        ptr::write_volatile(&mut plan.failed, (failed, *libc::__errno_location()));
        libc::_exit(127)
    }
}

/// Runs the steps; returns the number of the one that failed, with `errno` set.
///
/// # Safety
///
/// Only in a child as [`spawn`] makes it, with all pointers of the plan valid.
unsafe fn run(plan: &mut Plan) -> usize {
    // SAFETY: system calls on plain integers and on pointers that the plan keeps valid.
    unsafe {
        if plan.cgroup >= 0 && !birth::join(plan.cgroup) {
            return 14;
        }
        if libc::syscall(libc::SYS_setsid) < 0 {
            return 1;
        }
        if let Some(score) = &plan.oom {
            let file = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            let bytes = score.to_bytes();
            if file < 0 || libc::write(file, bytes.as_ptr().cast(), bytes.len()) < 0 {
                return 2;
            }
            libc::close(file);
        }
        if plan.user_namespace >= 0 && libc::setns(plan.user_namespace, libc::CLONE_NEWUSER) < 0 {
            return 3;
        }
        if plan.network_namespace >= 0 && libc::setns(plan.network_namespace, libc::CLONE_NEWNET) < 0 {
            return 15;
        }
        if plan.unshare != 0 && libc::unshare(plan.unshare) < 0 {
            return 4;
        }
        if !plan.mounts.is_empty() && !mounts::enter(&plan.mounts) {
            return 13;
        }
        if let Some(who) = &plan.credentials {
            if let Some(groups) = &who.groups
                && libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0
            {
                return 5;
            }
            if libc::syscall(libc::SYS_setresgid, who.gid, who.gid, who.gid) < 0 {
                return 6;
            }
            if libc::syscall(libc::SYS_setresuid, who.uid, who.uid, who.uid) < 0 {
                return 7;
            }
        }
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return 8;
        }
        if plan.landlock >= 0 && libc::syscall(libc::SYS_landlock_restrict_self, plan.landlock, 0) < 0 {
            return 9;
        }
        // First out of the way of the targets, then into place: a source may have a target's number.
        let count = plan.fds.len() as c_int;
        for (moved, fd) in plan.moved.iter_mut().zip(&plan.fds) {
            *moved = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, count);
            if *moved < 0 {
                return 10;
            }
        }
        for (target, moved) in plan.moved.iter().enumerate() {
            if libc::dup2(*moved, target as c_int) < 0 {
                return 10;
            }
        }
        // Not before the program runs: whoever waits for a lock of ours to be free, since we died, is to find it then.
        let on_exec = libc::CLOSE_RANGE_CLOEXEC;
        if libc::syscall(libc::SYS_close_range, count, c_int::MAX, on_exec) < 0
            // Kernels before 5.11 do not know how.
            && libc::syscall(libc::SYS_close_range, count, c_int::MAX, 0) < 0
        {
            return 10;
        }
        for (resource, soft, hard) in &plan.limits {
            let limit = libc::rlimit64 {
                rlim_cur: *soft,
                rlim_max: *hard,
            };
            if libc::syscall(
                libc::SYS_prlimit64,
                0,
                *resource,
                &limit,
                ptr::null_mut::<c_void>(),
            ) < 0
            {
                return 11;
            }
        }
        // Ignored signals survive an exec, and so does the mask.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::execve(plan.program, plan.argv.as_ptr(), plan.envp.as_ptr());
        12
    }
}

#[cfg(test)]
mod tests;
