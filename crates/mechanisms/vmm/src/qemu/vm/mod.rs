//! One machine.
//!
//! ```text
//!   start      from files and sockets to a machine: boot or restore
//!   snapshot   from a paused machine to files
//! ```

mod snapshot;
mod start;

pub(super) use start::Waiting;

use super::{
    command_line::{SESSION_FILTER, THROTTLE_GROUP},
    qmp::{
        Client, Migration, QmpError,
        commands::{AddFd, BlockResize, BlockdevAdd, BlockdevReopen, Cont, Stop},
        migration_end,
    },
};
use crate::{
    AttachDisk, ChannelStream, DeviceState, Exit, MachineSize, Vm, VmIdentity, VmmError, process::Process,
    tail::Tail,
};
use async_trait::async_trait;
use serde_json::json;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::UnixStream;

/// For commands that do nothing slow. A host under load may be slow all the same.
const COMMAND: Duration = Duration::from_secs(30);
/// For what moves a whole machine.
const MOVE: Duration = Duration::from_secs(120);

const SOCKET: &str = "agent.sock";
/// Where the session disk's descriptor is found by QEMU. Sets 1 and 2 are the command line's.
const SESSION_SET: u32 = 3;

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    process: Process,
    control: Client,
    identity: VmIdentity,
    size: MachineSize,
    /// The run folder, so that the agent's socket can be named in few bytes however long the folder's path is.
    run_dir: OwnedFd,
    /// Memory of a machine that was booted; a clone's is private to its process.
    memory: Option<Arc<OwnedFd>>,
    channel: Mutex<Option<OwnedFd>>,
    console: Tail,
}

/// The agent's socket in the run folder, in a path that fits a socket address.
fn short(run_dir: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", run_dir.as_raw_fd()))
}

impl Machine {
    async fn migrated(
        &self,
        step: &'static str,
        state: tokio::sync::watch::Receiver<Migration>,
    ) -> Result<(), VmmError> {
        match tokio::time::timeout(MOVE, migration_end(state, &self.control)).await {
            Err(_) => Err(VmmError::Timeout {
                step,
                seconds: MOVE.as_secs(),
            }),
            Ok(Some(Migration::Completed)) => Ok(()),
            Ok(Some(_)) => Err(VmmError::Refused {
                step,
                reason: self.last_words().await,
            }),
            Ok(None) => Err(self.process.gone(step).await),
        }
    }

    /// QEMU says why a migration failed on its standard error, and mostly ends then.
    async fn last_words(&self) -> String {
        match self.process.ended_within(Duration::from_secs(2)).await {
            Some(exit) => exit.stderr_tail,
            None => "it failed".into(),
        }
    }

    async fn asked<T>(&self, step: &'static str, answer: Result<T, QmpError>) -> Result<T, VmmError> {
        match answer {
            Ok(value) => Ok(value),
            Err(QmpError::Refused(reason)) => Err(VmmError::Refused { step, reason }),
            Err(QmpError::Timeout(within)) => Err(VmmError::Timeout {
                step,
                seconds: within.as_secs(),
            }),
            Err(QmpError::Shape(source)) => Err(VmmError::Io {
                step,
                source: source.into(),
            }),
            Err(QmpError::Closed) => Err(self.process.gone(step).await),
        }
    }
}

#[async_trait]
impl Vm for Machine {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn channel(&self) -> Result<ChannelStream, VmmError> {
        let step = "connecting to the agent's channel";
        // QEMU serves one connection at a time. The earlier one ends, so that it comes to this one.
        if let Some(earlier) = self.channel.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let _ = rustix::net::shutdown(&earlier, rustix::net::Shutdown::Both);
        }
        let stream = match UnixStream::connect(short(&self.run_dir)).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused) => {
                return Err(self.process.gone(step).await);
            }
            Err(source) => return Err(VmmError::Io { step, source }),
        };
        let kept = stream
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| VmmError::Io { step, source })?;
        *self.channel.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept);
        Ok(stream)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.asked("stop", self.control.call(&Stop {}, COMMAND).await)
            .await
            .map(drop)
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.asked("cont", self.control.call(&Cont {}, COMMAND).await)
            .await
            .map(drop)
    }

    async fn snapshot(&self, to: &DeviceState) -> Result<(), VmmError> {
        self.save(to).await
    }

    async fn attach_disk(&self, disk: AttachDisk) -> Result<(), VmmError> {
        // From now on the disk is all that it may write, and a disk that grew could fill the host.
        if let Err(error) = self.process.limit_file_size(disk.bytes) {
            // Root of a container may lack the capability for it. What is left then is that QEMU keeps to the size.
            tracing::debug!(%error, "the size of the session disk's file is not limited");
        }
        let fd = self.control.submit_fd(
            &AddFd {
                fdset_id: SESSION_SET,
            },
            Some(disk.file),
        );
        // A flush reaches the host's page cache, which outlives every process here; only power loss is beyond it.
        let add = self.control.submit(&BlockdevAdd(json!({
            "driver": "raw",
            "node-name": "session-disk",
            "discard": "unmap",
            "cache": {"no-flush": true},
            "file": {
                "driver": "file",
                "filename": format!("/dev/fdset/{SESSION_SET}"),
                "discard": "unmap",
                "cache": {"no-flush": true},
            },
        })));
        let reopen = self.control.submit(&BlockdevReopen {
            options: [json!({
                "driver": "throttle",
                "node-name": SESSION_FILTER,
                "throttle-group": THROTTLE_GROUP,
                "file": "session-disk",
            })],
        });
        // The guest keeps the placeholder's size otherwise.
        let resize = self.control.submit(&BlockResize {
            node_name: SESSION_FILTER,
            size: disk.bytes,
        });
        self.asked("add-fd", fd.within(COMMAND).await).await?;
        self.asked("blockdev-add", add.within(COMMAND).await).await?;
        self.asked("blockdev-reopen", reopen.within(COMMAND).await)
            .await?;
        self.asked("block_resize", resize.within(COMMAND).await).await?;
        Ok(())
    }

    fn kill(&self) {
        self.process.kill();
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }

    fn memory(&self) -> Result<(u64, u64), VmmError> {
        self.process.memory()
    }

    fn console_tail(&self) -> String {
        self.console.text()
    }

    fn run_dir(&self) -> &Path {
        &self.identity.run_dir
    }
}
