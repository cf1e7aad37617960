//! The handshake message out of the records that carry it.

use super::{Bad, MAX, MAX_RECORDS};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Type, version, length.
const HEADER: usize = 5;
/// A record carries at most this much plaintext (RFC 8446, section 5.1).
const MAX_FRAGMENT: usize = 1 << 14;
/// A handshake message's type and length.
const PREFIX: usize = 4;

/// The body of the first handshake message, which is a ClientHello, and how many bytes of the stream it took; or nothing
/// while it is not whole.
pub(super) fn message(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Bad> {
    // The first pass looks at headers alone.
    let mut prefix = Prefix::default();
    let (mut at, mut got, mut records) = (0, 0, 0);
    let total = loop {
        if records == MAX_RECORDS {
            return Err(Bad::TooManyRecords);
        }
        let header = &bytes[at..];
        let Some(length) = header_of(header, at == 0)? else {
            return Ok(None);
        };
        records += 1;
        if at + HEADER + length > MAX {
            return Err(Bad::TooLong);
        }
        let fragment = &header[HEADER..];
        let here = &fragment[..fragment.len().min(length)];
        prefix.take(here);
        prefix.check()?;
        got += length;
        if let Some(total) = prefix.total()? {
            // A hello is followed by new keys, so a record ends with it (RFC 8446, section 5.1); and before TLS 1.3 no
            // client has a second message to send.
            if got > total {
                return Err(Bad::Trailing);
            }
            if got == total && here.len() == length {
                break total;
            }
        }
        if here.len() < length {
            return Ok(None);
        }
        at += HEADER + length;
    };

    let mut message = Vec::with_capacity(total);
    let mut rest = bytes;
    for _ in 0..records {
        // The first pass went over the same headers, so none is missing here.
        let Some(length) = header_of(rest, false)? else {
            break;
        };
        message.extend_from_slice(&rest[HEADER..HEADER + length]);
        rest = &rest[HEADER + length..];
    }
    let length = bytes.len() - rest.len();
    message.drain(..PREFIX);
    Ok(Some((message, length)))
}

/// The fragment's length that a record's header says; nothing while the header is not whole.
fn header_of(bytes: &[u8], first: bool) -> Result<Option<usize>, Bad> {
    if let Some(kind) = bytes.first()
        && *kind != HANDSHAKE
    {
        // An SSLv2 record: a length of two bytes with the highest bit set, then the type of a hello.
        let ssl2 = first && kind & 0x80 != 0 && bytes.get(2).is_none_or(|b| *b == CLIENT_HELLO);
        return Err(if ssl2 { Bad::Ssl2 } else { Bad::NotHandshake });
    }
    // "xx" has no meaning here (RFC 8446, section 5.1), yet nothing above 4 was ever given out.
    if bytes.get(1).is_some_and(|b| *b != 3) || bytes.get(2).is_some_and(|b| *b > 4) {
        return Err(Bad::Version);
    }
    let Some([_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > MAX_FRAGMENT {
        return Err(Bad::Record);
    }
    Ok(Some(length))
}

/// The first bytes of the handshake message, which may be spread over records.
#[derive(Default)]
struct Prefix {
    bytes: [u8; PREFIX],
    count: usize,
}

impl Prefix {
    fn take(&mut self, fragment: &[u8]) {
        for byte in fragment.iter().take(PREFIX - self.count) {
            self.bytes[self.count] = *byte;
            self.count += 1;
        }
    }

    fn check(&self) -> Result<(), Bad> {
        if self.count > 0 && self.bytes[0] != CLIENT_HELLO {
            return Err(Bad::NotHello);
        }
        Ok(())
    }

    /// The message's length, with its prefix.
    fn total(&self) -> Result<Option<usize>, Bad> {
        if self.count < PREFIX {
            return Ok(None);
        }
        let [_, a, b, c] = self.bytes;
        let total = PREFIX + u32::from_be_bytes([0, a, b, c]) as usize;
        if total + HEADER > MAX {
            return Err(Bad::TooLong);
        }
        Ok(Some(total))
    }
}
