//! Names of things, as types. Each is checked once, when it is made; whoever holds one may put it in a path, a
//! process argument or a log line without looking again.
//!
//! No I/O, no clock, no randomness: where an id has to be drawn, the caller brings the bytes.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

mod size;
pub use size::{ByteSize, SizeError};

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The string is empty or longer than the kind allows.
    #[error("{kind} must have 1 to {max} characters, not {len}")]
    Length {
        /// What the string was meant to name.
        kind: &'static str,
        /// The longest that is allowed, in bytes.
        max: usize,
        /// What it had, in bytes.
        len: usize,
    },
    /// A character that the kind does not allow.
    #[error("{kind} may hold only {allowed}; found {found:?}")]
    Character {
        /// What the string was meant to name.
        kind: &'static str,
        /// The allowed characters, in words.
        allowed: &'static str,
        /// The first one that is not.
        found: char,
    },
    /// A digest that is not 64 lower-case hexadecimal digits.
    #[error("a digest is 64 lower-case hexadecimal digits (SHA-256)")]
    Digest,
}

fn check(
    kind: &'static str,
    s: &str,
    max: usize,
    allowed: &'static str,
    ok: fn(char) -> bool,
) -> Result<(), IdError> {
    if s.is_empty() || s.len() > max {
        return Err(IdError::Length {
            kind,
            max,
            len: s.len(),
        });
    }
    match s.chars().find(|c| !ok(*c)) {
        Some(found) => Err(IdError::Character { kind, allowed, found }),
        None => Ok(()),
    }
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $allowed:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                check($kind, s, $max, $allowed, $ok)?;
                Ok(Self(s.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

string_id!(
    /// The name of a template, as the user gives it: `default`, `node-22`.
    TemplateName, "a template name", 64, "a-z, 0-9, '.', '_' and '-'",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
);

string_id!(
    /// A sandbox: one microVM from its creation to its teardown. `sbx_` and 24 hexadecimal digits.
    SandboxId, "a sandbox id", 40, "a-z, 0-9 and '_'",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
);

string_id!(
    /// An id that Anthropic's API handed out (environment, work item, session, event). Opaque, but it must be fit
    /// for a URL path segment, so that a hostile id cannot choose another endpoint.
    ApiId, "an API id", 256, "A-Z, a-z, 0-9, '_' and '-'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
);

impl SandboxId {
    /// Makes an id of 12 random bytes that the caller drew.
    pub fn from_random(bytes: [u8; 12]) -> Self {
        let mut s = String::from("sbx_");
        for b in bytes {
            s.push_str(&format!("{b:02x}"));
        }
        Self(s)
    }
}

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits: enough to name it to a person.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let ok = s.len() == 64
            && s.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(IdError::Digest)
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which session this is. Session ids alone are not unique: a simulator repeats them, and two API origins may.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey {
    /// Scheme, host and port of the API, for example `https://api.anthropic.com`.
    pub origin: String,
    /// The environment that the session belongs to.
    pub environment: ApiId,
    /// The session.
    pub session: ApiId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_id_cannot_leave_its_path_segment() {
        for bad in ["", "a/b", "..", "a?b", "a%2f", "a b", "é"] {
            assert!(bad.parse::<ApiId>().is_err(), "{bad:?}");
        }
        assert!("sesn_01Xy-9".parse::<ApiId>().is_ok());
    }

    #[test]
    fn digests_are_lower_case_and_whole() {
        assert!("ab".repeat(32).parse::<Digest>().is_ok());
        assert!("AB".repeat(32).parse::<Digest>().is_err());
        assert!("ab".repeat(31).parse::<Digest>().is_err());
        assert_eq!(Digest::from([0xab; 32]).short(), "abababababab");
    }
}
