//! Scenario files: what the double's agents do, what they expect, and what goes wrong on the way.
//!
//! ```yaml
//! name: hello
//! sessions:
//!   - name: greet
//!     steps:
//!       - user: Say hello.
//!       - call: {name: hi, tool: bash, input: {command: echo hello}, expect: {contains: [hello]}}
//! ```
//!
//! A session's steps run in order. `call` and `calls` are one turn of the model: all calls of a step are emitted at
//! once, the next step begins when all are resolved. A `user` step opens a turn; a turn ends by itself before the next
//! `user` step and at the end. `docs/simulator.md` lists every key.

mod expect;
mod faults;
mod load;
mod steps;
mod template;

pub use expect::{Expect, Seen};
pub use faults::{Drop, Fault, RandomFaults, Rates, StreamFault};
pub use load::ScenarioError;
pub use steps::{
    Answer, Bound, CallSpec, Calls, Confirm, ConfirmWhen, Do, Kind, Meanwhile, Owner, Permission, Round,
    Step, Verdict,
};
pub(crate) use template::{Scope, TemplateError, render, render_text};

use serde::{Deserialize, Deserializer};
use std::{collections::BTreeMap, time::Duration};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, for reports.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub description: String,
    /// How many times faster than real the script's own waits pass. What clients are promised (lease, poll hold,
    /// reclaim) is measured on their clocks too, so it is not scaled.
    #[serde(default = "one")]
    pub clock_scale: f64,
    /// Makes ids the same in every run; without it each run's ids differ.
    pub id_tag: Option<String>,
    /// Credentials; those not given are drawn at random.
    #[serde(default)]
    pub keys: Keys,
    /// Queue behaviour.
    #[serde(default)]
    pub queue: Queue,
    /// Event log and stream behaviour.
    #[serde(default)]
    pub events: Events,
    /// The sessions.
    #[serde(default)]
    pub sessions: Vec<SessionSpec>,
    /// Items that are no sessions.
    #[serde(default)]
    pub healthchecks: Vec<Healthcheck>,
    /// Faults by endpoint.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Faults by chance.
    pub random: Option<RandomFaults>,
    /// More claims at once than this is a violation.
    pub max_claims: Option<usize>,
}

fn one() -> f64 {
    1.0
}

/// Credentials.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// The organization's API key.
    pub organization: Option<String>,
    /// The environment key.
    pub environment: Option<String>,
    /// The status for a credential of the wrong kind: 401 or 403 (default).
    pub wrong_kind_status: Option<u16>,
}

/// What a poll response has as `secret`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// A sessions token, as production sends it.
    #[default]
    Token,
    /// Nothing: the worker uses the environment key.
    None,
    /// Something that does not decode.
    Garbage,
}

/// How stop answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopAnswer {
    /// 200 with the work object.
    #[default]
    Object,
    /// 204 without a body.
    NoContent,
}

/// Queue behaviour.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// The lease.
    pub ttl_seconds: u64,
    /// What comes as `secret`.
    pub secret: Secret,
    /// How stop answers.
    pub stop_answer: StopAnswer,
    /// Whether the second stop's 409 says `x-should-retry: false`.
    pub stop_conflict_should_retry_header: bool,
    /// An item that ended with calls open is followed by a new one after this long; null: never.
    #[serde(with = "opt_span")]
    pub requeue_after: Option<Duration>,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            ttl_seconds: 300,
            secret: Secret::Token,
            stop_answer: StopAnswer::Object,
            stop_conflict_should_retry_header: true,
            requeue_after: Some(Duration::from_secs(1)),
        }
    }
}

/// The stream's sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepAlive {
    /// A comment line.
    #[default]
    Comment,
    /// `event: ping`.
    Ping,
}

/// What a result for an abandoned call is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// Like any other.
    #[default]
    Accept,
    /// 400.
    Reject,
}

/// Event log and stream behaviour.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Largest page of a list, whatever the caller asks for.
    pub page_size: usize,
    /// Interval of the keep-alive.
    #[serde(with = "span")]
    pub keep_alive_interval: Duration,
    /// Its form.
    pub keep_alive: KeepAlive,
    /// The model's thinking time before each turn of its own.
    #[serde(with = "span")]
    pub think: Duration,
    /// Thinking, spans and types nobody knows yet among the events.
    pub noise: bool,
    /// Emit `agent.tool_result` besides the echo of `user.tool_result`.
    pub agent_tool_result: bool,
    /// Results of interrupted calls.
    pub late_results: Late,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            page_size: 1000,
            keep_alive_interval: Duration::from_secs(5),
            keep_alive: KeepAlive::Comment,
            think: Duration::from_millis(20),
            noise: false,
            agent_tool_result: false,
            late_results: Late::Accept,
        }
    }
}

/// One session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSpec {
    /// Its name, unique; part of its id.
    pub name: String,
    /// When it is created, after the start.
    #[serde(default, with = "span")]
    pub start_after: Duration,
    /// Run the steps when `POST /v1/sessions` names this session as its agent, once per call, not at the start.
    #[serde(default)]
    pub on_create: bool,
    /// The session's metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Fields laid over the session object that workers read.
    #[serde(default)]
    pub session_override: serde_json::Map<String, serde_json::Value>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// A healthcheck item.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Healthcheck {
    /// When it is queued.
    #[serde(with = "span")]
    pub after: Duration,
}

/// Longer waits than this are a mistake; the bound keeps sums of times in range.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn parse_span<E: serde::de::Error>(text: &str) -> Result<Duration, E> {
    let span = humantime::parse_duration(text).map_err(E::custom)?;
    if span > LONGEST {
        return Err(E::custom("a duration of more than a year"));
    }
    Ok(span)
}

/// Durations as people write them: `1500ms`, `2s`, `1m 30s`.
pub(crate) mod span {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        parse_span(&String::deserialize(d)?)
    }
}

/// The same, or null.
pub(crate) mod opt_span {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(d)?
            .map(|t| parse_span(&t))
            .transpose()
    }
}
