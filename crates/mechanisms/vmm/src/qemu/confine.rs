//! How a QEMU process is kept from everything but its machine.
//!
//! | who starts it | identity | beside it |
//! | -- | -- | -- |
//! | root | a uid per VM that owns nothing | Landlock, empty network and IPC namespaces |
//! | an ordinary user with subordinate ids | one of those per VM, in a user namespace | the same |
//! | any other | the user's own | Landlock |
//!
//! Always: QEMU's seccomp filter (no new processes, no privileges), own session, empty environment, only named
//! descriptors, no new privileges, limits, a raised OOM score. Landlock leaves it the programs and data of the system
//! for reading, so that whatever a file's permissions say, it opens nothing of the data folder or of anybody's home.
//!
//! What a host allows is found by trying: the candidates are run, strictest first, to ask QEMU for its version.

use super::{
    process::wait_foreign,
    version::{INSTALL, Program},
};
use crate::{VmmError, accel::Accel};
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use omnirun_sys::host::spawn::{
    CORE, Credentials, Limit, NEW_IPC, NEW_NETWORK, NEW_USER, NOFILE, Spawn, SpawnError, Spawned, spawn,
};
use std::{
    ffi::CString,
    fs,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// First uid for VMs started by root: beyond what distributions and container managers give out, below 2^31.
const FIRST_UID: u32 = 0x7000_0000;
/// How many. Uids are a hash of the sandbox's id: two VMs that meet in one are still kept apart by Landlock.
const UIDS: u32 = 1 << 28;

/// Where programs, libraries and firmware are.
const READABLE: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
    "/dev/urandom",
    "/sys/devices/system",
];

/// Confinement as this host allows it.
#[derive(Debug)]
pub(super) struct Confinement {
    identity: Identity,
    landlock: bool,
    namespaces: bool,
    kvm_group: Option<u32>,
    program: PathBuf,
}

#[derive(Debug)]
enum Identity {
    /// A uid of this range, given by root.
    Range { first: u32, count: u32 },
    /// A uid inside a user namespace of subordinate ids.
    Subordinate { namespace: OwnedFd, count: u32 },
    /// The caller's own.
    Own,
}

impl Confinement {
    /// Finds the strictest confinement in which QEMU starts, and asks it for its version.
    pub(super) fn find(path: PathBuf, accel: &Accel) -> Result<(Self, Program), VmmError> {
        let root = rustix::process::geteuid().is_root();
        let kvm_group = match accel {
            Accel::Kvm => fs::metadata("/dev/kvm").ok().map(|m| m.gid()),
            Accel::Emulation { .. } => None,
        };
        let mut identities = Vec::new();
        if root {
            identities.extend(range(
                &fs::read_to_string("/proc/self/uid_map").unwrap_or_default(),
            ));
        } else {
            match subordinate() {
                Ok(identity) => identities.push(identity),
                Err(why) => tracing::debug!(why, "no user namespace of subordinate ids"),
            }
        }
        identities.push(Identity::Own);
        let mut last = None;
        for identity in identities {
            let mut candidate = Self {
                identity,
                landlock: true,
                namespaces: true,
                kvm_group,
                program: path.clone(),
            };
            for (landlock, namespaces) in [(true, true), (true, false), (false, false)] {
                if namespaces && matches!(candidate.identity, Identity::Own) && !root {
                    continue;
                }
                (candidate.landlock, candidate.namespaces) = (landlock, namespaces);
                match candidate.ask_version() {
                    Ok(said) => return Ok((candidate, Program::from_said(path, &said)?)),
                    Err(error) => {
                        tracing::debug!(
                            ?candidate,
                            error = format!("{error:?}"),
                            "QEMU does not start so confined"
                        );
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| VmmError::Missing {
            program: path.display().to_string(),
            install: INSTALL,
        }))
    }

    fn ask_version(&self) -> Result<String, VmmError> {
        let failed = |source| VmmError::Spawn {
            program: self.program.display().to_string(),
            source,
        };
        let null = fs::File::open("/dev/null").map_err(failed)?;
        let (mut read, write) = io::pipe().map_err(failed)?;
        let args = [c"qemu-system-x86_64".to_owned(), c"--version".to_owned()];
        let fds = [null.as_fd(), write.as_fd(), null.as_fd()];
        let spawned = self
            .spawn("version", &args, &fds, &[])
            .map_err(|e| failed(e.source))?;
        drop(write);
        let mut said = String::new();
        let result = Read::by_ref(&mut read).take(64 * 1024).read_to_string(&mut said);
        let id = rustix::process::WaitId::PidFd(spawned.pidfd.as_fd());
        let status = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED)
            .ok()
            .flatten();
        result.map_err(failed)?;
        match status.and_then(|s| s.exit_status()) {
            Some(0) => Ok(said),
            _ => Err(VmmError::Refused {
                step: "--version",
                reason: format!("it ended with {status:?}"),
            }),
        }
    }

    /// Starts QEMU for a sandbox, with these descriptors from 0 on. `readable` are files beside its descriptors that it
    /// opens by itself.
    pub(super) fn spawn(
        &self,
        sandbox: &str,
        args: &[CString],
        fds: &[BorrowedFd<'_>],
        readable: &[BorrowedFd<'_>],
    ) -> Result<Spawned, SpawnError> {
        let invalid = |step, e: String| SpawnError {
            step,
            source: io::Error::new(io::ErrorKind::InvalidInput, e),
        };
        let program = CString::new(self.program.as_os_str().as_bytes())
            .map_err(|e| invalid("naming the program", e.to_string()))?;
        let ruleset = match self.landlock {
            true => ruleset(&self.program, readable)
                .map_err(|e| invalid("making a Landlock ruleset", e.to_string()))?,
            false => None,
        };
        let slot = |count: u32| (hash(sandbox) % u64::from(count)) as u32;
        let (credentials, namespace) = match &self.identity {
            Identity::Range { first, count } => {
                let id = first + slot(*count);
                (
                    Some(Credentials {
                        uid: id,
                        gid: id,
                        groups: Some(self.kvm_group.into_iter().collect()),
                    }),
                    None,
                )
            }
            Identity::Subordinate { namespace, count } => {
                let id = 1 + slot(count - 1);
                // With KVM the groups stay: access to its device may hang on one, and none can be given from inside.
                let groups = self.kvm_group.is_none().then(Vec::new);
                (
                    Some(Credentials {
                        uid: id,
                        gid: id,
                        groups,
                    }),
                    Some(namespace.as_fd()),
                )
            }
            Identity::Own => (None, None),
        };
        spawn(&Spawn {
            program: &program,
            args,
            fds,
            limits: &LIMITS,
            oom_score_adj: Some("500"),
            user_namespace: namespace,
            unshare: if self.namespaces { NEW_NETWORK | NEW_IPC } else { 0 },
            credentials,
            landlock: ruleset.as_ref().map(AsFd::as_fd),
        })
    }

    /// In words, for `doctor`.
    pub(super) fn words(&self) -> String {
        let who = match self.identity {
            Identity::Range { .. } => "a uid of its own per VM",
            Identity::Subordinate { .. } => "a subordinate uid per VM in a user namespace",
            Identity::Own => "the uid of the caller",
        };
        let mut words = format!("{who}, seccomp, no new privileges, limits");
        for (on, what) in [
            (self.landlock, "Landlock"),
            (self.namespaces, "empty network namespace"),
        ] {
            if on {
                words.push_str(", ");
                words.push_str(what);
            }
        }
        words
    }
}

/// Soft and hard limits. The size of files follows when there is one to write to: see `attach_disk`.
const LIMITS: [Limit; 2] = [(CORE, 0, 0), (NOFILE, 256, 256)];

/// FNV-1a: spreads ids over slots; nothing depends on more.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The ids for VMs, out of those that exist here (root of a container may not have them all).
fn range(uid_map: &str) -> Option<Identity> {
    let parts = uid_map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(|f| f.parse::<u64>().ok());
        let (inside, _, count) = (fields.next()??, fields.next()??, fields.next()??);
        Some(inside..inside + count)
    });
    let mut best: Option<Identity> = None;
    for part in parts {
        let (first, end) = (u64::from(FIRST_UID), u64::from(FIRST_UID + UIDS));
        if part.start <= first && part.end >= end {
            return Some(Identity::Range {
                first: FIRST_UID,
                count: UIDS,
            });
        }
        // The upper half of what there is stays clear of the distribution's own users.
        let first = part.start + (part.end - part.start) / 2;
        if first >= 10_000 && best.is_none() {
            let (first, count) = (u32::try_from(first).ok()?, u32::try_from(part.end - first).ok()?);
            best = Some(Identity::Range { first, count });
        }
    }
    best
}

fn ruleset(program: &Path, readable: &[BorrowedFd<'_>]) -> Result<Option<OwnedFd>, landlock::RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    // QEMU outside the system's folders has its firmware in ../share.
    let own = program
        .parent()
        .map(|bin| bin.parent().unwrap_or(bin))
        .filter(|p| p.parent().is_some());
    for path in READABLE.iter().map(Path::new).chain(own) {
        if let Ok(fd) = PathFd::new(path) {
            let access = if path.is_dir() {
                read
            } else {
                AccessFs::ReadFile.into()
            };
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    // It probes for locks on the one and runs guests through the other.
    for device in ["/dev/null", "/dev/kvm"] {
        if let Ok(fd) = PathFd::new(device) {
            let access = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    for fd in readable {
        rules = rules.add_rule(PathBeneath::new(*fd, AccessFs::ReadFile))?;
    }
    Ok(rules.into())
}

/// A user namespace with the caller's subordinate ids. A process holds it while the map is written; it stays for as
/// long as the descriptor does.
fn subordinate() -> Result<Identity, String> {
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
        unshare: NEW_USER,
        credentials: None,
        landlock: None,
    })
    .map_err(|e| format!("{e}: {}", e.source))?;
    let map = |tool: &str, (first, count): (u32, u32)| -> Result<(), String> {
        let [pid, first, count] = [holder.pid, first, count].map(|n| n.to_string());
        let args = [pid.as_str(), "0", &first, &count];
        let output = Command::new(tool)
            .args(args)
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

/// Kills and waits for what belongs to nobody any more; see [`super::reap`].
pub(super) async fn end(pid: u32, pidfd: &OwnedFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => wait_foreign(pid).await,
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_what_the_host_has() {
        let Some(Identity::Range { first, count }) = range("         0          0 4294967295\n") else {
            panic!()
        };
        assert_eq!((first, count), (FIRST_UID, UIDS));
        let Some(Identity::Range { first, count }) = range("0 100000 65536\n") else {
            panic!()
        };
        assert_eq!((first, count), (32768, 32768));
        assert!(range("0 1000 1\n").is_none());
        assert!(range("garbage\n").is_none());
    }

    #[test]
    fn subordinate_ranges_are_by_name_or_number() {
        let table = "other:1:2\nme:100000:65536\n1001:200000:10\n";
        assert_eq!(subordinate_range(table, Some("me"), 1000), Some((100_000, 65536)));
        assert_eq!(subordinate_range(table, None, 1001), Some((200_000, 10)));
        assert_eq!(subordinate_range(table, Some("you"), 1002), None);
    }
}
