//! Frames: how calls share one byte stream.
//!
//! ```text
//!   0        4        8      9         10
//!   | length | call   | kind | channel | payload ...
//!   | u32 LE | u32 LE | u8   | u8      | length bytes, at most MAX_FRAME_PAYLOAD
//! ```

use crate::limits::MAX_FRAME_PAYLOAD;

/// Bytes of a frame's head.
pub const HEAD: usize = 10;

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
        Ok(Self { length, call: word(4), kind, channel })
    }
}
