//! The fields of a whole ClientHello.

use super::{Bad, ClientHello, MAX_EXTENSIONS, MAX_PROTOCOLS};
use crate::{Name, cursor::Cursor};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// Reads a hello (RFC 8446, section 4.1.2; the same layout since TLS 1.0).
pub(super) fn read(message: &[u8], length: usize) -> Result<ClientHello, Bad> {
    let mut rest = Cursor::new(message);
    let version = rest.u16().ok_or(Bad::Fields)?;
    // TLS 1.3 says 3.3 here, and its real version in an extension. SSL 3.0 may not be negotiated (RFC 7568).
    if !(0x0301..=0x0303).contains(&version) {
        return Err(Bad::Version);
    }
    let _random = rest.take(32).ok_or(Bad::Fields)?;
    let session = rest.vector8().ok_or(Bad::Fields)?;
    let suites = rest.vector16().ok_or(Bad::Fields)?;
    let compressions = rest.vector8().ok_or(Bad::Fields)?;
    if session.len() > 32 || suites.is_empty() || !suites.len().is_multiple_of(2) || compressions.is_empty() {
        return Err(Bad::Fields);
    }
    let mut hello = ClientHello {
        name: None,
        ech: false,
        alpn: Vec::new(),
        length,
    };
    // Before TLS 1.3 a hello may end here.
    if rest.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Cursor::new(rest.vector16().ok_or(Bad::Extensions)?);
    if !rest.is_empty() {
        return Err(Bad::Extensions);
    }
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.u16().ok_or(Bad::Extensions)?;
        let data = extensions.vector16().ok_or(Bad::Extensions)?;
        if seen.contains(&kind) {
            return Err(Bad::Duplicate);
        }
        if seen.len() == MAX_EXTENSIONS {
            return Err(Bad::Extensions);
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.name = Some(server_name(data)?),
            ALPN => hello.alpn = protocols(data).ok_or(Bad::Alpn)?,
            _ if is_encrypted_hello(kind) => hello.ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// What ever carried a server's name encrypted, by its number: RFC 9849 has 0xfe0d, and the list for an inner hello,
/// 0xfd00, which has no place outside of one; the others are those of its drafts and of the ESNI before it.
fn is_encrypted_hello(kind: u16) -> bool {
    matches!(kind, 0xfe0d | 0xfd00 | 0xfe08..=0xfe0c | 0xff02..=0xff04 | 0xda09 | 0xffce)
}

/// RFC 6066, section 3: a list of names, of which each type may be there once, and only one type was ever defined.
fn server_name(data: &[u8]) -> Result<Name, Bad> {
    let mut outer = Cursor::new(data);
    let mut list = Cursor::new(outer.vector16().ok_or(Bad::ServerNames)?);
    let kind = list.u8().ok_or(Bad::ServerNames)?;
    let name = list.vector16().ok_or(Bad::ServerNames)?;
    if !outer.is_empty() || !list.is_empty() || kind != HOST_NAME || name.is_empty() {
        return Err(Bad::ServerNames);
    }
    // "Without a trailing dot", and no literal addresses.
    if name.ends_with(b".") {
        return Err(Bad::ServerName);
    }
    Name::parse(name).map_err(|_| Bad::ServerName)
}

/// RFC 7301, section 3.1: at least one protocol, none of them empty.
fn protocols(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut outer = Cursor::new(data);
    let mut list = Cursor::new(outer.vector16()?);
    let mut found = Vec::new();
    while !list.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() || found.len() == MAX_PROTOCOLS {
            return None;
        }
        found.push(name.to_vec());
    }
    (outer.is_empty() && !found.is_empty()).then_some(found)
}
