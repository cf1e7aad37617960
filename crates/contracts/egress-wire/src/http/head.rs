//! A head as bytes.

use super::{BadTarget, Carrier, Target, target};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

/// At most so many bytes of a head are read.
pub const MAX_HEAD: usize = 64 << 10;
/// At most so many fields.
pub const MAX_HEADERS: usize = 100;

/// What the first bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The beginning of a head, so far without fault.
    NeedMore,
    /// Nothing that goes on.
    Bad(BadTarget),
    /// A whole head.
    Found {
        /// Where the request wants to go.
        target: Target,
        /// How many bytes the head took.
        length: usize,
    },
}

/// Reads a head. The same limits and the same parser are hyper's.
pub fn head(bytes: &[u8], carrier: Carrier) -> Head {
    match read(bytes, carrier) {
        Ok(Some((target, length))) => Head::Found { target, length },
        Ok(None) if bytes.len() >= MAX_HEAD => Head::Bad(BadTarget::TooLong),
        Ok(None) => Head::NeedMore,
        Err(bad) => Head::Bad(bad),
    }
}

fn read(bytes: &[u8], carrier: Carrier) -> Result<Option<(Target, usize)>, BadTarget> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let length = match head.parse(bytes).map_err(|_| BadTarget::Head)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    let method = head.method.ok_or(BadTarget::Head)?;
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| BadTarget::Head)?;
    parts.uri = head
        .path
        .and_then(|path| path.parse::<Uri>().ok())
        .ok_or(BadTarget::Head)?;
    parts.version = match head.version {
        Some(0) => Version::HTTP_10,
        Some(1) => Version::HTTP_11,
        _ => return Err(BadTarget::Version),
    };
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadTarget::Head)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BadTarget::Head)?;
        parts.headers.append(name, value);
    }
    target(&parts, carrier).map(|target| Some((target, length)))
}
