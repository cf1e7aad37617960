//! The one type of host name: what is compared is compared byte by byte, since every other way is a way around.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest name, without the dot at its end (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;

/// A host name: lower case ASCII, without a dot at its end, no address literal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why bytes are no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or a dot.
    #[error("it is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("it is longer than 253 bytes")]
    Long,
    /// A label of more than 63 bytes.
    #[error("a label of it is longer than 63 bytes")]
    LongLabel,
    /// Two dots in a row, or one at the beginning.
    #[error("a label of it is empty")]
    EmptyLabel,
    /// A byte that no host name has: NUL, control, space, non-ASCII, anything but letters, digits, hyphen and underscore.
    #[error("it has a byte that no host name has")]
    Byte,
    /// A label that begins or ends with a hyphen.
    #[error("a label of it begins or ends with a hyphen")]
    Hyphen,
    /// An address, in whatever spelling: the last label is a number (WHATWG URL, "ends in a number").
    #[error("its last part is a number, so programs would take it for an address")]
    Address,
}

impl Name {
    /// Takes a name as it came. Total: every byte string is a name or has a reason not to be one.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadName> {
        let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
        if bytes.is_empty() {
            return Err(BadName::Empty);
        }
        if bytes.len() > MAX_NAME {
            return Err(BadName::Long);
        }
        let mut last: &[u8] = b"";
        for label in bytes.split(|b| *b == b'.') {
            match label {
                [] => return Err(BadName::EmptyLabel),
                [b'-', ..] | [.., b'-'] => return Err(BadName::Hyphen),
                label if label.len() > MAX_LABEL => return Err(BadName::LongLabel),
                label if !label.iter().all(|b| is_fine(*b)) => return Err(BadName::Byte),
                label => last = label,
            }
        }
        if is_number(last) {
            return Err(BadName::Address);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self(text.to_ascii_lowercase().into())),
            Err(_) => Err(BadName::Byte),
        }
    }

    /// A name that an operator wrote: letters outside ASCII become what DNS knows them as (IDNA, UTS 46).
    pub(crate) fn written(text: &str) -> Result<Self, BadName> {
        if text.is_ascii() {
            return Self::parse(text.as_bytes());
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| BadName::Byte)?;
        Self::parse(ascii.as_bytes())
    }

    /// It, as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn dots(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'.').count()
    }

    /// The names above it, the nearest first: for `a.b.c` these are `b.c` and `c`.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.as_str();
        std::iter::from_fn(move || {
            rest = rest.split_once('.')?.1;
            Some(rest)
        })
    }
}

fn is_fine(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Whether a parser of addresses would take a name with this last label for one.
fn is_number(label: &[u8]) -> bool {
    let hex = label.strip_prefix(b"0x").or_else(|| label.strip_prefix(b"0X"));
    label.iter().all(u8::is_ascii_digit) || hex.is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Hashed and compared as its text is, so that a map of names can be asked for a part of one.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(text.as_bytes())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_what_is_none() {
        for (text, name) in [
            ("Example.COM", "example.com"),
            ("a.b.c.", "a.b.c"),
            ("_dmarc.x", "_dmarc.x"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(Name::parse(text.as_bytes()).unwrap().as_str(), name);
        }
        for (bytes, why) in [
            (&b""[..], BadName::Empty),
            (b".", BadName::Empty),
            (b"..", BadName::EmptyLabel),
            (b"a..b", BadName::EmptyLabel),
            (b".a", BadName::EmptyLabel),
            (b"a\0.good.example", BadName::Byte),
            (b"good.example\0.evil.example", BadName::Byte),
            (b"a b", BadName::Byte),
            (b"a\n", BadName::Byte),
            (b"b\xc3\xbccher.example", BadName::Byte),
            (b"*.a", BadName::Byte),
            (b"a:443", BadName::Byte),
            (b"[::1]", BadName::Byte),
            (b"-a.b", BadName::Hyphen),
            (b"127.0.0.1", BadName::Address),
            (b"127.1", BadName::Address),
            (b"2130706433", BadName::Address),
            (b"0x7f.1", BadName::Address),
            (b"a.0x7F", BadName::Address),
            (b"1.2.3.4.", BadName::Address),
        ] {
            assert_eq!(Name::parse(bytes), Err(why), "{bytes:?}");
        }
        assert_eq!(Name::parse(&[b'a'; 64]), Err(BadName::LongLabel));
        assert_eq!(
            Name::parse("a.".repeat(127).as_bytes()).map(|n| n.as_str().len()),
            Ok(253)
        );
        assert_eq!(Name::parse("a.".repeat(128).as_bytes()), Err(BadName::Long));
    }

    #[test]
    fn an_operator_may_write_any_alphabet() {
        assert_eq!(
            Name::written("bücher.example").unwrap().as_str(),
            "xn--bcher-kva.example"
        );
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_idempotent(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::parse(&bytes) {
                prop_assert_eq!(Name::parse(name.as_str().as_bytes()), Ok(name.clone()));
                prop_assert!(name.as_str().bytes().all(|b| is_fine(b) && !b.is_ascii_uppercase() || b == b'.'));
            }
        }

        #[test]
        fn case_and_a_last_dot_do_not_matter(text in "[a-zA-Z0-9_]{1,9}(\\.[a-zA-Z]{1,9}){0,4}") {
            let (plain, other) = (Name::parse(text.as_bytes()), Name::parse(format!("{}.", text.to_uppercase()).as_bytes()));
            prop_assert_eq!(plain, other);
        }
    }
}
