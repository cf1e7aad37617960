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

use super::version::{INSTALL, Program};
use crate::{
    VmmError,
    ask::{self, ANSWER},
    uids::{UidRange, slot},
};
use identity::{Identity, subordinate};
use omnirun_sys::host::spawn::{
    CORE, Credentials, Limit, NEW_IPC, NEW_NETWORK, NOFILE, Spawn, SpawnError, Spawned, spawn,
};
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::PathBuf,
    time::Instant,
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
            identities.extend(UidRange::here().map(Identity::Range));
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

    /// What the program says of its version, so confined.
    fn ask_version(&self) -> Result<String, VmmError> {
        let args = [c"qemu-system-x86_64".to_owned(), c"--version".to_owned()];
        ask::said(&self.program, "QEMU", |fds| {
            self.spawn("version", &args, fds, &[])
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
        let (credentials, namespace) = match &self.identity {
            Identity::Range(range) => {
                let id = range.pick(sandbox);
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
                let id = 1 + slot(sandbox, count - 1);
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
            network_namespace: None,
            unshare: if self.namespaces { NEW_NETWORK | NEW_IPC } else { 0 },
            mounts: &[],
            cgroup: None,
            credentials,
            landlock: ruleset.as_ref().map(AsFd::as_fd),
        })
    }

    /// In words, for `doctor`.
    pub(super) fn words(&self) -> String {
        let who = match self.identity {
            Identity::Range(_) => "a uid of its own per VM",
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
