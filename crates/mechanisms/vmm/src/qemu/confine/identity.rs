//! Who a QEMU process may be.

use crate::uids::UidRange;
use omnirun_sys::host::spawn::{NEW_USER, Spawn, spawn};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
};

/// Where the setuid tools are; an ordinary user of Debian has no `sbin` in PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who a VM's process is.
#[derive(Debug)]
pub(super) enum Identity {
    /// A uid of this range, given by root.
    Range(UidRange),
    /// A uid inside a user namespace of subordinate ids.
    Subordinate { namespace: OwnedFd, count: u32 },
    /// The caller's own.
    Own,
}

/// A user namespace with the caller's subordinate ids. A process holds it while the map is written; it stays for as
/// long as the descriptor does.
pub(super) fn subordinate() -> Result<Identity, String> {
    let user = rustix::process::getuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    });
    let of = |file: &str| -> Result<(u32, u32), String> {
        let table = fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
        subordinate_range(&table, name.as_deref(), user)
            .ok_or_else(|| format!("{file} has no range for this user"))
    };
    let (uids, gids) = (of("/etc/subuid")?, of("/etc/subgid")?);
    let io = |e: io::Error| e.to_string();
    let (read, write) = io::pipe().map_err(io)?;
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(io)?;
    let holder = spawn(&Spawn {
        program: c"/bin/cat",
        args: &[c"cat".to_owned()],
        fds: &[read.as_fd(), null.as_fd(), null.as_fd()],
        limits: &[],
        oom_score_adj: None,
        user_namespace: None,
        network_namespace: None,
        unshare: NEW_USER,
        mounts: &[],
        cgroup: None,
        credentials: None,
        landlock: None,
    })
    .map_err(|e| format!("{e}: {}", e.source))?;
    let map = |tool: &str, (first, count): (u32, u32)| -> Result<(), String> {
        let [pid, first, count] = [holder.pid, first, count].map(|n| n.to_string());
        let args = [pid.as_str(), "0", &first, &count];
        let output = Command::new(tool)
            .args(args)
            // Nothing of ours: there are keys in it.
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{tool}: {e}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "{tool}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    };
    let mapped = map("newuidmap", uids).and_then(|()| map("newgidmap", gids));
    let namespace = fs::File::open(format!("/proc/{}/ns/user", holder.pid)).map_err(io);
    drop(write);
    let id = rustix::process::WaitId::PidFd(holder.pidfd.as_fd());
    let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
    mapped?;
    Ok(Identity::Subordinate {
        namespace: namespace?.into(),
        count: uids.1.min(gids.1),
    })
}

fn subordinate_range(table: &str, name: Option<&str>, id: u32) -> Option<(u32, u32)> {
    let id = id.to_string();
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        ((Some(who) == name || who == id) && count >= 2).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ranges_are_by_name_or_number() {
        let table = "other:1:2\nme:100000:65536\n1001:200000:10\n";
        assert_eq!(subordinate_range(table, Some("me"), 1000), Some((100_000, 65536)));
        assert_eq!(subordinate_range(table, None, 1001), Some((200_000, 10)));
        assert_eq!(subordinate_range(table, Some("you"), 1002), None);
    }
}
