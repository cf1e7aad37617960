//! Where requests go and as whom.

use crate::ClientError;
use reqwest::Url;
use std::{fmt, str::FromStr, time::Duration};

/// The API's base URL; a path prefix is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

/// Why a string is not a base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// Not a URL of HTTP.
    #[error("the base URL must start with https:// or http:// and name a host")]
    Scheme,
    /// A user, password, query or fragment.
    #[error("the base URL may not hold a user, a password, a query or a fragment")]
    Extra,
}

impl BaseUrl {
    /// Anthropic's own.
    pub const DEFAULT: &'static str = "https://api.anthropic.com";

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether requests are encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The URL of an endpoint. The segments are ids or words of this crate, so nothing in them needs care.
    pub(crate) fn endpoint(&self, segments: &[&str]) -> Url {
        let mut url = self.0.clone();
        // A base URL has a host (checked when it was read), so it has path segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;
    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let url = Url::parse(text.trim()).map_err(|_| BaseUrlError::Scheme)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(BaseUrlError::Scheme);
        }
        let extra = !url.username().is_empty() || url.password().is_some();
        if extra || url.query().is_some() || url.fragment().is_some() {
            return Err(BaseUrlError::Extra);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// How long a request may take, and how much an answer may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To connect.
    pub connect: Duration,
    /// For one try of poll, acknowledge and stop.
    pub short: Duration,
    /// For one try of everything else but the stream.
    pub long: Duration,
    /// Between two bytes of the stream; a server sends keep-alives well inside it.
    pub stream_silence: Duration,
    /// Bytes of an ordinary answer.
    pub answer: usize,
    /// Bytes of a page of events: a thousand of them, some with inputs of megabytes.
    pub page: usize,
    /// Bytes of one event of the stream.
    pub event: usize,
    /// Factor on the pauses between a request's tries: 1, or less to follow a simulator whose clock runs faster.
    pub pace: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            short: Duration::from_secs(30),
            long: Duration::from_secs(120),
            stream_silence: Duration::from_secs(600),
            answer: 8 << 20,
            page: 256 << 20,
            event: 32 << 20,
            pace: 1.0,
        }
    }
}

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the API is.
    pub base: BaseUrl,
    /// Program and version, for `User-Agent`.
    pub user_agent: String,
    /// Limits of requests.
    pub limits: Limits,
}

/// The client. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) base: BaseUrl,
    pub(crate) limits: Limits,
}

impl Client {
    /// Sets the client up. Redirects are not followed: a bearer goes where the user said and nowhere else.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        // Fails if a provider is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(config.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.limits.connect)
            .read_timeout(config.limits.stream_silence)
            .tcp_keepalive(Duration::from_secs(60));
        if !config.base.is_https() {
            // No certificate is ever looked at, so a host without any (a fresh machine against the simulator) will do.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(ClientError::Setup)?;
        Ok(Self {
            http,
            base: config.base,
            limits: config.limits,
        })
    }

    /// Scheme, host and port of the API.
    pub fn origin(&self) -> String {
        self.base.origin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prefix_is_kept_and_an_id_stays_in_its_segment() {
        for (base, url) in [
            (
                "https://api.anthropic.com",
                "https://api.anthropic.com/v1/sessions/a%2Fb",
            ),
            ("http://h:1/p", "http://h:1/p/v1/sessions/a%2Fb"),
            ("http://h:1/p/", "http://h:1/p/v1/sessions/a%2Fb"),
        ] {
            let base: BaseUrl = base.parse().unwrap();
            assert_eq!(base.endpoint(&["sessions", "a/b"]).as_str(), url);
        }
        assert_eq!(
            "http://h:81/p".parse::<BaseUrl>().unwrap().origin(),
            "http://h:81"
        );
        assert_eq!(
            "https://h:443/p".parse::<BaseUrl>().unwrap().origin(),
            "https://h"
        );
    }

    #[test]
    fn what_is_no_base_url() {
        for bad in ["", "api.anthropic.com", "ftp://h", "file:///etc", "mailto:x@y"] {
            assert_eq!(bad.parse::<BaseUrl>(), Err(BaseUrlError::Scheme), "{bad:?}");
        }
        for bad in [
            "https://u@h",
            "https://u:p@h",
            "https://h?beta=true",
            "https://h#x",
        ] {
            assert_eq!(bad.parse::<BaseUrl>(), Err(BaseUrlError::Extra), "{bad:?}");
        }
    }
}
