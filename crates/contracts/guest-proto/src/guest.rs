//! The guest's end of a connection, the preface included.
//!
//! No I/O: bytes from the host go in by [`GuestEnd::push`] and come out as [`GuestEvent`]s; what is to be sent gathers in
//! [`GuestEnd::out`]. A preface may stand anywhere in the stream (see [`crate::frame`]): it ends the connection that was,
//! if there was one, and begins the next.

pub use crate::calls::Violation;
use crate::{
    calls::{Inbound, Outbound},
    frame::{self, Channel, Decoder, Kind},
    limits,
    message::{Reply, Request},
    preface::{self, LEN, MAGIC, Offer},
};
use prost::Message;

/// What came from the host.
#[derive(Debug, Clone, PartialEq)]
pub enum GuestEvent {
    /// A new connection: every call of the one before is gone.
    Connected,
    /// A new call.
    Request(u32, Request),
    /// A new call whose request this agent does not understand; it wants an error as its reply.
    Unreadable(u32),
    /// Bytes of its input. To be [granted](GuestEnd::grant) when consumed.
    Data(u32, Vec<u8>),
    /// No more of them.
    Eof(u32),
    /// The host gives the call up, and wants its reply.
    Cancel(u32),
    /// The host broke the protocol, or wants a version that is not spoken here: every call is gone, a preface is awaited.
    Lost,
}

#[derive(Debug)]
struct Call {
    id: u32,
    input: Inbound,
    output: Outbound,
    error: Outbound,
    /// Its request is not yet whole.
    unfinished: Option<Vec<u8>>,
}

/// The state.
#[derive(Debug)]
pub struct GuestEnd {
    decoder: Decoder,
    /// Pending bytes in which there is no beginning of a magic, except in the last few.
    scanned: usize,
    connected: bool,
    /// Few at a time, so a list.
    calls: Vec<Call>,
    highest: u32,
    unfinished: usize,
    /// To be written to the host.
    pub out: Vec<u8>,
}

impl Default for GuestEnd {
    fn default() -> Self {
        Self {
            decoder: Decoder::with_capacity(16 * 1024),
            scanned: 0,
            connected: false,
            calls: Vec::with_capacity(8),
            highest: 0,
            unfinished: 0,
            out: Vec::with_capacity(16 * 1024),
        }
    }
}

impl GuestEnd {
    /// Whether a preface has been answered.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// The host is gone, as the transport says. Calls are gone; bytes to be sent, too.
    pub fn disconnect(&mut self) {
        self.decoder.skip(usize::MAX);
        self.scanned = 0;
        self.forget();
    }

    fn forget(&mut self) {
        self.connected = false;
        self.calls.clear();
        self.highest = 0;
        self.unfinished = 0;
        self.out.clear();
    }

    /// Takes bytes from the host.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next event; `None`: more bytes are needed.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<GuestEvent> {
        if let Some(event) = self.find_preface() {
            return event;
        }
        if !self.connected {
            // Noise, of which only the last few bytes can be the beginning of a magic.
            self.skip(self.decoder.pending().len().saturating_sub(MAGIC.len() - 1));
            return None;
        }
        match self.next_frame() {
            Ok(event) => event,
            Err(_) => {
                self.forget();
                Some(GuestEvent::Lost)
            }
        }
    }

    /// `Some(event)`: the pending bytes hold a magic, and frames have to wait.
    fn find_preface(&mut self) -> Option<Option<GuestEvent>> {
        let pending = self.decoder.pending();
        let from = self.scanned.saturating_sub(MAGIC.len() - 1);
        let Some(at) = pending.get(from..).and_then(frame::find_magic) else {
            self.scanned = pending.len();
            return None;
        };
        // Whatever stands before it is of a connection that is gone.
        self.skip(from + at);
        let lost = std::mem::replace(&mut self.connected, false);
        if lost {
            self.forget();
        }
        loop {
            let pending = self.decoder.pending();
            // A preface that broke off and the next one behind it.
            let later = frame::find_magic(&pending[MAGIC.len()..]).map(|at| at + MAGIC.len());
            match (later, pending.first_chunk::<LEN>().map(Offer::read)) {
                (Some(at), _) => self.skip(at),
                (None, None) => return Some(lost.then_some(GuestEvent::Lost)),
                (None, Some(Some(offer))) => return Some(Some(self.accept(offer))),
                (None, Some(None)) => {
                    self.skip(MAGIC.len());
                    return Some(lost.then_some(GuestEvent::Lost));
                }
            }
        }
    }

    fn accept(&mut self, offer: Offer) -> GuestEvent {
        self.skip(LEN);
        self.forget();
        let version = offer.choose();
        // A version of 0 says that none of those offered is spoken here.
        self.out
            .extend_from_slice(&preface::answer(offer.nonce, version.unwrap_or(0)));
        self.connected = version.is_some();
        if self.connected {
            GuestEvent::Connected
        } else {
            GuestEvent::Lost
        }
    }

    fn skip(&mut self, count: usize) {
        self.decoder.skip(count);
        self.scanned = self.scanned.saturating_sub(count);
    }

    fn next_frame(&mut self) -> Result<Option<GuestEvent>, Violation> {
        loop {
            let Some(frame) = self.decoder.next()? else {
                return Ok(None);
            };
            self.scanned = self.scanned.saturating_sub(frame::HEAD + frame.payload.len() + 1);
            let (id, kind, channel) = (frame.head.call, frame.head.kind, frame.head.channel);
            if !self.calls.iter().any(|c| c.id == id) {
                // A call that is over: the host did not know yet. A new one: numbers only grow.
                if id <= self.highest {
                    continue;
                }
                if !matches!(kind, Kind::Part | Kind::Message) || self.calls.len() >= limits::MAX_CALLS {
                    return Err(Violation::CannotOpen(id));
                }
                self.highest = id;
                self.calls.push(Call {
                    id,
                    input: Inbound::new(),
                    output: Outbound::new(),
                    error: Outbound::new(),
                    unfinished: Some(Vec::new()),
                });
            }
            let call = self
                .calls
                .iter_mut()
                .find(|c| c.id == id)
                .ok_or(Violation::NotOpen(id))?;
            match kind {
                Kind::Part | Kind::Message => {
                    let length = frame.payload.len();
                    let unfinished = call.unfinished.as_mut().ok_or(Violation::OutOfPlace(id))?;
                    self.unfinished += length;
                    if unfinished.len() + length > limits::MAX_REQUEST
                        || self.unfinished > limits::MAX_UNFINISHED
                    {
                        return Err(Violation::TooLong(id));
                    }
                    if kind == Kind::Part {
                        unfinished.extend_from_slice(frame.payload);
                        continue;
                    }
                    let request = if unfinished.is_empty() {
                        Request::decode(frame.payload)
                    } else {
                        unfinished.extend_from_slice(frame.payload);
                        Request::decode(&**unfinished)
                    };
                    self.unfinished -= unfinished.len().max(length);
                    call.unfinished = None;
                    return Ok(Some(match request {
                        Ok(request) => GuestEvent::Request(id, request),
                        Err(_) => GuestEvent::Unreadable(id),
                    }));
                }
                Kind::Data if channel == Channel::Input => {
                    call.input.take(id, frame.payload.len())?;
                    return Ok(Some(GuestEvent::Data(id, frame.payload.to_vec())));
                }
                Kind::Eof if channel == Channel::Input => {
                    call.input.ended = true;
                    return Ok(Some(GuestEvent::Eof(id)));
                }
                Kind::Credit => match channel {
                    Channel::Output => call.output.credit(id, frame.payload)?,
                    Channel::Error => call.error.credit(id, frame.payload)?,
                    Channel::Input => return Err(Violation::OutOfPlace(id)),
                },
                Kind::Cancel => return Ok(Some(GuestEvent::Cancel(id))),
                Kind::Data | Kind::Eof => return Err(Violation::OutOfPlace(id)),
            }
        }
    }

    fn call(&mut self, id: u32) -> Option<&mut Call> {
        self.calls.iter_mut().find(|c| c.id == id)
    }

    /// How many bytes of the channel the host would take now.
    pub fn room(&self, id: u32, channel: Channel) -> usize {
        let call = self.calls.iter().find(|c| c.id == id);
        call.map_or(0, |c| {
            if channel == Channel::Output {
                c.output.left
            } else {
                c.error.left
            }
        }) as usize
    }

    /// Sends bytes of a channel, at most [`GuestEnd::room`]; says how many it took.
    pub fn send(&mut self, id: u32, channel: Channel, bytes: &[u8]) -> usize {
        let Some(call) = self.call(id) else { return 0 };
        let outbound = if channel == Channel::Output {
            &mut call.output
        } else {
            &mut call.error
        };
        if outbound.ended {
            return 0;
        }
        let length = bytes.len().min(outbound.left as usize);
        outbound.left -= length as u32;
        frame::put_data(&mut self.out, id, channel, &bytes[..length]);
        length
    }

    /// Lets the host send more: so much of its input has been consumed.
    pub fn grant(&mut self, id: u32, length: usize) {
        let Some(call) = self.call(id) else { return };
        let granted = call.input.grant(length);
        if granted > 0 && !call.input.ended {
            frame::put_one(
                &mut self.out,
                id,
                Kind::Credit,
                Channel::Input,
                &granted.to_le_bytes(),
            );
        }
    }

    /// Ends a call. (There is no end mark of its channels: the reply is one.)
    pub fn reply(&mut self, id: u32, reply: &Reply) {
        self.reply_encoded(id, &reply.encode_to_vec());
    }

    /// Ends a call with a reply that is encoded already.
    pub fn reply_encoded(&mut self, id: u32, reply: &[u8]) {
        let Some(at) = self.calls.iter().position(|c| c.id == id) else {
            return;
        };
        self.calls.swap_remove(at);
        frame::put_message(&mut self.out, id, reply);
    }
}
