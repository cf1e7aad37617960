//! The host's end of a connection, after the preface: opens calls, checks all that a hostile guest may send.
//!
//! No I/O: bytes from the guest go in by [`HostEnd::push`] and come out as [`HostEvent`]s; what is to be sent gathers in
//! [`HostEnd::out`]. A call that was opened stays known until its reply has come, also when nobody waits for it any more,
//! and what the guest can make us hold is bounded: a window of data for each channel of a call (the caller keeps it,
//! grants as it consumes), [`limits::MAX_UNFINISHED`] bytes of messages in all.

pub use crate::calls::Violation;
use crate::{
    calls::{Inbound, Outbound},
    frame::{self, Channel, Decoder, Kind},
    limits,
    message::{Reply, Request},
};
use prost::Message;
use std::collections::BTreeMap;

/// What came from the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum HostEvent {
    /// Bytes of `Output` or `Error`. To be [granted](HostEnd::grant) when consumed.
    Data(u32, Channel, Vec<u8>),
    /// No more of them.
    Eof(u32, Channel),
    /// The guest took input: there may be room for more.
    Room(u32),
    /// The end of a call.
    Reply(u32, Reply),
}

/// Why a call could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// [`limits::MAX_CALLS`] are open.
    #[error("too many calls at once")]
    TooMany,
    /// Over [`limits::MAX_REQUEST`].
    #[error("a request of {0} bytes is over the limit of {max}", max = limits::MAX_REQUEST)]
    TooLong(usize),
}

#[derive(Debug)]
struct Call {
    output: Inbound,
    error: Inbound,
    input: Outbound,
    unfinished: Vec<u8>,
}

/// The state.
#[derive(Debug)]
pub struct HostEnd {
    decoder: Decoder,
    calls: BTreeMap<u32, Call>,
    next: u32,
    unfinished: usize,
    /// To be written to the guest.
    pub out: Vec<u8>,
}

impl HostEnd {
    /// After a preface; `rest` are the bytes that came behind the answer.
    pub fn new(rest: &[u8]) -> Self {
        let mut decoder = Decoder::default();
        decoder.push(rest);
        Self {
            decoder,
            calls: BTreeMap::new(),
            next: 1,
            unfinished: 0,
            out: Vec::new(),
        }
    }

    /// Opens a call.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&mut self, request: &Request) -> Result<u32, OpenError> {
        if self.calls.len() >= limits::MAX_CALLS {
            return Err(OpenError::TooMany);
        }
        let length = request.encoded_len();
        if length > limits::MAX_REQUEST {
            return Err(OpenError::TooLong(length));
        }
        let call = self.next;
        self.next += 1;
        let fresh = Call {
            output: Inbound::new(),
            error: Inbound::new(),
            input: Outbound::new(),
            unfinished: Vec::new(),
        };
        self.calls.insert(call, fresh);
        frame::put_message(&mut self.out, call, &request.encode_to_vec());
        Ok(call)
    }

    /// Sends as much input as the window allows and says how much that was. Nothing for a call that is over.
    pub fn send(&mut self, call: u32, bytes: &[u8]) -> usize {
        let Some(state) = self.calls.get_mut(&call).filter(|c| !c.input.ended) else {
            return 0;
        };
        let length = bytes.len().min(state.input.left as usize);
        state.input.left -= length as u32;
        frame::put_data(&mut self.out, call, Channel::Input, &bytes[..length]);
        length
    }

    /// Ends the input.
    pub fn end_input(&mut self, call: u32) {
        if let Some(state) = self.calls.get_mut(&call).filter(|c| !c.input.ended) {
            state.input.ended = true;
            frame::put_one(&mut self.out, call, Kind::Eof, Channel::Input, &[]);
        }
    }

    /// Lets the guest send more: so many bytes of a channel have been consumed.
    pub fn grant(&mut self, call: u32, channel: Channel, length: usize) {
        let Some(state) = self.calls.get_mut(&call) else {
            return;
        };
        let inbound = if channel == Channel::Output {
            &mut state.output
        } else {
            &mut state.error
        };
        let granted = inbound.grant(length);
        if granted > 0 && !inbound.ended {
            frame::put_one(&mut self.out, call, Kind::Credit, channel, &granted.to_le_bytes());
        }
    }

    /// Gives a call up. Its reply still comes.
    pub fn cancel(&mut self, call: u32) {
        if self.calls.contains_key(&call) {
            frame::put_one(&mut self.out, call, Kind::Cancel, Channel::Input, &[]);
        }
    }

    /// Whether the call has not had its reply.
    pub fn is_open(&self, call: u32) -> bool {
        self.calls.contains_key(&call)
    }

    /// Takes bytes from the guest.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next event; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`Violation`]: the connection is over.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<HostEvent>, Violation> {
        while let Some(frame) = self.decoder.next()? {
            let (id, channel) = (frame.head.call, frame.head.channel);
            let call = self.calls.get_mut(&id).ok_or(Violation::NotOpen(id))?;
            match frame.head.kind {
                Kind::Part | Kind::Message => {
                    self.unfinished += frame.payload.len();
                    if call.unfinished.len() + frame.payload.len() > limits::MAX_REPLY
                        || self.unfinished > limits::MAX_UNFINISHED
                    {
                        return Err(Violation::TooLong(id));
                    }
                    call.unfinished.extend_from_slice(frame.payload);
                    if frame.head.kind == Kind::Message {
                        self.unfinished -= call.unfinished.len();
                        if !crate::amount::is_bounded(&call.unfinished) {
                            return Err(Violation::Message(id));
                        }
                        let reply = Reply::decode(&*call.unfinished).map_err(|_| Violation::Message(id))?;
                        self.calls.remove(&id);
                        return Ok(Some(HostEvent::Reply(id, reply)));
                    }
                }
                Kind::Data => {
                    call.inbound(id, channel)?.take(id, frame.payload.len())?;
                    return Ok(Some(HostEvent::Data(id, channel, frame.payload.to_vec())));
                }
                Kind::Eof => {
                    let inbound = call.inbound(id, channel)?;
                    if std::mem::replace(&mut inbound.ended, true) {
                        return Err(Violation::OutOfPlace(id));
                    }
                    return Ok(Some(HostEvent::Eof(id, channel)));
                }
                Kind::Credit if channel == Channel::Input => {
                    call.input.credit(id, frame.payload)?;
                    return Ok(Some(HostEvent::Room(id)));
                }
                Kind::Credit | Kind::Cancel => return Err(Violation::OutOfPlace(id)),
            }
        }
        Ok(None)
    }
}

impl Call {
    fn inbound(&mut self, id: u32, channel: Channel) -> Result<&mut Inbound, Violation> {
        match channel {
            Channel::Input => Err(Violation::OutOfPlace(id)),
            Channel::Output => Ok(&mut self.output),
            Channel::Error => Ok(&mut self.error),
        }
    }
}
