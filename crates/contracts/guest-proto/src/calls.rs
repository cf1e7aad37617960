//! What both ends keep of a call: credit windows and unfinished messages.

use crate::limits::DATA_WINDOW;

/// How a peer broke the protocol. The connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no frame.
    #[error("malformed frame")]
    Frame(#[from] crate::frame::FrameError),
    /// A message that is no protobuf, or not the one that belongs here.
    #[error("malformed message on call {0}")]
    Message(u32),
    /// A message over the cap.
    #[error("a message of call {0} is too long")]
    TooLong(u32),
    /// A frame for a call that is not open.
    #[error("a frame for call {0}, which is not open")]
    NotOpen(u32),
    /// A call number that was used before, or too many calls.
    #[error("call {0} cannot be opened")]
    CannotOpen(u32),
    /// More data than was granted.
    #[error("more data on call {0} than granted")]
    Window(u32),
    /// Credit that nothing was taken for.
    #[error("more credit for call {0} than taken")]
    Credit(u32),
    /// A frame of a kind or channel that this end does not send, an empty data frame, or data after its end.
    #[error("a frame out of place on call {0}")]
    OutOfPlace(u32),
}

/// The receiving side of a channel: what the peer may still send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inbound {
    allowed: u32,
    pub(crate) ended: bool,
}

impl Inbound {
    pub(crate) const fn new() -> Self {
        Self {
            allowed: DATA_WINDOW,
            ended: false,
        }
    }

    /// Accounts for data that came.
    pub(crate) fn take(&mut self, call: u32, length: usize) -> Result<(), Violation> {
        if self.ended || length == 0 {
            return Err(Violation::OutOfPlace(call));
        }
        let length = u32::try_from(length).map_err(|_| Violation::Window(call))?;
        self.allowed = self.allowed.checked_sub(length).ok_or(Violation::Window(call))?;
        Ok(())
    }

    /// Grants what has been consumed; never more than the window.
    pub(crate) fn grant(&mut self, length: usize) -> u32 {
        let room = DATA_WINDOW - self.allowed;
        let length = u32::try_from(length).unwrap_or(u32::MAX).min(room);
        self.allowed += length;
        length
    }
}

/// The sending side of a channel: what we may still send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbound {
    pub(crate) left: u32,
    pub(crate) ended: bool,
}

impl Outbound {
    pub(crate) const fn new() -> Self {
        Self {
            left: DATA_WINDOW,
            ended: false,
        }
    }

    /// Takes back what the peer consumed.
    pub(crate) fn credit(&mut self, call: u32, payload: &[u8]) -> Result<(), Violation> {
        let amount: [u8; 4] = payload.try_into().map_err(|_| Violation::OutOfPlace(call))?;
        let left = self
            .left
            .checked_add(u32::from_le_bytes(amount))
            .ok_or(Violation::Credit(call))?;
        if left > DATA_WINDOW {
            return Err(Violation::Credit(call));
        }
        self.left = left;
        Ok(())
    }
}
