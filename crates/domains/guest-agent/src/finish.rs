//! The end of a call: what is left is ended (isolation mode `call`), what was written is on the session disk.

use crate::{
    paths::{CGROUP, open},
    sandbox::Sandbox,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Killed processes are gone in milliseconds, unless the kernel is stuck with one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends every process of the sandbox, however it forks, and says how many there were.
pub(crate) fn end_processes(sandbox: &Sandbox) -> u32 {
    if sandbox.skeleton().is_none() {
        return 0;
    }
    // Ours is the root of the cgroup namespace's view, but these paths are of the mount that was made before.
    let Ok(events) = open(&format!("{CGROUP}/cgroup.events"), OFlags::RDONLY) else {
        return 0;
    };
    if !populated(&events) {
        return 0;
    }
    let listed = fs::read_to_string(format!("{CGROUP}/cgroup.procs")).unwrap_or_default();
    // Some may be in cgroups below.
    let count = u32::try_from(listed.lines().count()).unwrap_or(u32::MAX).max(1);
    if fs::write(format!("{CGROUP}/cgroup.kill"), "1").is_err() {
        return count;
    }
    let give_up = Instant::now() + PATIENCE;
    while populated(&events) {
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&events, PollFlags::PRI)];
        let _ = poll(&mut fds, timeout.as_ref());
    }
    count
}

fn populated(events: &impl std::os::fd::AsFd) -> bool {
    let mut text = [0; 128];
    let length = rustix::io::pread(events, &mut text, 0).unwrap_or(0);
    text[..length].starts_with(b"populated 1")
}

/// Has all that was written to the session disk reach it, and waits, however long that takes.
pub(crate) fn sync(sandbox: &Sandbox) -> Result<(), Errno> {
    match sandbox.claimed() {
        Some(claimed) => rustix::fs::syncfs(&claimed.disk),
        None => Ok(()),
    }
}
