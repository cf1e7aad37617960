//! What the child gives up before it reads the first byte from anybody.
//!
//! 1. capabilities (none are left, if its owner was root and gave it a user) and being dumpable;
//! 2. every file, and binding TCP ports: Landlock, with a ruleset that has no rules;
//! 3. system calls: seccomp filters, of which the strictest answer counts. One lets through what tokio and sockets need
//!    and answers everything else with `EPERM`, since a C library of tomorrow may try a call that is only nice to have.
//!    One ends the process at calls that only somebody else's code makes here. And one hides `clone3`, whose arguments no
//!    filter can see: the C library then uses `clone`.
//!
//! Threads that are started later inherit all of it, so it is done while there is one.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, Scope};
use rustix::{
    process::DumpableBehavior,
    thread::{CapabilitySet, CapabilitySets},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::{collections::BTreeMap, io};

/// Locks the calling thread, which must be the only one.
pub(super) fn enter() -> io::Result<()> {
    // Not where there are none to be had anyway: the kernel refuses nothing here but nonsense.
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    give_up_files()?;
    filter_calls()
}

/// Puts the ruleset on the calling thread.
fn give_up_files() -> io::Result<()> {
    let abi = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::BindTcp))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.restrict_self())
        .map(drop)
        .map_err(io::Error::other)
}

/// Puts the filters on the calling thread.
fn filter_calls() -> io::Result<()> {
    for filter in filters()? {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The last one forbids to add another.
fn filters() -> io::Result<[BpfProgram; 3]> {
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let hidden = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let hides_clone3 = compile(clone3, SeccompAction::Allow, hidden)?;
    Ok([deadly()?, hides_clone3, allowed()?])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}

/// Calls that end the process.
fn deadly() -> io::Result<BpfProgram> {
    let calls = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_open_by_handle_at,
    ];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// Calls that are let through.
fn allowed() -> io::Result<BpfProgram> {
    let mut rules: Rules = ANY_ARGUMENTS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend([libc::SYS_epoll_wait, libc::SYS_poll].map(|call| (call, Vec::new())));
    // TCP and UDP, over IPv4; over IPv6 for name servers.
    let kind = !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (of, protocol) in [
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            for protocol in [0, protocol] {
                sockets.push(rule(vec![is(0, family), has(1, kind, of), is(2, protocol)])?);
            }
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    // Both ends stay here: tokio wakes itself by such a pair.
    rules.insert(libc::SYS_socketpair, vec![rule(vec![is(0, libc::AF_UNIX)])?]);
    // Memory that is code already stays so; none becomes code.
    let data = || rule(vec![has(2, libc::PROT_EXEC, 0)]);
    rules.insert(libc::SYS_mmap, vec![data()?]);
    rules.insert(libc::SYS_mprotect, vec![data()?]);
    // Threads, but no processes.
    let thread = libc::CLONE_THREAD | libc::CLONE_VM;
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    rules.insert(
        libc::SYS_clone,
        vec![rule(vec![has(0, thread | namespaces, thread)])?],
    );
    let one_of = |argument, values: &[i32]| -> io::Result<Vec<SeccompRule>> {
        values
            .iter()
            .map(|value| rule(vec![is(argument, *value)]))
            .collect()
    };
    let descriptor = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_SETPIPE_SZ,
        libc::F_GETPIPE_SZ,
    ];
    rules.insert(libc::SYS_fcntl, one_of(1, &descriptor)?);
    rules.insert(libc::SYS_ioctl, one_of(1, &[libc::FIONBIO as i32])?);
    rules.insert(
        libc::SYS_prctl,
        one_of(0, &[libc::PR_SET_NAME, libc::PR_SET_VMA])?,
    );
    // A panic's way out, to itself alone.
    let own = std::process::id().cast_signed();
    rules.insert(libc::SYS_tgkill, one_of(0, &[own])?);
    // A thread's own, which without capabilities it can only lower.
    let own = rule(vec![is(0, libc::PRIO_PROCESS as i32), is(1, 0)])?;
    rules.insert(libc::SYS_setpriority, vec![own]);
    // Limits are asked for, of itself, and not set.
    let ask = rule(vec![
        is(0, 0),
        SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0).map_err(io::Error::other),
    ])?;
    rules.insert(libc::SYS_prlimit64, vec![ask]);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    compile(rules, refused, SeccompAction::Allow)
}

/// All of these conditions.
fn rule(conditions: Vec<io::Result<SeccompCondition>>) -> io::Result<SeccompRule> {
    let conditions = conditions.into_iter().collect::<io::Result<_>>()?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// An argument of 32 bits is this.
fn is(argument: u8, value: i32) -> io::Result<SeccompCondition> {
    let value = value.cast_unsigned().into();
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        .map_err(io::Error::other)
}

/// Of an argument's bits under the mask these are set and no others.
fn has(argument: u8, mask: i32, bits: i32) -> io::Result<SeccompCondition> {
    let (mask, bits) = (mask.cast_unsigned().into(), bits.cast_unsigned().into());
    let masked = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, bits).map_err(io::Error::other)
}

/// Calls that are harmless whatever they are asked, for who has no other descriptors.
const ANY_ARGUMENTS: &[i64] = &[
    // descriptors
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_splice,
    libc::SYS_pipe2,
    // sockets; not `listen`: whoever listens was handed its socket
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    // waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    // time and chance
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // memory
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // threads and the end of them; `clone3` is hidden by another filter
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
];

#[cfg(test)]
mod tests;
