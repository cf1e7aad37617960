//! A guest's DNS queries, and the answers that it is given.
//!
//! [`query`] reads one message; the caller decides, and [`answer`] writes what it decided. Nothing of a query ever goes
//! on: the proxy resolves the [`Name`](crate::Name) of [`Query::host`] with queries of its own, so the
//! letters' case, options, flags and the id, all of which a guest could write messages into, end here.
//!
//! What is read (RFC 1035, sections 3.1 and 4.1; RFC 6891, section 6.1): an ordinary query, class IN, with exactly one
//! question whose labels are of letters, digits, `-` and `_`, in at most 255 bytes and without compression; then at most
//! one OPT record of version 0, and nothing after it. A dot, NUL or control byte within a label is refused, since the
//! dotted form would be another name's. What is not so has [`BadQuery::answer`], or none at all if it is no query: two
//! resolvers that answer each other's answers would never end.
//!
//! What is answered:
//!
//! | asked | listed name | other name |
//! | -- | -- | -- |
//! | A | [`Answer::Addresses`] | [`Answer::NoSuchName`] or [`Answer::Refused`] |
//! | AAAA | [`Answer::Empty`]: a guest has no IPv6 | the same |
//! | HTTPS, SVCB | [`Answer::Empty`]: no keys for an encrypted ClientHello, no other ports or protocols | the same |
//! | TXT, NULL, MX, ANY, all else | [`Answer::Empty`]: nothing that carries data back | the same |
//!
//! [`answer`] writes records for a query of kind A alone, whatever it is told. Bypasses that this is for: encrypted
//! ClientHello, tunnels through DNS ([`Query::tunnel`] caps what fits in a name under a listed wildcard; the rate is the
//! caller's to cap), and names that differ from reader to reader.
//!
//! Queries are read by hand, as `hickory-proto` is too kind for a gate: it lets any byte into a label, follows pointers in
//! a question and passes over what follows a message. The tests and the fuzz target compare the two: what is read here is
//! what it reads, and it reads every answer.
//!
//! An answer fits in 512 bytes also for the longest name: [`MAX_ADDRESSES`] is chosen so. So nothing is cut off on UDP,
//! which musl before 1.2.4 could not have asked for again over TCP.

mod answer;
mod query;

pub use answer::{Answer, MAX_ADDRESSES, MAX_TTL, MIN_TTL, NEGATIVE_TTL, answer};
pub use query::{BadQuery, MAX_NAME, MAX_TCP, MAX_UDP, Query, Tunnel, Why, query};

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Over {
    /// In a datagram.
    Udp,
    /// In a stream, behind its length.
    Tcp,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Service bindings.
    Svcb,
    /// Service bindings for HTTPS.
    Https,
    /// Another type, by its number.
    Other(u16),
}

impl From<u16> for Kind {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::A,
            28 => Self::Aaaa,
            64 => Self::Svcb,
            65 => Self::Https,
            other => Self::Other(other),
        }
    }
}

/// A message's first bytes: id, flags, four counts.
const HEADER: usize = 12;
const OPT: u16 = 41;
const IN: u16 = 1;

/// Flags of a header's third and fourth byte, as one number.
mod flag {
    pub(super) const RESPONSE: u16 = 0x8000;
    pub(super) const OPCODE: u16 = 0x7800;
    pub(super) const TRUNCATED: u16 = 0x0200;
    pub(super) const RECURSION_DESIRED: u16 = 0x0100;
    pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(super) const CHECKING_DISABLED: u16 = 0x0010;
    /// What an answer repeats.
    pub(super) const COPIED: u16 = OPCODE | RECURSION_DESIRED | CHECKING_DISABLED;
}

/// Response codes (RFC 1035, section 4.1.1; RFC 6891, section 9).
mod code {
    pub(super) const NONE: u16 = 0;
    pub(super) const FORMAT_ERROR: u16 = 1;
    pub(super) const SERVER_FAILURE: u16 = 2;
    pub(super) const NO_SUCH_NAME: u16 = 3;
    pub(super) const NOT_IMPLEMENTED: u16 = 4;
    pub(super) const REFUSED: u16 = 5;
    /// Its upper bits are in the OPT record.
    pub(super) const BAD_VERSION: u16 = 16;
}
