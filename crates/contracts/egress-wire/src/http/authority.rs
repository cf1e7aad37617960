//! `host` and `host:port`.

use super::BadTarget;
use crate::{Host, Name};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Reads a host and the port behind it, if there is one.
pub(super) fn read(bytes: &[u8]) -> Result<(Host, Option<u16>), BadTarget> {
    if bytes.contains(&b'@') {
        return Err(BadTarget::UserInfo);
    }
    let (host, port) = match bytes.strip_prefix(b"[") {
        Some(rest) => {
            let end = rest.iter().position(|b| *b == b']').ok_or(BadTarget::Host)?;
            let address = text(&rest[..end])?
                .parse::<Ipv6Addr>()
                .map_err(|_| BadTarget::Host)?;
            (Host::Address(address.into()), &rest[end + 1..])
        }
        None => {
            let end = bytes.iter().position(|b| *b == b':').unwrap_or(bytes.len());
            (name_or_v4(&bytes[..end])?, &bytes[end..])
        }
    };
    let port = match port.strip_prefix(b":") {
        Some(digits) => Some(number(digits)?),
        None if port.is_empty() => None,
        None => return Err(BadTarget::Host),
    };
    Ok((host, port))
}

fn name_or_v4(bytes: &[u8]) -> Result<Host, BadTarget> {
    // Four decimal numbers without leading zeros; every other notation of an address is not a `Name` either.
    match text(bytes)?.parse::<Ipv4Addr>() {
        Ok(address) => Ok(Host::Address(address.into())),
        Err(_) => Name::parse(bytes).map(Host::Name).map_err(|_| BadTarget::Host),
    }
}

fn text(bytes: &[u8]) -> Result<&str, BadTarget> {
    std::str::from_utf8(bytes).map_err(|_| BadTarget::Host)
}

/// A port in its one decimal notation, not 0.
fn number(digits: &[u8]) -> Result<u16, BadTarget> {
    // `parse` would take a sign and leading zeros.
    if !digits.iter().all(u8::is_ascii_digit) || digits.starts_with(b"0") {
        return Err(BadTarget::Host);
    }
    text(digits)?.parse().map_err(|_| BadTarget::Host)
}
