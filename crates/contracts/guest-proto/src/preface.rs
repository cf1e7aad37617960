//! The preface: how two ends that may come and go at any time find the start of a connection.
//!
//! ```text
//!   host:   MAGIC (16)  nonce (16)  lowest version (u16 LE)  highest version (u16 LE)  END
//!   guest:  MAGIC (16)  the nonce   chosen version (u16 LE)  0 (u16 LE)                END
//! ```
//!
//! END is that of a frame: a preface that broke off and seems to be completed by the next one has a byte of the magic in
//! its place.
//!
//! Each end discards bytes, at most [`crate::limits::MAX_PREFACE_SKIP`], until it sees the magic (the host: and its own
//! nonce behind it). On virtio-serial the queues may still hold bytes of an earlier connection, an earlier preface
//! included; the nonce tells them apart.

use crate::{
    frame::{END, find_magic},
    limits::MAX_PREFACE_SKIP,
};

/// Starts every preface. Drawn at random once; no text, no valid frame head (its length would be over the cap).
pub const MAGIC: [u8; 16] = [
    0x9f, 0x4f, 0x52, 0xf1, 0x8a, 0x0d, 0x0a, 0x1a, 0xe3, 0x77, 0xc0, 0xde, 0x00, 0xff, 0x91, 0x2b,
];
/// Bytes of a preface.
pub const LEN: usize = 37;
/// The version that this code speaks.
pub const VERSION: u16 = 1;

/// The host's offer.
pub fn offer(nonce: [u8; 16]) -> [u8; LEN] {
    encode(nonce, VERSION, VERSION)
}

/// The guest's answer.
pub fn answer(nonce: [u8; 16], version: u16) -> [u8; LEN] {
    encode(nonce, version, 0)
}

fn encode(nonce: [u8; 16], a: u16, b: u16) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..16].copy_from_slice(&MAGIC);
    out[16..32].copy_from_slice(&nonce);
    out[32..34].copy_from_slice(&a.to_le_bytes());
    out[34..36].copy_from_slice(&b.to_le_bytes());
    out[36] = END;
    out
}

/// What a host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// To be sent back.
    pub nonce: [u8; 16],
    /// The lowest version that it speaks.
    pub lowest: u16,
    /// The highest.
    pub highest: u16,
}

impl Offer {
    /// The version that a guest of this release chooses, if there is one.
    pub fn choose(&self) -> Option<u16> {
        (self.lowest..=self.highest).contains(&VERSION).then_some(VERSION)
    }

    /// Reads an offer at the start of [`LEN`] bytes; `None`: it is none.
    pub fn read(bytes: &[u8; LEN]) -> Option<Self> {
        let (nonce, lowest, highest) = fields(bytes)?;
        Some(Self {
            nonce,
            lowest,
            highest,
        })
    }
}

/// Why a preface failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// Too many bytes, and no answer among them.
    #[error("no answer to the preface in {MAX_PREFACE_SKIP} bytes")]
    Lost,
    /// The guest chose what was not offered.
    #[error("the guest agent speaks version {0} of the protocol, this host version {VERSION}")]
    Version(u16),
}

/// The host's side: finds the answer to its own nonce.
#[derive(Debug)]
pub struct Scanner {
    nonce: [u8; 16],
    pending: Vec<u8>,
    skipped: usize,
}

impl Scanner {
    /// For the answer to the offer with this nonce.
    pub fn new(nonce: [u8; 16]) -> Self {
        Self {
            nonce,
            pending: Vec::new(),
            skipped: 0,
        }
    }

    /// Takes bytes as they came. `Some`: the version, and the bytes behind the answer, which are frames.
    ///
    /// # Errors
    /// [`PrefaceError`], after which the stream is of no use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(u16, Vec<u8>)>, PrefaceError> {
        self.pending.extend_from_slice(bytes);
        let mut from = 0;
        loop {
            let Some(at) = find_magic(&self.pending[from..]) else {
                // The end may be the beginning of the magic.
                from = from.max(self.pending.len().saturating_sub(MAGIC.len() - 1));
                break;
            };
            from += at;
            if self.pending.len() - from < LEN {
                break;
            }
            if let Some((nonce, version, _)) = fields(&self.pending[from..])
                && nonce == self.nonce
            {
                if version != VERSION {
                    return Err(PrefaceError::Version(version));
                }
                return Ok(Some((version, self.pending.split_off(from + LEN))));
            }
            // Of an earlier connection, whole or broken off; another may begin within its length.
            from += MAGIC.len();
        }
        self.pending.drain(..from);
        self.skipped += from;
        if self.skipped > MAX_PREFACE_SKIP {
            return Err(PrefaceError::Lost);
        }
        Ok(None)
    }
}

fn fields(bytes: &[u8]) -> Option<([u8; 16], u16, u16)> {
    let bytes = bytes.first_chunk::<LEN>().filter(|b| b[LEN - 1] == END)?;
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&bytes[16..32]);
    let word = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
    Some((nonce, word(32), word(34)))
}
