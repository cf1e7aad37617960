//! The channel to the guest agent.
//!
//! The agent listens on a port of its vsock. The host connects to the VM's Unix socket, writes `CONNECT PORT` and may at
//! once write on; Firecracker answers `OK N` as soon as the guest has accepted, before the guest's own first byte, and
//! closes the connection if nobody listens. The answer stays in the stream: its reader passes over whatever precedes the
//! agent's.
//!
//! A clone's agent listens since before its snapshot, so its connection is given away at once. But not before the machine
//! was resumed: the first that a restored guest sees of its vsock is the order to reset all connections, and a request
//! that waits for it at the same time may be taken before that order is carried out, and be reset with the rest. (With a
//! device on MMIO one interrupt stands for all queues, and the queue of requests is looked at first.) A machine that boots
//! has no agent for a while, and there the answer is waited for, without taking it out of the stream.

use super::Machine;
use crate::{
    ChannelStream, VmmError,
    firecracker::jail::{self, command_line::AGENT},
};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

/// Where the agent listens.
const PORT: u32 = 1024;
/// For an agent that is not there yet. There is no event for it.
const RETRY: Duration = Duration::from_millis(20);
/// From power-on to a listening agent: seconds; nested, under emulation, a minute.
const BOOT: Duration = Duration::from_secs(180);
/// Firecracker reads this off a socket within microseconds, and does not wait for its guest.
const TAKEN: Duration = Duration::from_secs(30);

const STEP: &str = "connecting to the agent's channel";

impl Machine {
    /// See [`Vm::channel`](crate::Vm::channel).
    pub(super) async fn connect_agent(&self) -> Result<ChannelStream, VmmError> {
        // The guest serves one connection at a time. The earlier one ends, so that it comes to this one.
        self.end_connection();
        let (within, booted) = match self.booted {
            true => (BOOT, true),
            false => (TAKEN, false),
        };
        let mut running = self.running.subscribe();
        let dial = async {
            // The sender is ours.
            let _ = running.wait_for(|running| *running).await;
            tokio::time::timeout(within, self.dial(booted)).await
        };
        let dialled = tokio::select! {
            // Both only wait: a connection that is dropped half-made ends.
            dialled = dial => dialled,
            _ = self.process.wait() => return Err(self.process.gone(STEP).await),
        };
        let stream = dialled.unwrap_or_else(|_| {
            Err(VmmError::Timeout {
                step: STEP,
                seconds: within.as_secs(),
            })
        })?;
        let kept = stream.as_fd().try_clone_to_owned().map_err(failed)?;
        *self.kept() = Some(kept);
        Ok(stream)
    }

    /// Ends the connection that there is. To be done as well once the guest was ordered to reset its own end: it tells
    /// Firecracker only if something is sent to it, and who waits for an answer here would wait for ever.
    pub(super) fn end_connection(&self) {
        if let Some(earlier) = self.kept().take() {
            let _ = shutdown(&earlier, Shutdown::Both);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.channel.lock().unwrap_or_else(|e| e.into_inner())
    }

    async fn dial(&self, booted: bool) -> Result<UnixStream, VmmError> {
        loop {
            let socket = self.jail.socket(AGENT).map_err(failed)?;
            let mut stream = match UnixStream::connect(jail::path_of(&socket)).await {
                Ok(stream) => stream,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(self.process.gone(STEP).await);
                }
                Err(source) => return Err(failed(source)),
            };
            let asked = stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await;
            if !booted {
                return asked.map(|()| stream).map_err(failed);
            }
            if asked.is_ok() && answers(&stream).await.map_err(failed)? {
                return Ok(stream);
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn failed(source: io::Error) -> VmmError {
    VmmError::Io { step: STEP, source }
}

/// Waits until there is something to read, and leaves it there; `false` if the connection ends.
async fn answers(stream: &UnixStream) -> io::Result<bool> {
    loop {
        stream.readable().await?;
        let seen = stream.try_io(Interest::READABLE, || {
            Ok(recv(
                stream,
                &mut [0u8; 1],
                RecvFlags::PEEK | RecvFlags::DONTWAIT,
            )?)
        });
        match seen {
            Ok((_, 0)) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}
