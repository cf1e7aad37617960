//! Answers.

use super::{HEADER, IN, Kind, OPT, Query, Why, code, flag};
use std::net::Ipv4Addr;

/// Seconds that an address is good for at least. Zero would have it asked for again before it is used.
pub const MIN_TTL: u32 = 1;
/// Seconds that an address is good for at most: a changed policy or address is soon seen, and the set of answered
/// addresses stays small.
pub const MAX_TTL: u32 = 60;
/// Seconds that "no" is good for: so short that a widened policy shows at once.
pub const NEGATIVE_TTL: u32 = 5;
/// At most so many addresses are in an answer: what fits in 512 bytes behind the longest name.
pub const MAX_ADDRESSES: usize = 14;

const LONGEST: usize = HEADER + (255 + 4) + MAX_ADDRESSES * 16 + 11;
const _: () = assert!(LONGEST <= 512);
/// What a client may send us (the value of the DNS flag day of 2020); our own answers are shorter.
const UDP_SIZE: u16 = 1232;
/// The question's name, which is always at the same place.
const QUESTION: [u8; 2] = [0xc0, HEADER as u8];

/// What a query is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Addresses, the first [`MAX_ADDRESSES`] of them, for so many seconds (from [`MIN_TTL`] to [`MAX_TTL`]). An
    /// [`Answer::Empty`] if there are none or the query is not for them.
    Addresses(&'a [Ipv4Addr], u32),
    /// The name exists, what was asked for does not.
    Empty,
    /// The name does not exist.
    NoSuchName,
    /// We do not answer that.
    Refused,
    /// We could not find out.
    Failed,
    /// Ask again over TCP.
    Truncated,
}

/// Writes an answer: at most 512 bytes, without the length that goes before it in a stream.
pub fn answer(query: &Query, with: Answer<'_>) -> Vec<u8> {
    let (addresses, ttl, code) = match with {
        Answer::Addresses(all, ttl) if query.kind() == Kind::A => (
            &all[..all.len().min(MAX_ADDRESSES)],
            ttl.clamp(MIN_TTL, MAX_TTL),
            code::NONE,
        ),
        Answer::Addresses(..) | Answer::Empty | Answer::Truncated => (&[][..], 0, code::NONE),
        Answer::NoSuchName => (&[][..], 0, code::NO_SUCH_NAME),
        Answer::Refused => (&[][..], 0, code::REFUSED),
        Answer::Failed => (&[][..], 0, code::SERVER_FAILURE),
    };
    let truncated = with == Answer::Truncated;
    // RFC 2308: without a SOA record a "no" may not be kept, and some resolvers ask again at once.
    let soa = addresses.is_empty() && !truncated && matches!(code, code::NONE | code::NO_SUCH_NAME);
    let mut flags = query.flags & flag::COPIED | code;
    if truncated {
        flags |= flag::TRUNCATED;
    }
    let mut out = header(
        query.id,
        flags,
        [1, addresses.len() as u16, soa.into(), query.edns.is_some().into()],
    );
    out.extend(&query.question);
    for address in addresses {
        record(&mut out, 1, ttl, &address.octets());
    }
    if soa {
        record(&mut out, 6, NEGATIVE_TTL, &soa_data());
    }
    if let Some(edns) = query.edns {
        opt(&mut out, 0, edns.dnssec);
    }
    out
}

/// The answer to what is no good query: a header alone, as the question may not even be one.
pub(super) fn bad(id: u16, flags: u16, why: Why) -> Vec<u8> {
    let code = why.code();
    let edns = code > 0xf;
    let mut out = header(id, flags & flag::COPIED | code & 0xf, [0, 0, 0, edns.into()]);
    if edns {
        opt(&mut out, (code >> 4) as u8, false);
    }
    out
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let flags = flags | flag::RESPONSE | flag::RECURSION_AVAILABLE;
    let mut out = Vec::with_capacity(LONGEST);
    for field in [id, flags].into_iter().chain(counts) {
        out.extend(field.to_be_bytes());
    }
    out
}

fn record(out: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    out.extend(QUESTION);
    out.extend(kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
}

/// Server and mailbox are the root; serial, refresh, retry, expire and minimum.
fn soa_data() -> Vec<u8> {
    let numbers = [1, 3600, 600, 86_400, NEGATIVE_TTL];
    [0, 0]
        .into_iter()
        .chain(numbers.into_iter().flat_map(u32::to_be_bytes))
        .collect()
}

fn opt(out: &mut Vec<u8>, code_high: u8, dnssec: bool) {
    out.push(0);
    out.extend(OPT.to_be_bytes());
    out.extend(UDP_SIZE.to_be_bytes());
    out.extend([code_high, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
}
