//! The host that a guest names.

use std::{fmt, net::IpAddr};

/// A host: a name, or an address written out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(Name),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A host name: lower-case ASCII without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// It is no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name")]
pub struct BadName;

impl Name {
    /// Reads a name; one trailing dot is dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadName> {
        let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
        let fine = |label: &[u8]| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with(b"-")
                && !label.ends_with(b"-")
                && label
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let last = bytes.rsplit(|b| *b == b'.').next().unwrap_or_default();
        let number =
            last.iter().all(u8::is_ascii_digit) || last.starts_with(b"0x") || last.starts_with(b"0X");
        if bytes.len() > 253 || number || !bytes.split(|b| *b == b'.').all(fine) {
            return Err(BadName);
        }
        String::from_utf8(bytes.to_ascii_lowercase())
            .map(Self)
            .map_err(|_| BadName)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
