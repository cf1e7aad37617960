//! TLS's first message, and DNS queries, with what no honest client writes into them.

use crate::nonce::Nonce;

const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const PADDING: u16 = 21;

/// A ClientHello, to be written as asked.
#[derive(Debug, Clone)]
pub struct Hello {
    nonce: Nonce,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// One without a name, with the nonce where its random bytes are, in the open.
    #[must_use]
    pub fn new(nonce: Nonce) -> Self {
        Self {
            nonce,
            extensions: Vec::new(),
        }
    }

    /// Adds an extension with these server names in its list.
    #[must_use]
    pub fn names(self, names: &[&[u8]]) -> Self {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| [&[0][..], &short(name)].concat())
            .collect();
        self.extension(SERVER_NAME, short(&list))
    }

    /// Adds an extension with this server name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.names(&[name.as_bytes()])
    }

    /// Adds an encrypted hello, whose name nobody here can read.
    #[must_use]
    pub fn encrypted(self) -> Self {
        // Type outer, a cipher, a key's number, an encapsulated key, the secret part.
        let body = [&[0, 0, 1, 0, 1, 7][..], &short(&[9; 32]), &short(&[5; 144])].concat();
        self.extension(ENCRYPTED_CLIENT_HELLO, body)
    }

    /// Adds so many bytes of padding.
    #[must_use]
    pub fn padded(self, length: usize) -> Self {
        self.extension(PADDING, vec![0; length])
    }

    fn extension(mut self, kind: u16, body: Vec<u8>) -> Self {
        self.extensions.push((kind, body));
        self
    }

    /// The handshake message, without a record around it.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut random = [0x5a; 32];
        random[..Nonce::LENGTH].copy_from_slice(&self.nonce.raw());
        let mut extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &short(body)].concat())
            .collect();
        // What any server wants: TLS 1.2, a group, signatures.
        extensions.extend([0, 43, 0, 3, 2, 3, 3, 0, 10, 0, 4, 0, 2, 0, 23]);
        extensions.extend([0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1]);
        let body = [
            &[3, 3][..],
            &random,
            &[0],
            &short(&[0xc0, 0x2b, 0xc0, 0x2f, 0x13, 0x01]),
            &[1, 0],
            &short(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// In one record.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        record(&self.message())
    }

    /// In records of so many bytes each.
    #[must_use]
    pub fn records(&self, size: usize) -> Vec<Vec<u8>> {
        self.message().chunks(size).map(record).collect()
    }
}

/// A record of the handshake.
fn record(part: &[u8]) -> Vec<u8> {
    [&[0x16, 3, 1][..], &short(part)].concat()
}

/// Bytes behind their length in two bytes.
fn short(bytes: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..],
        bytes,
    ]
    .concat()
}

/// Type numbers of DNS.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// Any bytes.
    pub const NULL: u16 = 10;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// How to reach a web site, with keys for an encrypted hello.
    pub const HTTPS: u16 = 65;
    /// All there is.
    pub const ANY: u16 = 255;
}

/// A query for a name in dotted form.
#[must_use]
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
    query_labels(&labels, kind)
}

/// A query for these labels, whatever is in them.
#[must_use]
pub fn query_labels(labels: &[&[u8]], kind: u16) -> Vec<u8> {
    let mut bytes = fastrand::u16(..).to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(*label);
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}
