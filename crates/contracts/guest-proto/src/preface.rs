//! The preface: how two ends that may come and go at any time find the start of a connection.
//!
//! ```text
//!   host:   MAGIC (16)  nonce (16)  lowest version (u16 LE)  highest version (u16 LE)
//!   guest:  MAGIC (16)  the nonce   chosen version (u16 LE)  0 (u16 LE)
//! ```
//!
//! Each end discards bytes, at most [`crate::limits::MAX_PREFACE_SKIP`], until it sees the magic (the host: and its own
//! nonce behind it). On virtio-serial the queues may still hold bytes of an earlier connection, an earlier preface
//! included; the nonce tells them apart.

use crate::limits::MAX_PREFACE_SKIP;

/// Starts every preface. Drawn at random once; no text, no valid frame head (its length would be over the cap).
pub const MAGIC: [u8; 16] = [0x9f, 0x4f, 0x52, 0xf1, 0x8a, 0x0d, 0x0a, 0x1a, 0xe3, 0x77, 0xc0, 0xde, 0x00, 0xff, 0x91, 0x2b];
/// Bytes of a preface.
pub const LEN: usize = 36;
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
    out[34..].copy_from_slice(&b.to_le_bytes());
    out
}
// Scanners for both ends follow: see `Scanner`.
const _: usize = MAX_PREFACE_SKIP;
