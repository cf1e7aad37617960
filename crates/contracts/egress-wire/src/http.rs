//! Where an HTTP request wants to go.
//!
//! The proxy reads and writes HTTP with hyper, so how messages are framed is hyper's; [`target`] is the decision on one
//! request's head, and every request of a connection gets its own. [`head`] gives the same decision on bytes.
//!
//! A host can be named in three places: the request's target, the `Host` field, and at the explicit proxy's CONNECT both
//! at once. What passes names one host in all places where it names any:
//!
//! | rule | from |
//! | -- | -- |
//! | HTTP/1.0 or 1.1; no `PRI`, `h2c` or `HTTP2-Settings`: nothing that makes the rest another protocol | RFC 9113, 3 |
//! | one `Host` field exactly; none only where the target has the host and the version is 1.0 | RFC 9112, 3.2 |
//! | its host is a [`Name`](crate::Name) or an address in its usual notation, its port a number from 1, without userinfo | RFC 9110, 4.2 and 7.2 |
//! | transparent: origin form, `OPTIONS *`, or absolute form; the port is the connection's, and `Host` says no other | RFC 9112, 3.2 |
//! | explicit: absolute form with scheme `http`, or CONNECT with host and port | RFC 9110, 9.3.6 |
//! | not both `Content-Length` and `Transfer-Encoding`, neither twice, no coding but `chunked` | RFC 9112, 6 |
//!
//! Of a body's two lengths hyper's server shows [`target`] one: it takes `Content-Length` out beside
//! `Transfer-Encoding`, closes the connection behind that request, and keeps one of two equal lengths. What it sends on it
//! frames anew, so there is no second reading; what it leaves to see, such as other codings, is refused here.
//!
//! Bypasses that this is for: a `Host` that is listed beside a target that is not, two `Host` fields, userinfo that looks
//! like a host (`http://listed@other/`), addresses in notations that only some resolvers read (`0x7f.1`), CONNECT where no
//! tunnel was offered, requests smuggled behind another one's body, and HTTP/2 behind an upgrade, whose requests would
//! not be seen.
//!
//! What the proxy sends on has the headers of [`strip_hop_by_hop`] taken out, origin form, and [`Target::host_value`] as
//! `Host`: the server reads what was decided on, not what was written.

mod authority;
mod fields;
mod head;

use crate::Host;
use http::{Method, Version, header::HOST, request::Parts, uri::Scheme};

pub use fields::strip_hop_by_hop;
pub use head::{Head, MAX_HEAD, MAX_HEADERS, head};

/// The port of `http` URIs.
const HTTP_PORT: u16 = 80;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// On a connection that the guest made to some server, and that was redirected.
    Transparent {
        /// The port that it was made to.
        port: u16,
    },
    /// At the explicit proxy.
    Explicit,
}

/// How a request names its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A path; or `*`, for OPTIONS.
    Origin,
    /// A whole URI.
    Absolute,
    /// A tunnel to a host and port: CONNECT.
    Authority,
}

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// How it was named.
    pub form: Form,
}

impl Target {
    /// What the `Host` field says when the request goes on: the port only where it is not that of `http`.
    pub fn host_value(&self) -> String {
        match self.port {
            HTTP_PORT => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadTarget {
    /// It is not a well-formed head.
    #[error("not an HTTP request head")]
    Head,
    /// The head is too long.
    #[error("the head is too long")]
    TooLong,
    /// Another version than HTTP/1.0 and 1.1.
    #[error("an HTTP version that is not accepted")]
    Version,
    /// It would change to HTTP/2.
    #[error("HTTP/2 without TLS")]
    Http2,
    /// CONNECT where there is no proxy to ask.
    #[error("CONNECT outside of the explicit proxy")]
    Connect,
    /// The form does not fit the method or the way that the request came.
    #[error("a form of target that has no place here")]
    Form,
    /// A scheme other than `http`.
    #[error("a scheme other than http")]
    Scheme,
    /// No `Host` field.
    #[error("no Host")]
    NoHost,
    /// More than one.
    #[error("more than one Host")]
    Hosts,
    /// It is none.
    #[error("not a host and port")]
    Host,
    /// The host comes with userinfo.
    #[error("userinfo before the host")]
    UserInfo,
    /// The places that name the host or port differ.
    #[error("target, Host and connection name different hosts or ports")]
    Disagree,
    /// The length of the body has two readings.
    #[error("the body's length is ambiguous")]
    Framing,
}

/// Where a request wants to go.
pub fn target(parts: &Parts, carrier: Carrier) -> Result<Target, BadTarget> {
    if !matches!(parts.version, Version::HTTP_10 | Version::HTTP_11) {
        return Err(BadTarget::Version);
    }
    fields::check(parts)?;
    let host = host_field(parts)?;
    let uri = &parts.uri;
    let connect = parts.method == Method::CONNECT;
    match (carrier, uri.scheme(), uri.authority()) {
        (Carrier::Transparent { .. }, ..) if connect => Err(BadTarget::Connect),
        (Carrier::Explicit, None, Some(authority)) if connect && uri.path_and_query().is_none() => {
            let (name, port) = authority::read(authority.as_str().as_bytes())?;
            let port = port.ok_or(BadTarget::Host)?;
            // Clients leave the port out of `Host` when it is the scheme's, which nobody told us.
            agree(&host, &name, |said| said.unwrap_or(port), port)?;
            Ok(Target {
                host: name,
                port,
                form: Form::Authority,
            })
        }
        (_, Some(scheme), Some(authority)) if !connect => {
            if *scheme != Scheme::HTTP {
                return Err(BadTarget::Scheme);
            }
            let (name, port) = authority::read(authority.as_str().as_bytes())?;
            let port = port.unwrap_or(HTTP_PORT);
            agree(&host, &name, |said| said.unwrap_or(HTTP_PORT), port)?;
            match carrier {
                Carrier::Transparent { port: reached } if reached != port => Err(BadTarget::Disagree),
                _ => Ok(Target {
                    host: name,
                    port,
                    form: Form::Absolute,
                }),
            }
        }
        (Carrier::Transparent { port }, None, None) => {
            let path = uri.path();
            let asterisk = path == "*" && parts.method == Method::OPTIONS;
            if !path.starts_with('/') && !asterisk {
                return Err(BadTarget::Form);
            }
            let (name, said) = host.ok_or(BadTarget::NoHost)?;
            if said.is_some_and(|said| said != port) {
                return Err(BadTarget::Disagree);
            }
            Ok(Target {
                host: name,
                port,
                form: Form::Origin,
            })
        }
        _ => Err(BadTarget::Form),
    }
}

type Said = Option<(Host, Option<u16>)>;

/// What the `Host` field says; nothing if there is none and there need not be one.
fn host_field(parts: &Parts) -> Result<Said, BadTarget> {
    let mut fields = parts.headers.get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(value), None) => authority::read(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(BadTarget::Hosts),
        (None, _) if parts.version == Version::HTTP_10 => Ok(None),
        (None, _) => Err(BadTarget::NoHost),
    }
}

/// Whether `Host`, where there is one, says what the target says.
fn agree(said: &Said, name: &Host, normal: impl Fn(Option<u16>) -> u16, port: u16) -> Result<(), BadTarget> {
    match said {
        Some((host, at)) if host != name || normal(*at) != port => Err(BadTarget::Disagree),
        _ => Ok(()),
    }
}
