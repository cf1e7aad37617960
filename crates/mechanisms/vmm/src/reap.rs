//! Ending what a dead owner left behind.
//!
//! A VMM process carries its sandbox's id on its command line, so it is found whenever its owner died: a record in a
//! file would be missing for one killed between the start and the writing. A pidfd is taken before the command line is
//! read, and the signal goes to that: a number given to another process in between cannot be hit.
//!
//! Whatever the driver is now, the dead owner may have used another: so all are looked for.

use crate::{Reap, VmIdentity, VmmError, firecracker, process::wait_foreign, qemu};
use async_trait::async_trait;
use std::{fs, io, os::fd::OwnedFd, time::Duration};

/// Reaps where no driver is at hand.
#[derive(Debug, Clone, Copy)]
pub struct Reaper;

#[async_trait]
impl Reap for Reaper {
    async fn reap(&self, identity: &VmIdentity) -> Result<Vec<String>, VmmError> {
        reap(identity).await
    }
}

/// See [`Reap::reap`].
pub(crate) async fn reap(identity: &VmIdentity) -> Result<Vec<String>, VmmError> {
    let sandbox = identity.sandbox.as_str();
    let marks = [
        ("QEMU", qemu::mark(sandbox)),
        ("Firecracker", firecracker::mark(sandbox)),
    ];
    let failed = |source| VmmError::Io {
        step: "ending what is left",
        source,
    };
    let mut ended = Vec::new();
    for (name, pid, pidfd) in find(&marks).await.map_err(failed)? {
        if end(pid, &pidfd).await.map_err(failed)? {
            ended.push(format!("{name} process {pid} of sandbox {sandbox}"));
        }
    }
    if firecracker::remove_cgroup(sandbox)? {
        ended.push(format!("control group of sandbox {sandbox}"));
    }
    Ok(ended)
}

/// How the command line of a sandbox's VMM begins.
pub(crate) struct Mark {
    /// Whether a program's name is the VMM's.
    pub(crate) program: fn(&[u8]) -> bool,
    /// What follows it.
    pub(crate) words: [String; 2],
}

async fn find(marks: &[(&'static str, Mark)]) -> io::Result<Vec<(&'static str, u32, OwnedFd)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        settled(pid).await;
        let is_ours = || {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut marks = marks.iter();
            marks.find_map(|(name, mark)| belongs(&line, mark).then_some(*name))
        };
        // Cheap look first; what passes is looked at again behind a pidfd.
        if is_ours().is_none() {
            continue;
        }
        let Some(raw) = rustix::process::Pid::from_raw(pid) else {
            continue;
        };
        let Ok(pidfd) = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        if let Some(name) = is_ours() {
            found.push((name, pid.unsigned_abs(), pidfd));
        }
    }
    Ok(found)
}

/// Waits while a process is between two programs: a jailer that becomes Firecracker has no command line for some
/// microseconds. A process may have none for good, or hide it, so this has a bound.
async fn settled(pid: i32) {
    for _ in 0..100 {
        let nameless = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
        // Threads of the kernel and processes that have ended run no program.
        if !nameless || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Kills it and waits for its end. It is nobody's child any more, or somebody else's. `false` if it is another user's,
/// who could give any process any name: those that we start we may end.
async fn end(pid: u32, pidfd: &OwnedFd) -> io::Result<bool> {
    match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => wait_foreign(pid).await.map(|()| true),
        Err(rustix::io::Errno::PERM) => {
            tracing::warn!(
                pid,
                "a process of another user has the name of a VMM of ours; it stays"
            );
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a command line is that of the VMM so marked.
fn belongs(cmdline: &[u8], mark: &Mark) -> bool {
    let mut words = cmdline.split(|b| *b == 0);
    words.next().is_some_and(mark.program) && mark.words.iter().all(|w| words.next() == Some(w.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_name_in_its_place() {
        let mark = qemu::mark("a");
        assert!(belongs(b"qemu-system-x86_64\0-name\0omnirun-a\0-m\0", &mark));
        assert!(!belongs(b"qemu-system-x86_64\0-name\0omnirun-ab\0-m\0", &mark));
        assert!(!belongs(b"vim\0-name\0omnirun-a\0", &mark));
        assert!(!belongs(
            b"qemu-system-x86_64\0-append\0-name\0omnirun-a\0",
            &mark
        ));
        assert!(!belongs(b"", &mark));
    }

    #[test]
    fn a_jail_is_known_before_and_after_the_jailer_ran_the_program() {
        let mark = firecracker::mark("sbx_a");
        assert!(belongs(b"jailer\0--id\0sbx-a\0--exec-file\0", &mark));
        assert!(belongs(
            b"/firecracker-v1.16.1\0--id\0sbx-a\0--start-time-us\0",
            &mark
        ));
        assert!(!belongs(b"/firecracker\0--id\0sbx-ab\0", &mark));
        assert!(!belongs(b"/usr/bin/thing\0--id\0sbx-a\0", &mark));
        assert!(!belongs(b"thing\0--id\0sbx-a\0", &mark));
    }
}
