//! Queries.

use super::{HEADER, IN, Kind, OPT, Over, answer, code, flag};
use crate::{Name, cursor::Cursor};

/// The longest datagram that is read; a query with a cookie and padding has about 130 bytes.
pub const MAX_UDP: usize = 512;
/// The longest message in a stream: what its length can say.
pub const MAX_TCP: usize = 65_535;
/// The longest name, dotted and without the last dot.
pub const MAX_NAME: usize = 253;

/// A name longer than this carries data. Long names in use: storage hosts of registries, of 60 to 80 bytes
/// (`docker-images-prod.` and 32 hex digits and `.r2.cloudflarestorage.com` are 76).
const TUNNEL_NAME: usize = 120;
/// So does a label longer than this: digests of 32 hex digits are names of hosts, those of 64 are no labels at all.
const TUNNEL_LABEL: usize = 48;
/// And more labels than this: `ip6.arpa` aside, hosts have three to seven.
const TUNNEL_LABELS: usize = 10;

/// One question.
#[derive(Clone, PartialEq, Eq)]
pub struct Query {
    pub(super) id: u16,
    pub(super) flags: u16,
    /// The question as it came: name, type, class.
    pub(super) question: Vec<u8>,
    name: String,
    kind: Kind,
    pub(super) edns: Option<Edns>,
    over: Over,
}

/// What of an OPT record is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    /// "DNSSEC OK", which an answer repeats (RFC 3225, section 3).
    pub(super) dnssec: bool,
}

/// Signs that a name carries data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Tunnel {
    /// More than 120 bytes in all.
    #[error("the name is longer than names of hosts are")]
    Name,
    /// A label of more than 48 bytes.
    #[error("a label is longer than those of hosts are")]
    Label,
    /// More than 10 labels.
    #[error("the name has more labels than those of hosts have")]
    Labels,
}

impl Query {
    /// The name, dotted, lower-case, without the last dot; empty for the root. Of letters, digits, `-`, `_` and dots.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, if it is one that a host may have.
    pub fn host(&self) -> Option<Name> {
        Name::parse(self.name.as_bytes()).ok()
    }

    /// What is asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it came.
    pub fn over(&self) -> Over {
        self.over
    }

    /// Whether the name looks like one that was made to carry data. For a name that is listed as it stands this means
    /// nothing: a guest cannot choose it. Under a listed wildcard it can, and these caps leave it at most 120 bytes in
    /// each query.
    pub fn tunnel(&self) -> Option<Tunnel> {
        let labels = self.name.split('.');
        if self.name.len() > TUNNEL_NAME {
            Some(Tunnel::Name)
        } else if labels.clone().any(|label| label.len() > TUNNEL_LABEL) {
            Some(Tunnel::Label)
        } else if labels.count() > TUNNEL_LABELS {
            Some(Tunnel::Labels)
        } else {
            None
        }
    }
}

impl std::fmt::Debug for Query {
    /// Without the name, which is the guest's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query")
            .field("kind", &self.kind)
            .field("over", &self.over)
            .field("name_length", &self.name.len())
            .finish_non_exhaustive()
    }
}

/// A message that is not answered with a decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadQuery {
    /// What is wrong.
    pub why: Why,
    answer: Option<Vec<u8>>,
}

impl BadQuery {
    /// What to send back; nothing if the message was no query at all.
    pub fn answer(&self) -> Option<&[u8]> {
        self.answer.as_deref()
    }
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    /// Shorter than a header, or longer than may be.
    #[error("the message's length is out of bounds")]
    Length,
    /// It is an answer.
    #[error("the message is an answer")]
    Response,
    /// Another operation than a query.
    #[error("not an ordinary query")]
    Opcode,
    /// The sections hold more, or less, than a query has.
    #[error("not exactly one question")]
    Sections,
    /// The question's name is malformed, or no name.
    #[error("the question's name is malformed")]
    Name,
    /// Another class than IN.
    #[error("a class other than IN")]
    Class,
    /// What follows the question is no OPT record.
    #[error("what follows the question is malformed")]
    Additional,
    /// An OPT record of a version that does not exist yet.
    #[error("an unknown EDNS version")]
    EdnsVersion,
}

/// Reads a query.
pub fn query(bytes: &[u8], over: Over) -> Result<Query, BadQuery> {
    let silent = |why| BadQuery { why, answer: None };
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(silent(Why::Length));
    };
    let [id, flags, questions, answers, authorities, additional] =
        std::array::from_fn(|field| u16::from_be_bytes([header[2 * field], header[2 * field + 1]]));
    if flags & flag::RESPONSE != 0 {
        return Err(silent(Why::Response));
    }
    let bad = |why| BadQuery {
        why,
        answer: Some(answer::bad(id, flags, why)),
    };
    let longest = match over {
        Over::Udp => MAX_UDP,
        Over::Tcp => MAX_TCP,
    };
    if bytes.len() > longest {
        return Err(bad(Why::Length));
    }
    if flags & flag::OPCODE != 0 {
        return Err(bad(Why::Opcode));
    }
    // A zone's transfer and a signed message have records here, and are not for us.
    if (questions, answers, authorities) != (1, 0, 0) || additional > 1 {
        return Err(bad(Why::Sections));
    }
    let mut rest = Cursor::new(&bytes[HEADER..]);
    let name = name(&mut rest).ok_or_else(|| bad(Why::Name))?;
    let (Some(kind), Some(class)) = (rest.u16(), rest.u16()) else {
        return Err(bad(Why::Sections));
    };
    if class != IN {
        return Err(bad(Why::Class));
    }
    let question = bytes[HEADER..bytes.len() - rest.left()].to_vec();
    let edns = match additional {
        0 => None,
        _ => Some(opt(&mut rest).map_err(bad)?),
    };
    if !rest.is_empty() {
        return Err(bad(Why::Additional));
    }
    Ok(Query {
        id,
        flags,
        question,
        name,
        kind: kind.into(),
        edns,
        over,
    })
}

/// Labels up to the empty one. A pointer would have nothing to point at yet, and other kinds of labels were given up
/// (RFC 6891, section 5).
fn name(rest: &mut Cursor<'_>) -> Option<String> {
    let mut name = String::new();
    loop {
        let length = rest.u8()?;
        if length == 0 {
            return Some(name);
        }
        if length > 63 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in rest.take(length.into())? {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_') {
                return None;
            }
            name.push(byte.to_ascii_lowercase().into());
        }
        if name.len() > MAX_NAME {
            return None;
        }
    }
}

/// RFC 6891, section 6.1.2. The client's size is not looked at, since answers fit in what everyone can take, and options
/// are passed over.
fn opt(rest: &mut Cursor<'_>) -> Result<Edns, Why> {
    let fixed = |rest: &mut Cursor<'_>| {
        let root = rest.u8()?;
        let (kind, _size) = (rest.u16()?, rest.u16()?);
        let (extended, flags) = (rest.u16()?, rest.u16()?);
        rest.vector16()?;
        (root == 0 && kind == OPT).then_some((extended, flags))
    };
    let (extended, flags) = fixed(rest).ok_or(Why::Additional)?;
    // The upper byte is part of a response code, the lower is the version.
    if extended & 0xff != 0 {
        return Err(Why::EdnsVersion);
    }
    Ok(Edns {
        dnssec: flags & 0x8000 != 0,
    })
}

impl Why {
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Opcode => code::NOT_IMPLEMENTED,
            Self::Class => code::REFUSED,
            Self::EdnsVersion => code::BAD_VERSION,
            _ => code::FORMAT_ERROR,
        }
    }
}
