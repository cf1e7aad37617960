//! The events that a turn's calls become.

use super::{Call, CallPhase, Session};
use crate::{
    scenario::{CallSpec, ConfirmWhen, Kind, Permission, TemplateError, Verdict, render},
    shared::Shared,
};
use serde_json::{Map, Value, json};

/// A call whose input cannot be filled in.
#[derive(Debug, thiserror::Error)]
#[error("the input of call {call} cannot be filled in")]
pub(super) struct EmitError {
    call: String,
    #[source]
    source: TemplateError,
}

/// Appends a turn's calls and the idle event that asks for their results. The calls' indices come back.
pub(super) fn emit(
    shared: &Shared,
    session: &mut Session,
    specs: &[CallSpec],
) -> Result<Vec<usize>, EmitError> {
    session.go_running(shared);
    if shared.scenario.events.noise {
        for event in [
            json!({"type": "span.model_request_start"}),
            json!({"type": "agent.thinking"}),
            json!({"type": "agent.something_from_the_future", "payload": {"a": [1, 2]}}),
        ] {
            session.append(shared, event, None);
        }
    }
    let mut indices = Vec::new();
    for spec in specs {
        let name = spec
            .name
            .clone()
            .unwrap_or_else(|| format!("call{}", session.calls.len() + 1));
        let input = match &spec.input {
            Value::Null => json!({}),
            input => render(input, &session.scope).map_err(|source| EmitError {
                call: name.clone(),
                source,
            })?,
        };
        let thread = spec.thread.as_ref().map(|t| session.thread(shared, t));
        let id = format!("{}_c{}", session.event_id(shared), session.calls.len() + 1);
        let mut call = Call::new(name, spec.clone(), id.clone(), shared.clock.now());
        call.spec.input = input.clone();
        let before = spec.confirm.as_ref().filter(|c| c.when == ConfirmWhen::Before);
        if let (Some(confirm), Some(event)) = (before, confirmation(&call)) {
            session.append(shared, event, None);
            call.phase = match confirm.verdict {
                Verdict::Allow => CallPhase::Open,
                Verdict::Deny => CallPhase::Denied,
            };
        }
        let event = call_event(spec, input, thread);
        session.append(shared, event, Some(id));
        session.calls.push(call);
        indices.push(session.calls.len() - 1);
    }
    let open = session.open_ids();
    if !open.is_empty() {
        session.go_idle(shared, json!({"type": "requires_action", "event_ids": open}));
    }
    Ok(indices)
}

fn call_event(spec: &CallSpec, input: Value, thread: Option<String>) -> Value {
    let mut event = Map::new();
    let kind = match spec.kind {
        Kind::Tool => "agent.tool_use",
        Kind::Custom => "agent.custom_tool_use",
        Kind::Mcp => "agent.mcp_tool_use",
    };
    event.insert("type".into(), kind.into());
    event.insert("name".into(), spec.tool.clone().into());
    event.insert("input".into(), input);
    if spec.kind != Kind::Custom {
        let (permission, policy) = match spec.permission {
            Permission::Allow => ("allow", json!({"type": "always_allow"})),
            Permission::Ask => ("ask", json!({"type": "always_ask"})),
            Permission::Deny => ("deny", Value::Null),
            Permission::Absent => ("", Value::Null),
        };
        if !permission.is_empty() {
            event.insert("evaluated_permission".into(), permission.into());
        }
        if !policy.is_null() {
            event.insert("evaluation".into(), policy);
        }
    }
    if spec.kind == Kind::Mcp {
        event.insert("mcp_server_name".into(), "simulated".into());
    }
    event.insert(
        "session_thread_id".into(),
        thread.map_or(Value::Null, Value::String),
    );
    for (key, value) in &spec.overlay {
        if value.is_null() {
            event.remove(key);
        } else {
            event.insert(key.clone(), value.clone());
        }
    }
    Value::Object(event)
}

pub(super) fn confirmation(call: &Call) -> Option<Value> {
    let confirm = call.spec.confirm.as_ref()?;
    let result = match confirm.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    Some(
        json!({"type": "user.tool_confirmation", "tool_use_id": call.id, "result": result,
        "deny_message": confirm.message}),
    )
}
