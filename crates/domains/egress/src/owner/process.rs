//! The child as a process: how it is confined by whoever starts it, what it says on standard error, its end.
//!
//! | from here | by the child itself, before it reads anything ([`crate::child`]) |
//! | -- | -- |
//! | a uid and gid that own nothing, no groups (an owner that is not root has none to give: its own) | no capabilities, not dumpable |
//! | Landlock: it may read and run itself and the system's libraries | Landlock: no file at all, no TCP port to bind |
//! | no new privileges, own session, empty environment, limits | seccomp |
//! | three descriptors: the channel, `/dev/null`, a pipe for standard error |  |

use super::{EgressError, ProxyConfig};
use crate::channel::{Channel, pair};
use ::landlock::AccessNet;
use omnirun_sys::host::{
    landlock,
    ready::Readable,
    spawn::{CORE, Credentials, NOFILE, Spawn, SpawnError, spawn},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle, time::timeout};

/// Who the child is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Identity {
    /// The owner's own user, if that is not root; root gives it one that owns nothing.
    #[default]
    Derived,
    /// This user and group.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// First id for proxies started by root: just beyond those of VMs.
const FIRST_ID: u32 = 0x6fff_0000;
/// How many: one for each process id, so that two owners' children are strangers to each other.
const IDS: u32 = 1 << 16;

impl Identity {
    /// The id that root gives: one that owns nothing, out of those that exist in this user namespace.
    fn for_root(uid_map: &str, seed: u32) -> Option<u32> {
        let mut fallback = None;
        for line in uid_map.lines() {
            let mut fields = line.split_whitespace().map(|f| f.parse::<u64>().ok());
            let (Some(Some(inside)), _, Some(Some(count))) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let end = inside + count;
            if inside <= FIRST_ID.into() && end >= u64::from(FIRST_ID + IDS) {
                return Some(FIRST_ID + seed % IDS);
            }
            // The top of what there is: VMs' ids begin in the middle.
            if end > 10_000 {
                fallback = u32::try_from(end - 2).ok();
            }
        }
        fallback
    }

    fn credentials(self) -> io::Result<Option<Credentials>> {
        let id = match self {
            Self::Ids { uid, gid } => (uid, gid),
            Self::Derived if !rustix::process::geteuid().is_root() => return Ok(None),
            Self::Derived => {
                let map = fs::read_to_string("/proc/self/uid_map")?;
                let id = Self::for_root(&map, std::process::id())
                    .ok_or_else(|| io::Error::other("this user namespace has no user for it"))?;
                (id, id)
            }
        };
        Ok(Some(Credentials {
            uid: id.0,
            gid: id.1,
            groups: Some(Vec::new()),
        }))
    }
}

/// Descriptors at a time, if the owner may have as many: some 100 guests with all their connections.
const DESCRIPTORS: u64 = 1 << 20;
/// The kernel kills it before the owner: it is started again.
const OOM_SCORE_ADJ: &str = "300";
/// At most so many bytes of what it says at its end are kept.
const SAID: usize = 2048;

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    pidfd: Arc<OwnedFd>,
    said: Option<JoinHandle<String>>,
    reaped: bool,
}

impl Child {
    /// Starts one. Blocks for a millisecond or two.
    pub(super) fn start(config: &ProxyConfig) -> Result<(Self, Channel), EgressError> {
        let failed = |step| move |source| EgressError::Start { step, source };
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
        let (ours, theirs) = pair().map_err(failed("making a channel"))?;
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|e| failed("opening /dev/null")(e.into()))?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| failed("making a pipe")(e.into()))?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(|e| failed("making a pipe")(e.into()))?;
        let program = CString::new(config.program.as_os_str().as_bytes())
            .map_err(|e| failed("naming the program")(invalid(e)))?;
        let args: Vec<CString> = config
            .arguments
            .iter()
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|e| failed("naming the arguments")(invalid(e)))?;
        // Until its program runs and has one of its own. `None` where the kernel has no Landlock.
        let ruleset: Option<OwnedFd> = landlock::ruleset(AccessNet::BindTcp, [config.program.clone()])
            .map_err(|e| failed("making a Landlock ruleset")(io::Error::other(e)))?
            .into();
        let most = rustix::process::getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(DESCRIPTORS)
            .min(DESCRIPTORS);
        let spawned = spawn(&Spawn {
            program: &program,
            args: &args,
            fds: &[theirs.as_fd(), null.as_fd(), writer.as_fd()],
            limits: &[(CORE, 0, 0), (NOFILE, most, most)],
            oom_score_adj: Some(OOM_SCORE_ADJ),
            user_namespace: None,
            network_namespace: config.namespace.as_ref().map(|it| it.as_fd()),
            unshare: 0,
            mounts: &[],
            cgroup: None,
            credentials: config.identity.credentials().map_err(failed("choosing a user"))?,
            landlock: ruleset.as_ref().map(AsFd::as_fd),
        })
        .map_err(|SpawnError { step, source }| EgressError::Start { step, source })?;
        // Its user could not have more than we may have ourselves, but root may give more.
        let more = Rlimit {
            current: Some(DESCRIPTORS),
            maximum: Some(DESCRIPTORS),
        };
        let pid = Pid::from_raw(spawned.pid.cast_signed());
        let _ = rustix::process::prlimit(pid, Resource::Nofile, more);
        let child = Self {
            pid: spawned.pid,
            pidfd: Arc::new(spawned.pidfd),
            said: pipe::Receiver::from_owned_fd(reader)
                .ok()
                .map(|pipe| tokio::spawn(listen(pipe))),
            reaped: false,
        };
        let channel = Channel::new(ours).map_err(failed("watching the channel"))?;
        Ok((child, channel))
    }

    /// Waits until it has ended. Cancel-safe.
    pub(super) async fn ended(&self) {
        if let Ok(pidfd) = Readable::new(Arc::clone(&self.pidfd)) {
            let _ = pidfd.wait().await;
        }
    }

    /// Waits a while for its end, then ends it; says what it said.
    pub(super) async fn end(mut self, grace: Duration) -> String {
        let _ = timeout(grace, self.ended()).await;
        self.reap();
        match self.said.take() {
            // Its end of the pipe is closed.
            Some(said) => said.await.unwrap_or_default(),
            None => String::new(),
        }
    }

    /// Kills it, unless it is dead, and takes its status: in either case that takes no time worth mentioning.
    fn reap(&mut self) {
        if !std::mem::replace(&mut self.reaped, true) {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Reads standard error to its end, and keeps the last of it, as printable text: a child may have been taken over.
async fn listen(mut pipe: pipe::Receiver) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(SAID);
        kept.drain(..surplus);
    }
    kept.iter()
        .map(|byte| match byte {
            b'\n' => ' ',
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_gives_an_id_that_exists_and_owns_nothing() {
        let id = |map: &str| Identity::for_root(map, 65_537);
        assert_eq!(id("         0          0 4294967295\n"), Some(FIRST_ID + 1));
        assert_eq!(id("0 100000 65536\n"), Some(65_534));
        assert_eq!(id("0 1000 1\n"), None);
        assert_eq!(id("garbage"), None);
    }
}
