//! Faults: what happens to requests of an endpoint.

use super::{opt_span, span};
use crate::server::Endpoint;
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// A fault at an endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Where; absent: anywhere.
    pub endpoint: Option<Endpoint>,
    /// Only requests about this session.
    pub session: Option<String>,
    /// How many matching requests pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many it then hits; with `statuses` as many as are listed; 0: all.
    pub times: Option<u32>,
    /// The answer's status, one per hit.
    #[serde(default)]
    pub statuses: Vec<u16>,
    /// Headers on that answer.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `error.details.error_code` on that answer.
    pub error_code: Option<String>,
    /// Wait first; alone, the request is then served.
    #[serde(default, with = "opt_span")]
    pub delay: Option<Duration>,
    /// Close the connection before the request is looked at, or after it was carried out.
    pub drop: Option<Drop>,
    /// Cut the answer's body after so many bytes and close the connection.
    pub truncate: Option<usize>,
    /// What happens to an event stream.
    pub stream: Option<StreamFault>,
}

/// When the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// Nothing happened.
    Before,
    /// Everything happened, but the answer is lost.
    After,
}

/// What happens to one event stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamFault {
    /// Closed properly after so many events.
    pub close_after: Option<usize>,
    /// The connection breaks after so many events, within a frame.
    pub break_after: Option<usize>,
    /// `event: error` after so many events.
    pub error_after: Option<usize>,
    /// Each event twice.
    pub duplicate: bool,
    /// Frames are sent a byte at a time, with CRLF line ends.
    pub dribble: bool,
}

/// Faults by chance. The same seed gives the nth request of a session to an endpoint the same fate in every run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFaults {
    /// The seed.
    pub seed: u64,
    /// Rates by endpoint.
    pub rates: BTreeMap<Endpoint, Rates>,
}

/// Chances, each from 0 to 1.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// A 500.
    pub status_500: f64,
    /// A 429.
    pub status_429: f64,
    /// A 412 and the lease lost (heartbeat only).
    pub lose_lease: f64,
    /// The connection is dropped before the request is carried out.
    pub drop_before: f64,
    /// After it.
    pub drop_after: f64,
    /// A delay.
    pub delay: f64,
    /// How long it is.
    #[serde(with = "span")]
    pub delay_for: Duration,
    /// A stream that closes after a few events.
    pub stream_close: f64,
    /// A stream that breaks after a few events.
    pub stream_break: f64,
}
