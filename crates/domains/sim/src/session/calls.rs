//! Tool calls and what comes back for them.

use super::Session;
use crate::{
    audit::Rule,
    scenario::{CallSpec, Kind, Late, Owner, Permission, Seen, Verdict},
    shared::Shared,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallPhase {
    /// Held for a verdict.
    Asking,
    /// Needs a result.
    Open,
    /// Has one.
    Answered,
    /// Refused; resolved without a result.
    Denied,
    /// No result is needed any more.
    Abandoned(&'static str),
    /// Runs at Anthropic's.
    ServerSide,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Call {
    pub name: String,
    pub spec: CallSpec,
    pub id: String,
    pub thread: Option<String>,
    pub phase: CallPhase,
    /// When a worker could first have seen it.
    pub emitted: Duration,
    pub answered: Option<Duration>,
    /// The first result's bytes, to tell repeats from others.
    bytes: Option<String>,
    pub seen: Option<Seen>,
    /// Results received, repeats included.
    pub received: u32,
    /// Of these, repeats with the same bytes.
    pub repeats: u32,
    pub checked: Option<Result<(), String>>,
}

/// What became of a posted result.
#[derive(Debug)]
pub(crate) enum Posted {
    /// In the log, as this event.
    Accepted(Value),
    /// 400 with this message.
    Refused(String),
}

impl Call {
    pub(crate) fn new(name: String, spec: CallSpec, id: String, now: Duration) -> Call {
        let phase = match (spec.kind, spec.permission) {
            (Kind::Mcp, _) => CallPhase::ServerSide,
            (Kind::Custom, _) => CallPhase::Open,
            (_, Permission::Ask) => CallPhase::Asking,
            (_, Permission::Deny) => CallPhase::Denied,
            _ => CallPhase::Open,
        };
        Call {
            name,
            thread: spec.thread.clone(),
            spec,
            id,
            phase,
            emitted: now,
            answered: None,
            bytes: None,
            seen: None,
            received: 0,
            repeats: 0,
            checked: None,
        }
    }

    /// Whether it still needs something.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, CallPhase::Asking | CallPhase::Open)
    }
}

impl Session {
    /// A result for a call, from a worker or from the client that the simulator plays.
    pub(crate) fn post_result(
        &mut self,
        shared: &Shared,
        event: &Value,
        from: Owner,
        broken: &mut Vec<(Rule, String)>,
    ) -> Posted {
        let custom = event["type"] == "user.custom_tool_result";
        let key = if custom {
            "custom_tool_use_id"
        } else {
            "tool_use_id"
        };
        let Some(id) = event[key].as_str() else {
            return Posted::Refused(format!("{key}: Field required"));
        };
        let Some(index) = self.calls.iter().position(|c| c.id == id) else {
            broken.push((Rule::ResultForUnknownCall, id.to_owned()));
            return Posted::Refused(format!("no tool call has the id {id}"));
        };
        let late = shared.scenario.events.late_results;
        let call = &mut self.calls[index];
        let name = call.name.clone();
        call.received += 1;
        if custom != (call.spec.kind == Kind::Custom) {
            broken.push((Rule::ResultOfWrongKind, name));
            return Posted::Refused(format!("{id} is not answered by {}", event["type"]));
        }
        if from == Owner::Worker && call.spec.owner == Owner::Client {
            broken.push((Rule::ResultForUnowned, name.clone()));
        }
        match call.phase {
            CallPhase::Asking => {
                broken.push((Rule::ResultBeforeConfirmation, name));
                return Posted::Refused(format!("{id} has not been confirmed"));
            }
            CallPhase::Denied | CallPhase::ServerSide => {
                broken.push((Rule::ResultForDenied, name));
                return Posted::Refused(format!("{id} takes no result"));
            }
            CallPhase::Abandoned(why) if late == Late::Reject || why != "interrupted" => {
                return Posted::Refused(format!("{id} takes no result any more: {why}"));
            }
            CallPhase::Answered => {
                let same = call.bytes.as_deref() == Some(event.to_string().as_str());
                if same {
                    call.repeats += 1;
                } else {
                    broken.push((Rule::DifferentSecondResult, name));
                }
                // A repeat is accepted without a second entry: the history has one result per call.
                let first = self
                    .log
                    .iter()
                    .find(|e| e[key] == id && e["type"] == event["type"]);
                return Posted::Accepted(first.cloned().unwrap_or(Value::Null));
            }
            CallPhase::Open | CallPhase::Abandoned(_) => {}
        }
        let was_open = call.phase == CallPhase::Open;
        call.phase = CallPhase::Answered;
        call.answered = Some(shared.clock.now());
        call.bytes = Some(event.to_string());
        call.seen = Some(Seen::of(event));
        let id = id.to_owned();
        self.append(shared, event.clone(), None);
        let stored = self.log.last().cloned().unwrap_or(Value::Null);
        if shared.scenario.events.agent_tool_result && !custom {
            let echo = json!({"type": "agent.tool_result", "tool_use_id": id,
                "is_error": event["is_error"], "content": event["content"]});
            self.append(shared, echo, None);
        }
        if was_open {
            self.after_resolution(shared);
        }
        Posted::Accepted(stored)
    }

    /// A verdict on an `ask` call. The event is appended in any case but an unknown id.
    pub(crate) fn confirm(&mut self, shared: &Shared, event: &Value) -> Posted {
        let id = event["tool_use_id"].as_str().unwrap_or_default();
        let verdict = match event["result"].as_str() {
            Some("allow") => Verdict::Allow,
            Some("deny") => Verdict::Deny,
            _ => return Posted::Refused("result: must be allow or deny".into()),
        };
        let Some(index) = self.calls.iter().position(|c| c.id == id) else {
            return Posted::Refused(format!("no tool call has the id {id:?}"));
        };
        let asking = self.calls[index].phase == CallPhase::Asking;
        self.append(shared, event.clone(), None);
        let stored = self.log.last().cloned().unwrap_or(Value::Null);
        if asking {
            self.calls[index].phase = match verdict {
                Verdict::Allow => CallPhase::Open,
                Verdict::Deny => CallPhase::Denied,
            };
            if verdict == Verdict::Deny {
                self.after_resolution(shared);
            }
        }
        Posted::Accepted(stored)
    }
}
