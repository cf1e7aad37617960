//! Ending what a dead owner left behind.
//!
//! A VMM process carries its sandbox's id on its command line, so it is found whenever its owner died: a record in a
//! file would be missing for one killed between the start and the writing. A pidfd is taken before the command line is
//! read, and the signal goes to that: a number given to another process in between cannot be hit.

use super::{command_line::name, process::wait_foreign};
use std::{fs, io, os::fd::OwnedFd};

/// Ends the VMM processes of a sandbox and waits until they are gone. Says what it ended.
pub(super) async fn reap(sandbox: &str) -> io::Result<Vec<String>> {
    let mut ended = Vec::new();
    for (pid, pidfd) in find(sandbox)? {
        if !end(pid, &pidfd).await? {
            continue;
        }
        ended.push(format!("QEMU process {pid} of sandbox {sandbox}"));
    }
    Ok(ended)
}

fn find(sandbox: &str) -> io::Result<Vec<(u32, OwnedFd)>> {
    let name = name(sandbox);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let is_ours = || {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some(belongs(&line, &name))
        };
        // Cheap look first; what passes is looked at again behind a pidfd.
        if is_ours() != Some(true) {
            continue;
        }
        let Some(raw) = rustix::process::Pid::from_raw(pid) else {
            continue;
        };
        let Ok(pidfd) = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        if is_ours() == Some(true) {
            found.push((pid.unsigned_abs(), pidfd));
        }
    }
    Ok(found)
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

/// Whether a command line is that of the VMM of this name.
fn belongs(cmdline: &[u8], name: &str) -> bool {
    let mut words = cmdline.split(|b| *b == 0);
    words.next() == Some(b"qemu-system-x86_64")
        && words.next() == Some(b"-name")
        && words.next() == Some(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_name_in_its_place() {
        assert!(belongs(
            b"qemu-system-x86_64\0-name\0omnirun-a\0-m\0",
            "omnirun-a"
        ));
        assert!(!belongs(
            b"qemu-system-x86_64\0-name\0omnirun-ab\0-m\0",
            "omnirun-a"
        ));
        assert!(!belongs(b"vim\0-name\0omnirun-a\0", "omnirun-a"));
        assert!(!belongs(
            b"qemu-system-x86_64\0-append\0-name\0omnirun-a\0",
            "omnirun-a"
        ));
        assert!(!belongs(b"", "omnirun-a"));
    }
}
