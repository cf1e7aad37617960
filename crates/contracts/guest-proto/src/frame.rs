//! Frames: how calls share one byte stream.
//!
//! ```text
//!   0        4        8      9         10
//!   | length | call   | kind | channel | payload ...                             | END  |
//!   | u32 LE | u32 LE | u8   | u8      | length bytes, at most MAX_FRAME_PAYLOAD | 0x5a |
//! ```
//!
//! A guest can miss that its host went and came back (while the VM was paused, say). The new preface then follows the
//! middle of a frame. Two rules keep that unambiguous, whatever the offset:
//!
//! * **The preface's magic is never on the wire but in a preface.** [`put_message`] and [`put_data`] split a payload that holds
//!   it. (A frame's
//!   head cannot hold a part of it that matters: its kind and channel are small, and END is not in the magic.) So a
//!   guest looks for the magic in all that it receives, and where it stands a new connection begins.
//! * **A frame is complete only with its END.** A frame of a dead connection that the first bytes of a preface seem to
//!   complete has a byte of the magic there, and is refused rather than acted on.

use crate::{limits::MAX_FRAME_PAYLOAD, preface::MAGIC};

/// Bytes of a frame's head.
pub const HEAD: usize = 10;
/// Ends every frame. Not a byte of the magic.
pub const END: u8 = 0x5a;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a message, more to come.
    Part = 1,
    /// The last piece of a message.
    Message = 2,
    /// Bytes of a channel.
    Data = 3,
    /// No more bytes on a channel.
    Eof = 4,
    /// The receiver of a channel took so many bytes (payload: u32 LE).
    Credit = 5,
    /// The host gives the call up. A reply still comes.
    Cancel = 6,
}

/// The channels of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Host to guest: stdin, or the bytes of a file or tar stream.
    Input = 0,
    /// Guest to host: stdout, or the bytes of a file or tar stream.
    Output = 1,
    /// Guest to host: stderr.
    Error = 2,
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow.
    pub length: usize,
    /// Whose they are.
    pub call: u32,
    /// What they are.
    pub kind: Kind,
    /// Where they go, for `Data`, `Eof` and `Credit`; `Input` otherwise.
    pub channel: Channel,
}

/// Why bytes are not a frame. The connection is over: there is no way to find the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More than [`MAX_FRAME_PAYLOAD`].
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME_PAYLOAD}")]
    TooLong(usize),
    /// No such kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// No such channel.
    #[error("unknown channel {0}")]
    Channel(u8),
    /// The byte after the payload is not [`END`].
    #[error("a frame without its end mark")]
    End,
}

impl Head {
    /// Writes the head.
    pub fn encode(self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..4].copy_from_slice(&(self.length as u32).to_le_bytes());
        out[4..8].copy_from_slice(&self.call.to_le_bytes());
        out[8] = self.kind as u8;
        out[9] = self.channel as u8;
        out
    }

    /// Reads a head.
    ///
    /// # Errors
    /// [`FrameError`] for a length over the cap, an unknown kind or an unknown channel.
    pub fn decode(bytes: &[u8; HEAD]) -> Result<Self, FrameError> {
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let length = word(0) as usize;
        if length > MAX_FRAME_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let kind = match bytes[8] {
            1 => Kind::Part,
            2 => Kind::Message,
            3 => Kind::Data,
            4 => Kind::Eof,
            5 => Kind::Credit,
            6 => Kind::Cancel,
            other => return Err(FrameError::Kind(other)),
        };
        let channel = match bytes[9] {
            0 => Channel::Input,
            1 => Channel::Output,
            2 => Channel::Error,
            other => return Err(FrameError::Channel(other)),
        };
        Ok(Self {
            length,
            call: word(4),
            kind,
            channel,
        })
    }
}

/// A whole frame, borrowed from the [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its head.
    pub head: Head,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Bytes in, frames out. Holds at most what was pushed and not yet taken.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// A decoder whose buffer need not grow for ordinary frames.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            buffer: Vec::with_capacity(bytes),
            start: 0,
        }
    }

    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes that are not yet part of a frame taken.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Forgets the first `count` pending bytes.
    pub fn skip(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.buffer.len());
    }

    /// Takes the next whole frame.
    ///
    /// # Errors
    /// [`FrameError`]: the stream is beyond repair.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(head) = self.pending().first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let head = Head::decode(head)?;
        let first = self.start + HEAD;
        let Some(&end) = self.buffer.get(first + head.length) else {
            return Ok(None);
        };
        if end != END {
            return Err(FrameError::End);
        }
        self.start = first + head.length + 1;
        Ok(Some(Frame {
            head,
            payload: &self.buffer[first..first + head.length],
        }))
    }

    fn compact(&mut self) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
        } else if self.start > 0 {
            self.buffer.copy_within(self.start.., 0);
            self.buffer.truncate(self.buffer.len() - self.start);
        }
        self.start = 0;
    }
}

/// Where the magic begins in `bytes`.
pub fn find_magic(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&b| b == MAGIC[0]) {
        let at = from + at;
        if bytes[at..].starts_with(&MAGIC) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// How many bytes of `payload` the next frame may carry: no more than fit, and never a whole magic.
pub fn chunk(payload: &[u8]) -> usize {
    let payload = &payload[..payload.len().min(MAX_FRAME_PAYLOAD)];
    match find_magic(payload) {
        Some(at) => at + MAGIC.len() / 2,
        None => payload.len(),
    }
}

/// Appends one frame. The payload is a [`chunk`].
pub fn put_one(out: &mut Vec<u8>, call: u32, kind: Kind, channel: Channel, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_FRAME_PAYLOAD);
    out.reserve(HEAD + payload.len() + 1);
    out.extend_from_slice(
        &Head {
            length: payload.len(),
            call,
            kind,
            channel,
        }
        .encode(),
    );
    out.extend_from_slice(payload);
    out.push(END);
}

/// Appends a message as frames: `Part`s and a `Message`.
pub fn put_message(out: &mut Vec<u8>, call: u32, mut payload: &[u8]) {
    loop {
        let length = chunk(payload);
        let (now, later) = payload.split_at(length);
        let kind = if later.is_empty() {
            Kind::Message
        } else {
            Kind::Part
        };
        put_one(out, call, kind, Channel::Input, now);
        if later.is_empty() {
            return;
        }
        payload = later;
    }
}

/// Appends the bytes of a channel as frames.
pub fn put_data(out: &mut Vec<u8>, call: u32, channel: Channel, mut payload: &[u8]) {
    while !payload.is_empty() {
        let (now, later) = payload.split_at(chunk(payload));
        put_one(out, call, Kind::Data, channel, now);
        payload = later;
    }
}
