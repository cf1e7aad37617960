//! What callers and the connection task share.

use crate::error::{ClientError, ProtocolError};
use bytes::BytesMut;
use omnirun_guest_proto::{
    Message,
    frame::Channel,
    host::{HostEnd, HostEvent, Violation},
    limits::MAX_UNFINISHED,
    message::{Outcome, Reply, Request},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Bytes of replies that are here and have not been taken, all calls together. Callers take theirs at once, and few
/// operations have a long one: more is a guest that means to fill our memory.
const MAX_HELD: usize = MAX_UNFINISHED;

/// What a caller waits for. Data is kept by channel, so that it is bounded by the windows however it was cut into frames.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) output: BytesMut,
    pub(crate) error: BytesMut,
    /// Stderr came before what stands in `output`.
    pub(crate) error_first: bool,
    pub(crate) reply: Option<Reply>,
    /// Its length.
    reply_len: usize,
    /// Data or the reply is there.
    pub(crate) wake: Arc<Notify>,
    /// The guest took input. One writer per call.
    pub(crate) room: Arc<Notify>,
}

/// A call that was opened.
pub(crate) struct Opened {
    pub(crate) call: u32,
    pub(crate) wake: Arc<Notify>,
    pub(crate) room: Arc<Notify>,
}

impl Waiting {
    fn wake_all(&self) {
        self.wake.notify_one();
        self.room.notify_one();
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) end: HostEnd,
    pub(crate) waiting: BTreeMap<u32, Waiting>,
    /// Bytes of replies that no caller has taken yet.
    held: usize,
    /// Why the connection is over.
    pub(crate) over: Option<ClientError>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nobody is left.
    pub(crate) write: Notify,
    /// The connection is over.
    pub(crate) closed: tokio::sync::watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(end: HostEnd) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                end,
                waiting: BTreeMap::new(),
                held: 0,
                over: None,
            }),
            write: Notify::new(),
            closed: tokio::sync::watch::Sender::new(false),
        })
    }

    /// Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a call and has its request written.
    pub(crate) fn open(&self, request: &Request) -> Result<Opened, ClientError> {
        let mut state = self.lock();
        if let Some(over) = &state.over {
            return Err(over.clone());
        }
        let call = state.end.open(request).map_err(ClientError::Refused)?;
        let waiting = Waiting::default();
        let opened = Opened {
            call,
            wake: waiting.wake.clone(),
            room: waiting.room.clone(),
        };
        state.waiting.insert(call, waiting);
        drop(state);
        self.write.notify_one();
        Ok(opened)
    }

    /// Nobody waits for the call any more.
    pub(crate) fn abandon(&self, call: u32) {
        let mut state = self.lock();
        state.forget(call);
        if state.over.is_none() && state.end.is_open(call) {
            state.end.cancel(call);
            drop(state);
            self.write.notify_one();
        }
    }

    /// Ends the connection for everybody.
    pub(crate) fn finish(&self, why: ClientError) {
        let mut state = self.lock();
        if state.over.is_none() {
            state.over = Some(why);
        }
        state.end.out = Vec::new();
        for waiting in state.waiting.values() {
            waiting.wake_all();
        }
        drop(state);
        self.closed.send_replace(true);
    }

    /// Takes bytes from the guest.
    pub(crate) fn receive(&self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut state = self.lock();
        state.end.push(bytes);
        while let Some(event) = state.end.next().map_err(|v| ClientError::Protocol(v.into()))? {
            state.accept(event)?;
        }
        Ok(())
    }
}

impl State {
    /// The end of a call for its caller: there is nothing more to wait for.
    pub(crate) fn forget(&mut self, call: u32) {
        if let Some(waiting) = self.waiting.remove(&call) {
            self.held -= waiting.reply_len;
        }
    }

    fn accept(&mut self, event: HostEvent) -> Result<(), ClientError> {
        match event {
            HostEvent::Data(call, channel, bytes) => match self.waiting.get_mut(&call) {
                Some(waiting) => {
                    if channel == Channel::Output {
                        waiting.output.extend_from_slice(&bytes);
                    } else {
                        waiting.error_first |= waiting.output.is_empty();
                        waiting.error.extend_from_slice(&bytes);
                    }
                    waiting.wake.notify_one();
                }
                // Nobody reads it; without a grant the guest stops by itself at the window's end.
                None => drop(bytes),
            },
            HostEvent::Reply(call, reply) => {
                if let Some(waiting) = self.waiting.get_mut(&call) {
                    let length = reply.encoded_len();
                    if self.held + length > MAX_HELD {
                        return Err(ClientError::Protocol(Violation::TooLong(call).into()));
                    }
                    self.held += length;
                    waiting.reply_len = length;
                    waiting.reply = Some(reply);
                    waiting.wake_all();
                }
            }
            HostEvent::Room(call) => {
                if let Some(waiting) = self.waiting.get(&call) {
                    waiting.room.notify_one();
                }
            }
            HostEvent::Eof(..) => {}
        }
        Ok(())
    }
}

/// The outcome of a reply, or the guest's error.
pub(crate) fn outcome(reply: Reply) -> Result<Outcome, ClientError> {
    match reply.outcome {
        Some(Outcome::Error(error)) => Err(ClientError::Guest {
            kind: error.kind(),
            message: omnirun_redact::Guest(bounded(error.message)),
        }),
        Some(outcome) => Ok(outcome),
        None => Err(wrong_reply()),
    }
}

pub(crate) fn wrong_reply() -> ClientError {
    ClientError::Protocol(ProtocolError::WrongReply)
}

/// Error messages are shown to people; more than this is noise.
fn bounded(mut message: String) -> String {
    const MAX: usize = 4096;
    if message.len() > MAX {
        let end = (0..=MAX)
            .rev()
            .find(|&i| message.is_char_boundary(i))
            .unwrap_or(0);
        message.truncate(end);
    }
    message
}
