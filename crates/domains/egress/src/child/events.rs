//! What the child says to its owner.
//!
//! Acknowledgements and requests go before audit lines. A line has a place reserved for it before anything happens that
//! would need one ([`Slot`]), so it can be handed over without waiting, and what an owner that is slow leaves unread is
//! bounded: whoever finds no place waits before it begins. Each guest has places of its own.

use crate::channel::{Channel, Event, MAX_MESSAGE};
use omnirun_egress_policy::AuditLine;
use std::{
    collections::{HashMap, VecDeque},
    io,
    net::Ipv4Addr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::timeout,
};

/// Place for a line.
pub(super) type Slot = OwnedSemaphorePermit;

/// What is on its way.
enum Queued {
    Line {
        guest: u64,
        line: AuditLine,
        /// Free again when the line has been sent.
        _slot: Slot,
    },
    /// What is to be said after all lines before it.
    Event(Event),
}

/// For an owner to let addresses through.
const PATIENCE: Duration = Duration::from_secs(5);
/// At most so many bytes of lines in a message; one line has under 1 KiB.
const BATCH: usize = MAX_MESSAGE - 2048;
/// At most so many lines in a message.
const LINES: usize = 64;

/// The way to the owner.
#[derive(Debug)]
pub(super) struct Events {
    urgent: mpsc::UnboundedSender<Event>,
    lines: mpsc::UnboundedSender<Queued>,
    requests: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    next: AtomicU64,
}

/// What [`write`] writes.
pub(super) struct Outbox {
    urgent: mpsc::UnboundedReceiver<Event>,
    lines: mpsc::UnboundedReceiver<Queued>,
}

impl Events {
    pub(super) fn new() -> (Self, Outbox) {
        // Bounded by what is sent on them: one acknowledgement for each order, one request for each query that is being
        // answered, one line for each slot.
        let (urgent, urgent_receiver) = mpsc::unbounded_channel();
        let (lines, lines_receiver) = mpsc::unbounded_channel();
        let events = Self {
            urgent,
            lines,
            requests: Mutex::default(),
            next: AtomicU64::new(1),
        };
        let outbox = Outbox {
            urgent: urgent_receiver,
            lines: lines_receiver,
        };
        (events, outbox)
    }

    /// Says something at once.
    pub(super) fn say(&self, event: Event) {
        // The other end is gone only when the process is about to be.
        let _ = self.urgent.send(event);
    }

    /// Hands over a line.
    pub(super) fn audit(&self, guest: u64, line: AuditLine, slot: Slot) {
        let _ = self.lines.send(Queued::Line {
            guest,
            line,
            _slot: slot,
        });
    }

    /// Says something once all lines that were handed over have been sent.
    pub(super) fn say_after_lines(&self, event: Event) {
        let _ = self.lines.send(Queued::Event(event));
    }

    /// Asks the owner to let addresses through; whether it has.
    pub(super) async fn let_through(&self, guest: u64, addresses: Vec<Ipv4Addr>, ttl: u32) -> bool {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.requests().insert(request, sender);
        self.say(Event::Answered {
            request,
            id: guest,
            addresses,
            ttl,
        });
        let done = timeout(PATIENCE, answer).await;
        self.requests().remove(&request);
        matches!(done, Ok(Ok(true)))
    }

    /// The owner's answer to that.
    pub(super) fn answered(&self, request: u64, done: bool) {
        if let Some(asker) = self.requests().remove(&request) {
            let _ = asker.send(done);
        }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<bool>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until the channel fails.
pub(super) async fn write(channel: &Channel, mut outbox: Outbox) -> io::Result<()> {
    let mut queued = VecDeque::new();
    let mut taken = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(event) = outbox.urgent.recv() => send(channel, &event).await?,
            // Cancel-safe: what it has taken is in the vector.
            _ = outbox.lines.recv_many(&mut taken, LINES), if queued.is_empty() => queued.extend(taken.drain(..)),
            () = std::future::ready(()), if !queued.is_empty() => {
                send(channel, &next(&mut queued)?).await?;
            }
        }
    }
}

async fn send(channel: &Channel, event: &Event) -> io::Result<()> {
    channel.send(&serde_json::to_vec(event)?, &[]).await
}

/// As many lines as fit into a message, or the event before them. Only called while there is something.
fn next(queued: &mut VecDeque<Queued>) -> io::Result<Event> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while let Some(one) = queued.pop_front() {
        match one {
            Queued::Event(event) if lines.is_empty() => return Ok(event),
            Queued::Line { guest, line, _slot } => {
                bytes += serde_json::to_vec(&line)?.len() + 32;
                if bytes <= BATCH || lines.is_empty() {
                    lines.push((guest, line));
                    continue;
                }
                queued.push_front(Queued::Line { guest, line, _slot });
            }
            event @ Queued::Event(_) => queued.push_front(event),
        }
        break;
    }
    Ok(Event::Audit { lines })
}
