//! Hellos taken apart and put together again, otherwise.

/// The fields of a hello.
#[derive(Clone, Debug)]
pub struct Parts {
    pub version: u16,
    pub session: Vec<u8>,
    pub suites: Vec<u8>,
    pub compressions: Vec<u8>,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

/// A real one, which rustls accepts.
pub const SAMPLE: &[u8] = include_bytes!("../../samples/hello/rustls-0.23-ring.bin");

impl Parts {
    /// Of [`SAMPLE`].
    pub fn sample() -> Self {
        let mut rest = &SAMPLE[9..];
        let mut take = |count: usize| {
            let (taken, after) = rest.split_at(count);
            rest = after;
            taken.to_vec()
        };
        let number = |bytes: Vec<u8>| bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        let version = number(take(2)) as u16;
        take(32);
        let length = number(take(1));
        let session = take(length);
        let length = number(take(2));
        let suites = take(length);
        let length = number(take(1));
        let compressions = take(length);
        let mut left = number(take(2));
        let mut extensions = Vec::new();
        while left > 0 {
            let kind = number(take(2)) as u16;
            let length = number(take(2));
            extensions.push((kind, take(length)));
            left -= 4 + length;
        }
        Self {
            version,
            session,
            suites,
            compressions,
            extensions,
        }
    }

    /// The sample with another `server_name` extension, or none.
    pub fn named(server_name: Option<Vec<u8>>) -> Self {
        let mut parts = Self::sample();
        parts.extensions.retain(|e| e.0 != 0);
        parts.extensions.extend(server_name.map(|data| (0, data)));
        parts
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend(vector(1, &self.session));
        body.extend(vector(2, &self.suites));
        body.extend(vector(1, &self.compressions));
        let mut block = Vec::new();
        for (kind, data) in &self.extensions {
            block.extend(kind.to_be_bytes());
            block.extend(vector(2, data));
        }
        body.extend(vector(2, &block));
        message(&body)
    }

    /// It, in one record.
    pub fn stream(&self) -> Vec<u8> {
        records(&self.message(), &[])
    }
}

/// A handshake message with this body.
pub fn message(body: &[u8]) -> Vec<u8> {
    [&[1][..], &vector(3, body)].concat()
}

/// Bytes behind their length.
pub fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - width..], bytes].concat()
}

/// Records of these sizes, then one with the rest, or more if it is longer than one may be.
pub fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), message);
    let mut sizes = sizes.iter();
    while !rest.is_empty() {
        let size = *sizes.next().unwrap_or(&rest.len());
        let (fragment, after) = rest.split_at(size.min(rest.len()).min(1 << 14));
        out.extend([22, 3, 1]);
        out.extend(vector(2, fragment));
        rest = after;
    }
    out
}

/// A `server_name` extension's content.
pub fn server_names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in entries {
        list.push(*kind);
        list.extend(vector(2, name));
    }
    vector(2, &list)
}
