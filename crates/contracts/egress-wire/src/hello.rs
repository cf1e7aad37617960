//! The ClientHello at the beginning of a TLS stream.
//!
//! [`parse`] is given all bytes of the stream so far, and again with more while it says [`Hello::NeedMore`]. Until the
//! hello is whole that costs a look at each record's header, of which there are at most [`MAX_RECORDS`], so that a guest
//! which sends byte by byte does not make the proxy copy the same bytes over and over.
//!
//! What is read, and what ends the connection at once:
//!
//! | layer | rule | from |
//! | -- | -- | -- |
//! | records | type 22 with a version `03 xx`, one to 2^14 bytes; an SSLv2 hello is none | RFC 8446, 5.1; RFC 6176 |
//! | handshake | a ClientHello, of at most what [`MAX`] has room for, that ends where a record ends | RFC 8446, 4 and 5.1 |
//! | hello | version 3.1 to 3.3; every vector within its bounds; nothing after the extensions | RFC 8446, 4.1.2 |
//! | extensions | at most [`MAX_EXTENSIONS`], none twice, nothing left over | RFC 8446, 4.2 |
//! | server name | a list of exactly one host name, which is a [`Name`] without trailing dot and no address | RFC 6066, 3 |
//! | ALPN | at most [`MAX_PROTOCOLS`] names, none empty | RFC 7301, 3.1 |
//!
//! Bypasses that this is for: no server name or an address in its place; encrypted ClientHello, whose extension is
//! reported, so that only a listed outer name goes on (and that outer name is what the proxy dials); several server names,
//! NUL and control bytes, trailing dots and letters of the other case in one; hellos cut into many records and segments,
//! in the hope that a filter reads only the first.
//!
//! GREASE ECH (RFC 9849, 6.2) cannot be told from real ECH, and is not: `ech` is set.
//!
//! What is beyond this: the second ClientHello, after a HelloRetryRequest, is not looked at. By then the peer is the server
//! that the first one's name was dialled for; another name in it is fronting behind that server, like another Host is.
//!
//! `tls-parser` (0.12) was looked at and left: it puts fragments together, but its lists end silently at the first entry
//! that it cannot read, what follows a list within its extension is passed over, and an extension may be there twice.
//! rustls' own `Acceptor` keeps no unknown extension, so that ECH could not be seen. The tests and the fuzz target compare
//! this parser with it: what is found here is what it finds.

mod body;
mod records;

use crate::Name;
use std::fmt;

/// At most so many bytes of a stream are looked at for a hello. Post-quantum key shares make one of 1.8 KiB; session
/// tickets and several key shares may add some KiB.
pub const MAX: usize = 64 << 10;
/// At most so many records may carry it. Whoever cuts into the smallest fragments that libraries offer (32 bytes with the
/// header) needs under 80 for 2 KiB.
pub const MAX_RECORDS: usize = 256;
/// At most so many extensions; clients send about 20.
pub const MAX_EXTENSIONS: usize = 128;
/// At most so many ALPN names; clients send two or three.
pub const MAX_PROTOCOLS: usize = 32;

/// What the first bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a hello, so far without fault.
    NeedMore,
    /// Nothing that goes on, whatever follows.
    Bad(Bad),
    /// A whole hello.
    Found(ClientHello),
}

/// A ClientHello.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The server's name, if there is one.
    pub name: Option<Name>,
    /// Whether an encrypted hello is within, or something that looks like one: `name` is then the outer name.
    pub ech: bool,
    /// The protocols that the client offers above TLS.
    pub alpn: Vec<Vec<u8>>,
    /// How many bytes of the stream it took, with its records' headers.
    pub length: usize,
}

impl fmt::Debug for ClientHello {
    /// Without the protocols' names, which are any bytes of the guest's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHello")
            .field("name", &self.name)
            .field("ech", &self.ech)
            .field("protocols", &self.alpn.len())
            .field("length", &self.length)
            .finish()
    }
}

/// Why a stream is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Bad {
    /// An SSLv2 hello.
    #[error("an SSLv2 hello")]
    Ssl2,
    /// Something other than a TLS handshake.
    #[error("not a TLS handshake")]
    NotHandshake,
    /// A version that is none, or too old.
    #[error("a TLS version that is not accepted")]
    Version,
    /// An empty or too long record.
    #[error("a record's length is out of bounds")]
    Record,
    /// Too many bytes.
    #[error("the hello is too long")]
    TooLong,
    /// Too many records.
    #[error("the hello is cut into too many records")]
    TooManyRecords,
    /// Another handshake message.
    #[error("the first handshake message is no ClientHello")]
    NotHello,
    /// Something in the same record after the hello.
    #[error("more follows the hello in its record")]
    Trailing,
    /// A vector of the hello is out of its bounds.
    #[error("the hello's fields are malformed")]
    Fields,
    /// The extensions do not fill their block, or there are too many.
    #[error("the hello's extensions are malformed")]
    Extensions,
    /// An extension is there twice.
    #[error("an extension is there twice")]
    Duplicate,
    /// The list of server names does not hold one host name exactly.
    #[error("not exactly one server name")]
    ServerNames,
    /// The server's name is none.
    #[error("the server name is not a host name")]
    ServerName,
    /// The list of protocols is malformed.
    #[error("the ALPN list is malformed")]
    Alpn,
}

/// Reads a hello from the first bytes of a stream.
pub fn parse(bytes: &[u8]) -> Hello {
    match records::message(bytes).and_then(|whole| match whole {
        Some((message, length)) => body::read(&message, length).map(Some),
        None => Ok(None),
    }) {
        Ok(Some(hello)) => Hello::Found(hello),
        Ok(None) => Hello::NeedMore,
        Err(bad) => Hello::Bad(bad),
    }
}
