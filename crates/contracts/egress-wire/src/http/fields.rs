//! The fields that say how a connection goes on, and how long a body is.

use super::BadTarget;
use http::{
    HeaderMap, HeaderName, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
    request::Parts,
};

/// Refuses what would turn the connection into HTTP/2, and bodies whose end is a matter of opinion.
pub(super) fn check(parts: &Parts) -> Result<(), BadTarget> {
    let headers = &parts.headers;
    let h2c = |value: &http::HeaderValue| {
        tokens(value.as_bytes()).any(|token| {
            let name = token.split(|b| *b == b'/').next().unwrap_or_default();
            name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"h2")
        })
    };
    if parts.method.as_str() == "PRI"
        || headers.contains_key("http2-settings")
        || headers.get_all(UPGRADE).iter().any(h2c)
    {
        return Err(BadTarget::Http2);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    let fine = lengths.next().is_none()
        && codings.next().is_none()
        && (length.is_none() || coding.is_none())
        && length.is_none_or(|v| !v.is_empty() && v.as_bytes().iter().all(u8::is_ascii_digit))
        && coding.is_none_or(|v| {
            v.as_bytes().eq_ignore_ascii_case(b"chunked") && parts.version == Version::HTTP_11
        });
    if fine { Ok(()) } else { Err(BadTarget::Framing) }
}

/// Takes out what is meant for the proxy alone (RFC 9110, section 7.6.1): fields that `Connection` names, `Connection`
/// itself, and those that are the connection's whether they are named or not. `Host`, `Content-Length` and
/// `Transfer-Encoding` stay also when they are named: where they go the request's meaning does, and the last is hyper's to
/// write.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| tokens(value.as_bytes()))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding"))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    for name in [
        "keep-alive",
        "proxy-connection",
        "http2-settings",
        "proxy-authentication-info",
    ] {
        headers.remove(name);
    }
}

/// The members of a comma-separated list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}
