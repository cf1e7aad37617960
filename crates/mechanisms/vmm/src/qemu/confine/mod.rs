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
use crate::VmmError;
use identity::{Identity, range, subordinate};
use omnirun_sys::host::spawn::{
    CORE, Credentials, Limit, NEW_IPC, NEW_NETWORK, NOFILE, Spawn, SpawnError, Spawned, spawn,
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

/// Soft and hard limits. The size of files follows when there is one to write to: see `attach_disk`.
const LIMITS: [Limit; 2] = [(CORE, 0, 0), (NOFILE, 256, 256)];

/// FNV-1a: spreads ids over slots; nothing depends on more.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}
