//! The VMM process from its start to its end: one task waits for it and publishes how it ended.

use crate::Exit;
use omnirun_sys::host::ready::Readable;
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
    task::JoinHandle,
};

/// A process that dies with its handle.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Watches a process that was just started. `stderr` is what it says on its standard error.
    pub(super) fn watch(pid: u32, pidfd: OwnedFd, stderr: Tail, reader: JoinHandle<()>) -> io::Result<Self> {
        let pidfd = Arc::new(pidfd);
        let ready = Readable::new(Arc::clone(&pidfd))?;
        let (publish, exit) = watch::channel(None);
        tokio::spawn(async move {
            // A pidfd is readable from the process's end on. An error here would mean that the runtime shuts down.
            let _ = ready.wait().await;
            let status = waitid(WaitId::PidFd(ready.as_fd()), WaitIdOptions::EXITED)
                .ok()
                .flatten();
            // Its last words are in the pipe already; a child that holds the pipe open must not delay the news.
            let _ = tokio::time::timeout(Duration::from_millis(100), reader).await;
            publish.send_replace(Some(Exit {
                code: status.as_ref().and_then(|s| s.exit_status()),
                signal: status.as_ref().and_then(|s| s.terminating_signal()),
                stderr_tail: stderr.text(),
            }));
        });
        Ok(Self { pid, pidfd, exit })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it. Idempotent: the descriptor names this process even after its number was given away.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Sets how large a file may become that it writes to, for good.
    pub(super) fn limit_file_size(&self, bytes: u64) -> io::Result<()> {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        // The number is its own until it is reaped; after that the call is for nobody or, when the number was given
        // away at once, for a process that we may not touch.
        let Some(pid) = self.pid.try_into().ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        if self.exit.borrow().is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        prlimit(
            Some(pid),
            Resource::Fsize,
            Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            },
        )?;
        Ok(())
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn wait(&self) -> Exit {
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
pub(super) async fn wait_foreign(pid: u32) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(pidfd) => Readable::new(Arc::new(pidfd))?.wait().await,
    }
}

/// The last bytes of a stream that may never end. Shared between the reader and whoever asks.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    limit: usize,
}

impl Tail {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: Arc::default(),
            limit,
        }
    }

    /// Takes what was read.
    pub(super) fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let mut held = self.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let excess = (held.len() + bytes.len()).saturating_sub(self.limit);
        held.drain(..excess);
        held.extend(bytes);
    }

    /// As text that is safe to print: a guest writes here, and a terminal obeys control characters.
    pub(super) fn text(&self) -> String {
        let mut held = self.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let text = String::from_utf8_lossy(held.make_contiguous());
        let printable = text
            .trim_end()
            .chars()
            .filter(|c| *c == '\n' || *c == '\t' || !c.is_control());
        printable.collect()
    }

    /// Reads a stream to its end. What is not kept is thrown away, so that its writer never has to wait.
    pub(super) fn follow(&self, mut stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let tail = self.clone();
        tokio::spawn(async move {
            let mut chunk = vec![0u8; 4096];
            while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                tail.push(&chunk[..count]);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tail_keeps_the_end_and_nothing_a_terminal_obeys() {
        let tail = Tail::new(16);
        let endless = [b"\x1b[2J".repeat(50_000).as_slice(), b"the\x07 very\r\n end\n"].concat();
        tail.follow(std::io::Cursor::new(endless)).await.expect("read");
        assert_eq!(tail.text(), "the very\n end");
        tail.push(&[b'x'; 100]);
        assert_eq!(tail.text(), "x".repeat(16));
    }
}
