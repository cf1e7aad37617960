//! What a process of ours changes about itself.

use std::io;

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The kernel refuses.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: for a child that is about to use none of them. Owners of the closed descriptors never run in it.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets writes to a closed pipe end a process, as programs expect it (Rust's runtime ignores the signal, and children
/// would inherit that). PID 1 itself is immune to signals that it does not handle.
pub fn default_sigpipe() {
    // SAFETY: sets a disposition; there is no handler involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Leaves at once, running nothing of this process.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// The calling process, alone, never dies of its children: the kernel reaps them. For the init of a pid namespace, which
/// has nothing else to do.
pub fn reap_and_wait_for_ever() -> ! {
    // SAFETY: sets a disposition; there is no handler involved.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    loop {
        // SAFETY: sleeps until a signal.
        unsafe { libc::pause() };
    }
}

/// The calling process may nothing that an ordinary user may not.
///
/// # Errors
/// The kernel refuses.
pub fn give_up_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(set_capabilities(None, sets)?)
}

/// Puts the calling process into a new cgroup namespace, whose root is the cgroup that it is in.
///
/// # Errors
/// We may not.
pub fn new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: no memory is shared or unshared by this flag.
    if unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the calling process its root, working directory and umask for itself. The kernel starts PID 1 with those of its
/// own threads, and who shares them cannot change its mount namespace.
///
/// # Errors
/// No memory.
pub fn own_root() -> io::Result<()> {
    // SAFETY: no memory is shared or unshared by this flag.
    if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
