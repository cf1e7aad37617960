//! The steps of a session.

use super::{Expect, opt_span, span};
use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt, time::Duration};

/// One step.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A user's message: opens a turn. A session whose item is gone gets a new one.
    User(String),
    /// A message of the agent's.
    Say(String),
    /// One tool call.
    Call(Box<CallSpec>),
    /// Several in one turn of the model.
    Calls(Calls),
    /// Any event, as it is; `id` and `processed_at` are added where they are missing.
    Emit(Map<String, Value>),
    /// A pause.
    #[serde(with = "span")]
    Wait(Duration),
    /// Wait until the worker has let the session's item go.
    UntilReleased(Bound),
    /// Something that happens to the session.
    Do(Do),
}

/// A wait's bound.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Longer than this is a failure. Real time.
    #[serde(with = "span")]
    pub within: Duration,
}

/// Several calls at once: a list, or a map with `of`.
#[derive(Clone, Debug)]
pub enum Calls {
    /// The calls.
    Only(Vec<CallSpec>),
    /// The calls, and what happens while they are open.
    With(Box<Round>),
}

/// Calls of one turn, and what happens while they are open.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// The calls.
    pub of: Vec<CallSpec>,
    /// In order of their times.
    #[serde(default)]
    pub meanwhile: Vec<Meanwhile>,
}

/// Something that happens while calls are open.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meanwhile {
    /// After the calls were emitted; with `held`, after a worker holds the item.
    #[serde(default, with = "span")]
    pub after: Duration,
    /// Count from when a worker holds the item's lease and streams.
    #[serde(default)]
    pub held: bool,
    /// What.
    #[serde(rename = "do")]
    pub action: Do,
}

/// Something that happens to a session or its item.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Do {
    /// The user interrupts: the turn ends.
    Interrupt,
    /// `session.status_terminated`.
    Terminate,
    /// `session.deleted`.
    Delete,
    /// Archived: reads as terminated.
    Archive,
    /// An operator's stop.
    Stop,
    /// An operator's stop by force.
    ForceStop,
    /// The item goes back to the queue as if its lease had expired.
    LoseLease,
    /// The connections of this session's event streams are closed.
    DropStreams,
    /// A thread ends.
    TerminateThread(String),
}

/// What kind of event carries the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `agent.tool_use`.
    #[default]
    Tool,
    /// `agent.custom_tool_use`.
    Custom,
    /// `agent.mcp_tool_use`: runs at Anthropic's, workers ignore it.
    Mcp,
}

/// `evaluated_permission`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Run it.
    #[default]
    Allow,
    /// Ask first.
    Ask,
    /// Refused.
    Deny,
    /// The field is absent.
    Absent,
}

/// A confirmation's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Run it.
    Allow,
    /// Do not.
    Deny,
}

/// Whether the verdict comes before the call or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfirmWhen {
    /// Its event precedes the call's.
    Before,
    /// It follows.
    #[default]
    After,
}

/// A user's answer to an `ask` call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// The verdict.
    pub verdict: Verdict,
    /// Before or after the call's event.
    #[serde(default)]
    pub when: ConfirmWhen,
    /// How long after it.
    #[serde(default, with = "span")]
    pub after: Duration,
    /// `deny_message`.
    pub message: Option<String>,
}

/// Who has to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The worker.
    #[default]
    Worker,
    /// Another client, which the simulator plays.
    Client,
}

/// What the other client answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// After the call.
    #[serde(with = "span")]
    pub after: Duration,
    /// The text.
    pub text: String,
    /// Whether it is an error.
    pub is_error: bool,
}

/// A tool call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallSpec {
    /// Its name: `${results.NAME.text}` in later calls. Default: `callN`.
    pub name: Option<String>,
    /// The tool.
    pub tool: String,
    /// Its input, with templates.
    #[serde(default)]
    pub input: Value,
    /// Which kind of event.
    #[serde(default)]
    pub kind: Kind,
    /// Its evaluated permission.
    #[serde(default)]
    pub permission: Permission,
    /// The user's answer to `ask`.
    pub confirm: Option<Confirm>,
    /// The thread it belongs to, created at its first mention.
    pub thread: Option<String>,
    /// Who answers.
    #[serde(default)]
    pub owner: Owner,
    /// What the other client answers.
    #[serde(default)]
    pub answer: Answer,
    /// Fields laid over the event; null removes one.
    #[serde(default, rename = "override")]
    pub overlay: Map<String, Value>,
    /// What the result must be. Default: any, no error.
    #[serde(default)]
    pub expect: Expect,
    /// Values for later: `${captures.NAME}`, the first group of a regular expression on the text.
    #[serde(default)]
    pub capture: BTreeMap<String, String>,
    /// No result for longer than this is a failure that ends the session. Real time.
    #[serde(default, with = "opt_span")]
    pub within: Option<Duration>,
}

/// By hand and not `untagged`, which would read its content twice: errors would lose their place, and `yes` and `no`
/// would become booleans.
impl<'de> Deserialize<'de> for Calls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Calls;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of calls, or a map with `of`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Calls, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(seq)).map(Calls::Only)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Calls, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(|r| Calls::With(Box::new(r)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Calls {
    /// The calls.
    pub fn specs(&self) -> &[CallSpec] {
        match self {
            Calls::Only(specs) => specs,
            Calls::With(round) => &round.of,
        }
    }

    /// What happens while they are open.
    pub fn meanwhile(&self) -> &[Meanwhile] {
        match self {
            Calls::Only(_) => &[],
            Calls::With(round) => &round.meanwhile,
        }
    }
}
