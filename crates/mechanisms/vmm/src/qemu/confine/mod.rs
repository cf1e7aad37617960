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

mod files;
mod identity;

use super::version::{INSTALL, Program, excerpt};
use crate::VmmError;
use identity::{Identity, range, subordinate};
use omnirun_sys::host::spawn::{
    CORE, Credentials, Limit, NEW_IPC, NEW_NETWORK, NOFILE, Spawn, SpawnError, Spawned, spawn,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};
use std::{
    ffi::CString,
    fs,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

/// Confinement as this host allows it.
#[derive(Debug)]
pub(super) struct Confinement {
    identity: Identity,
    landlock: bool,
    namespaces: bool,
    kvm_group: Option<u32>,
    program: PathBuf,
}

impl Confinement {
    /// Finds the strictest confinement in which QEMU starts, and asks it for its version.
    pub(super) fn find(path: PathBuf) -> Result<(Self, Program), VmmError> {
        let root = rustix::process::geteuid().is_root();
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
        let has_landlock = matches!(files::ruleset(&path, &[]), Ok(Some(_)));
        let mut last = None;
        for identity in identities {
            let mut candidate = Self {
                identity,
                landlock: true,
                namespaces: true,
                kvm_group: None,
                program: path.clone(),
            };
            for (landlock, namespaces) in [(true, true), (true, false), (false, true), (false, false)] {
                let possible = !namespaces || root || !matches!(candidate.identity, Identity::Own);
                if !possible || (landlock && !has_landlock) {
                    continue;
                }
                (candidate.landlock, candidate.namespaces) = (landlock, namespaces);
                let begun = Instant::now();
                match candidate.ask_version() {
                    Ok(said) => return Ok((candidate, Program::from_said(path, &said)?)),
                    // Not for want of leave: it would only be waited for again.
                    Err(error) if begun.elapsed() >= ANSWER => return Err(error),
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

    /// Lets the processes open `/dev/kvm`. Where a subordinate id could not, the caller's own is kept.
    pub(super) fn allow_kvm(&mut self) {
        let Ok(device) = fs::metadata("/dev/kvm") else {
            return;
        };
        self.kvm_group = Some(device.gid());
        let everyone = device.mode() & 0o006 == 0o006;
        let by_group = device.mode() & 0o060 == 0o060
            && rustix::process::getgroups().is_ok_and(|all| all.iter().any(|g| g.as_raw() == device.gid()));
        if matches!(self.identity, Identity::Subordinate { .. }) && !everyone && !by_group {
            (self.identity, self.namespaces) = (Identity::Own, false);
        }
    }

    /// What the program says of its version, so confined. Bounded in time and size: it may be any program.
    fn ask_version(&self) -> Result<String, VmmError> {
        let failed = |source| VmmError::Spawn {
            program: self.program.display().to_string(),
            source,
        };
        let null = fs::File::open("/dev/null").map_err(failed)?;
        let (read, write) = io::pipe().map_err(failed)?;
        let args = [c"qemu-system-x86_64".to_owned(), c"--version".to_owned()];
        let fds = [null.as_fd(), write.as_fd(), write.as_fd()];
        let spawned = self
            .spawn("version", &args, &fds, &[])
            .map_err(|e| failed(e.source))?;
        drop(write);
        let deadline = Instant::now() + ANSWER;
        let mut said = Vec::new();
        let in_time =
            read_all(&read, &mut said, deadline).map_err(failed)? && ready(&spawned.pidfd, deadline);
        if !in_time {
            let _ = pidfd_send_signal(&spawned.pidfd, Signal::KILL);
        }
        let status = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED)
            .ok()
            .flatten();
        let said = String::from_utf8_lossy(&said).into_owned();
        let how = match status.as_ref().map(|s| (s.exit_status(), s.terminating_signal())) {
            Some((Some(0), _)) => return Ok(said),
            _ if !in_time => "does not end".to_owned(),
            Some((Some(code), _)) => format!("exits with code {code}"),
            Some((_, Some(signal))) => format!("is ended by signal {signal}"),
            _ => "ends in an unknown way".to_owned(),
        };
        let words = match excerpt(&said) {
            words if words.is_empty() => "says nothing".to_owned(),
            words => format!("says {words:?}"),
        };
        Err(VmmError::Unusable {
            program: self.program.display().to_string(),
            reason: format!("asked for its version, it {words} and {how}"),
        })
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
            true => files::ruleset(&self.program, readable)
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

/// How long a program may take to say its version: milliseconds, on a machine under load seconds.
const ANSWER: Duration = Duration::from_secs(20);
/// More than that is no version.
const MAX_SAID: usize = 64 * 1024;

/// Reads a pipe to its end; `false` if that did not come in time, or after too much.
fn read_all(pipe: &io::PipeReader, into: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    let mut pipe = pipe;
    let mut chunk = [0u8; 4096];
    while into.len() < MAX_SAID && ready(pipe, deadline) {
        match pipe.read(&mut chunk)? {
            0 => return Ok(true),
            n => into.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(false)
}

/// Waits until a descriptor can be read from (a pidfd: until its process has ended); `false` if the time is over.
fn ready(fd: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|n| n > 0),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What is said of a program that is a shell script.
    fn said_of(script: &str) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let path = dir.path().join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let error = Confinement::find(path.clone()).map(drop).expect_err(script);
        let words = error.to_string();
        assert!(words.contains(&*path.to_string_lossy()), "{words}");
        words
    }

    #[test]
    fn any_other_program_is_named_with_what_it_did() {
        assert!(said_of("exit 0").contains("says \"\""));
        let words = said_of("echo 'no libfoo.so' >&2; exit 127");
        assert!(
            words.contains("no libfoo.so") && words.contains("code 127"),
            "{words}"
        );
        assert!(said_of("echo QEMU emulator version 2.5.0").contains("too old"));
        assert!(said_of("printf 'bash\\033[2J version 5\\377\\n'").contains("bash[2J version 5"));
        // One that never ends its answer is ended; it would wait for ever for its reader.
        let begun = Instant::now();
        assert!(said_of("while :; do echo QEMU emulator version 9.0.0; done").contains("does not end"));
        assert!(begun.elapsed() < ANSWER, "{:?}", begun.elapsed());
    }
}
