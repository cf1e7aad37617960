//! The VMM process from its start to its end: one task waits for it and publishes how it ended.

use crate::{Exit, VmmError, tail::Tail};
use omnirun_sys::host::{ready::Readable, spawn::Spawned};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};

/// A process that dies with its handle.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Watches a process that was just started. `stderr` is what it says on its standard error; `after` is done once it
    /// is gone, before anybody hears of it.
    pub(crate) fn watch(
        spawned: Spawned,
        stderr: Tail,
        reader: JoinHandle<()>,
        after: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let Spawned { pid, pidfd } = spawned;
        let pidfd = Arc::new(pidfd);
        let ready = Readable::new(Arc::clone(&pidfd)).inspect_err(|_| {
            // Nobody would own it.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        })?;
        let (publish, exit) = watch::channel(None);
        tokio::spawn(async move {
            // A pidfd is readable from the process's end on. An error here would mean that the runtime shuts down.
            let _ = ready.wait().await;
            let status = waitid(WaitId::PidFd(ready.as_fd()), WaitIdOptions::EXITED)
                .ok()
                .flatten();
            // Its last words are in the pipe already; a child that holds the pipe open must not delay the news.
            let _ = tokio::time::timeout(Duration::from_millis(100), reader).await;
            after();
            publish.send_replace(Some(Exit {
                code: status.as_ref().and_then(|s| s.exit_status()),
                signal: status.as_ref().and_then(|s| s.terminating_signal()),
                stderr_tail: stderr.text(),
            }));
        });
        Ok(Self { pid, pidfd, exit })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it. Idempotent: the descriptor names this process even after its number was given away.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Sets how large a file may become that it writes to, and returns the limit until now; nothing if there was none.
    pub(crate) fn limit_file_size(&self, bytes: u64) -> io::Result<Option<u64>> {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        // The number is its own until it is reaped; after that the call is for nobody or, when the number was given
        // away at once, for a process that we may not touch.
        let Some(pid) = self.pid.try_into().ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        if self.exit.borrow().is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let before = prlimit(
            Some(pid),
            Resource::Fsize,
            Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            },
        )?;
        Ok(before.maximum)
    }

    /// Its last words, once it has ended; nothing if it lives on and does not end within this time.
    pub(crate) async fn ended_within(&self, time: Duration) -> Option<Exit> {
        tokio::time::timeout(time, self.wait()).await.ok()
    }

    /// What an operation comes to whose VMM closed its control connection: one that lives on all the same is of no use
    /// to anyone.
    pub(crate) async fn gone(&self, step: &'static str) -> VmmError {
        let exit = match self.ended_within(Duration::from_secs(1)).await {
            Some(exit) => exit,
            None => {
                self.kill();
                self.wait().await
            }
        };
        VmmError::Gone {
            step,
            tail: exit.stderr_tail,
        }
    }

    /// Its proportional and private memory in bytes.
    pub(crate) fn memory(&self) -> Result<(u64, u64), VmmError> {
        let path = PathBuf::from(format!("/proc/{}/smaps_rollup", self.pid));
        let text = fs::read_to_string(&path).map_err(|source| VmmError::File {
            step: "read",
            path,
            source,
        })?;
        let kib = |name: &str| -> u64 {
            let lines = text
                .lines()
                .filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            lines
                .filter_map(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
                .sum()
        };
        Ok((
            kib("Pss") << 10,
            (kib("Private_Clean") + kib("Private_Dirty")) << 10,
        ))
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            Err(_) => None,
        }
        // Only when the runtime dropped the waiting task, at its shutdown.
        .unwrap_or(Exit {
            code: None,
            signal: None,
            stderr_tail: String::new(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the end of a process that is not our child.
pub(crate) async fn wait_foreign(pid: u32) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(pidfd) => Readable::new(Arc::new(pidfd))?.wait().await,
    }
}
