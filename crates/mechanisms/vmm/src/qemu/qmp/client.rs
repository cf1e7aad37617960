//! One task owns the socket. Callers submit a command and await its answer, or submit several and await them after.

use super::{
    commands::Command,
    wire::{Lines, Message},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;
use std::{
    collections::HashMap,
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::qemu) enum QmpError {
    /// QEMU said no.
    #[error("refused: {0}")]
    Refused(String),
    /// QEMU, or its side of the socket, is gone.
    #[error("the connection ended")]
    Closed,
    /// No answer in time.
    #[error("no answer")]
    Timeout(Duration),
    /// The answer is not what the command answers.
    #[error("an answer of another shape")]
    Shape(#[source] serde_json::Error),
}

/// How a migration stands, as its events tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::qemu) enum Migration {
    /// None was begun, or one is under way.
    Open,
    /// It is done.
    Completed,
    /// It went wrong.
    Failed,
}

struct Request {
    line: Vec<u8>,
    id: u64,
    fd: Option<OwnedFd>,
    reply: oneshot::Sender<Result<Value, String>>,
}

/// What callers hold. The task ends when this is dropped or the peer is gone.
#[derive(Debug)]
pub(in crate::qemu) struct Client {
    requests: mpsc::UnboundedSender<Request>,
    next: std::sync::atomic::AtomicU64,
    migration: watch::Sender<Migration>,
}

/// An answer to come.
#[must_use]
pub(in crate::qemu) struct Pending<C> {
    reply: oneshot::Receiver<Result<Value, String>>,
    command: PhantomData<fn() -> C>,
}

impl Client {
    /// Takes the socket over.
    pub(in crate::qemu) fn new(socket: UnixStream) -> Self {
        let (requests, queue) = mpsc::unbounded_channel();
        let (migration, _) = watch::channel(Migration::Open);
        tokio::spawn(own(socket, queue, migration.clone()));
        Self {
            requests,
            next: 1.into(),
            migration,
        }
    }

    /// Sends a command, after all that were submitted before.
    pub(in crate::qemu) fn submit<C: Command>(&self, command: &C) -> Pending<C> {
        self.submit_fd(command, None)
    }

    /// Sends a command and a descriptor with it. Until it is answered no other descriptor may be sent: QEMU keeps the
    /// latest only.
    pub(in crate::qemu) fn submit_fd<C: Command>(&self, command: &C, fd: Option<OwnedFd>) -> Pending<C> {
        let (reply, receiver) = oneshot::channel();
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Commands are plain structures of strings and numbers: there is nothing in them that JSON cannot say.
        let arguments = serde_json::to_value(command).unwrap_or_default();
        let mut line = serde_json::json!({"execute": C::NAME, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        // If the task is gone the request is dropped, and with it `reply`: the caller reads `Closed`.
        let _ = self.requests.send(Request {
            line: line.into_bytes(),
            id,
            fd,
            reply,
        });
        Pending {
            reply: receiver,
            command: PhantomData,
        }
    }

    /// Sends a command and awaits its answer.
    pub(in crate::qemu) async fn call<C: Command>(
        &self,
        command: &C,
        within: Duration,
    ) -> Result<C::Return, QmpError> {
        self.submit(command).within(within).await
    }

    /// Forgets how the last migration ended. To be called before the next one is asked for.
    pub(in crate::qemu) fn expect_migration(&self) -> watch::Receiver<Migration> {
        self.migration.send_replace(Migration::Open);
        self.migration.subscribe()
    }
}

impl<C: Command> Pending<C> {
    /// Awaits the answer.
    pub(in crate::qemu) async fn within(self, within: Duration) -> Result<C::Return, QmpError> {
        match tokio::time::timeout(within, self.reply).await {
            Err(_) => Err(QmpError::Timeout(within)),
            Ok(Err(_)) => Err(QmpError::Closed),
            Ok(Ok(Err(reason))) => Err(QmpError::Refused(reason)),
            Ok(Ok(Ok(value))) => serde_json::from_value(value).map_err(QmpError::Shape),
        }
    }
}

/// Waits until the migration asked for has ended. `None` if the connection did first.
pub(in crate::qemu) async fn migration_end(
    mut state: watch::Receiver<Migration>,
    client: &Client,
) -> Option<Migration> {
    tokio::select! {
        // Both are only waits: dropping either loses nothing.
        ended = state.wait_for(|m| *m != Migration::Open) => ended.ok().map(|m| m.clone()),
        () = client.requests.closed() => None,
    }
}

async fn own(
    mut socket: UnixStream,
    mut queue: mpsc::UnboundedReceiver<Request>,
    migration: watch::Sender<Migration>,
) {
    let mut pending: HashMap<u64, oneshot::Sender<Result<Value, String>>> = HashMap::new();
    let mut lines = Lines::default();
    let mut chunk = vec![0u8; 16 * 1024];
    loop {
        tokio::select! {
            // Cancel-safe: `recv` takes a request only when it returns it.
            request = queue.recv() => {
                let Some(request) = request else { return };
                pending.insert(request.id, request.reply);
                if let Err(error) = send(&socket, &request.line, request.fd).await {
                    tracing::debug!(%error, "control socket closed while writing");
                    return;
                }
            }
            // Cancel-safe: `read` takes bytes only when it returns.
            read = socket.read(&mut chunk) => {
                let count = match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => count,
                };
                lines.push(&chunk[..count]);
                loop {
                    match lines.next() {
                        Ok(None) => break,
                        Ok(Some(message)) => receive(message, &mut pending, &migration),
                        Err(error) => {
                            tracing::warn!(%error, "the VMM does not keep to its protocol; hanging up");
                            return;
                        }
                    }
                }
            }
        }
    }
}

fn receive(
    message: Message,
    pending: &mut HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    migration: &watch::Sender<Migration>,
) {
    let mut answer = |id, result| {
        if let Some(reply) = pending.remove(&id) {
            // The caller may have stopped waiting.
            let _ = reply.send(result);
        }
    };
    match message {
        Message::Greeting => {}
        Message::Return { id, value } => answer(id, Ok(value)),
        Message::Error { id: Some(id), reason } => answer(id, Err(harmless(&reason))),
        Message::Error { id: None, reason } => {
            tracing::warn!(reason = harmless(&reason), "the VMM did not understand a command");
        }
        Message::Event { name, data } => {
            tracing::trace!(name, "VMM event");
            if name == "MIGRATION" {
                match data.get("status").and_then(Value::as_str) {
                    Some("completed") => drop(migration.send_replace(Migration::Completed)),
                    Some("failed" | "cancelled") => drop(migration.send_replace(Migration::Failed)),
                    _ => {}
                }
            }
        }
    }
}

/// Words that end in messages for people: a VMM that a guest has taken over may have written them.
fn harmless(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(500).collect()
}

async fn send(socket: &UnixStream, mut line: &[u8], mut fd: Option<OwnedFd>) -> io::Result<()> {
    while !line.is_empty() {
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&fds));
                }
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(rustix::net::sendmsg(
                    socket,
                    &[io::IoSlice::new(line)],
                    &mut control,
                    flags,
                )?)
            })
            .await?;
        fd = None;
        line = &line[sent..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::commands::*, *};
    use std::time::Instant;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    const SECOND: Duration = Duration::from_secs(1);

    fn pair() -> (Client, BufReader<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        (Client::new(ours), BufReader::new(theirs))
    }

    async fn asked(peer: &mut BufReader<UnixStream>) -> Value {
        let mut line = String::new();
        peer.read_line(&mut line).await.expect("a command");
        serde_json::from_str(&line).expect("JSON")
    }

    #[tokio::test]
    async fn answers_find_their_commands_among_events() {
        let (client, mut peer) = pair();
        let (stop, cont) = (client.submit(&Stop {}), client.submit(&Cont {}));
        let (first, second) = (asked(&mut peer).await, asked(&mut peer).await);
        assert_eq!(
            (first["execute"].as_str(), second["execute"].as_str()),
            (Some("stop"), Some("cont"))
        );
        let lines = format!(
            "{{\"event\":\"STOP\"}}\n{{\"return\":{{}},\"id\":{}}}\n{{\"event\":\"X\",\"data\":3}}\n{{\"error\":{{\"desc\":\"n\\u001bo\"}},\"id\":{}}}\n",
            first["id"], second["id"]
        );
        peer.get_mut().write_all(lines.as_bytes()).await.expect("written");
        stop.within(SECOND).await.expect("answered");
        assert!(matches!(cont.within(SECOND).await, Err(QmpError::Refused(why)) if why == "no"));
    }

    #[tokio::test]
    async fn a_peer_that_goes_fails_what_is_pending_at_once() {
        let (client, mut peer) = pair();
        let pending = client.submit(&Stop {});
        asked(&mut peer).await;
        let started = Instant::now();
        drop(peer);
        assert!(matches!(pending.within(SECOND * 60).await, Err(QmpError::Closed)));
        assert!(matches!(
            client.call(&Cont {}, SECOND * 60).await,
            Err(QmpError::Closed)
        ));
        let state = client.expect_migration();
        assert_eq!(migration_end(state, &client).await, None);
        assert!(started.elapsed() < SECOND);
    }

    #[tokio::test]
    async fn a_silent_or_babbling_peer_is_bounded() {
        let (client, mut peer) = pair();
        assert!(matches!(
            client.call(&Stop {}, SECOND / 50).await,
            Err(QmpError::Timeout(_))
        ));
        let pending = client.submit(&Cont {});
        let flood =
            tokio::spawn(async move { while peer.get_mut().write_all(&[b'x'; 65536]).await.is_ok() {} });
        assert!(matches!(pending.within(SECOND * 10).await, Err(QmpError::Closed)));
        flood.await.expect("the flood ends when we hang up");
    }

    #[tokio::test]
    async fn a_descriptor_travels_with_its_command() {
        let (client, peer) = pair();
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let pending = client.submit_fd(&GetFd { fdname: "state" }, Some(write));
        let stream = peer.into_inner();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut buffer = [0u8; 4096];
        let fds: Vec<OwnedFd> = stream
            .async_io(Interest::READABLE, || {
                let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
                let mut io = [io::IoSliceMut::new(&mut buffer)];
                rustix::net::recvmsg(&stream, &mut io, &mut control, rustix::net::RecvFlags::DONTWAIT)?;
                let mut fds = Vec::new();
                for message in control.drain() {
                    if let rustix::net::RecvAncillaryMessage::ScmRights(got) = message {
                        fds.extend(got);
                    }
                }
                Ok(fds)
            })
            .await
            .expect("received");
        assert_eq!(fds.len(), 1);
        rustix::io::write(&fds[0], b"x").expect("it is the pipe");
        let mut byte = [0u8; 1];
        assert_eq!(rustix::io::read(&read, &mut byte).expect("read"), 1);
        drop((stream, fds));
        assert!(matches!(pending.within(SECOND).await, Err(QmpError::Closed)));
    }
}
