//! Listing and sending events.

use super::{
    Credential,
    entry::Call,
    reply::{Failure, Reply, ok},
};
use crate::{
    audit::{GRACE, Rule},
    scenario::Owner,
    session::{Posted, Session},
    shared::State,
};
use base64::Engine;
use serde_json::{Value, json};

/// Most events in one request.
const MAX_EVENTS: usize = 50;

pub(crate) fn list(call: &Call<'_>) -> Reply {
    let types: Vec<&str> = call
        .query
        .iter()
        .filter(|(k, _)| k == "types[]" || k == "types")
        .map(|(_, v)| v.as_str())
        .collect();
    let bounds: Vec<(&str, &str)> = call
        .query
        .iter()
        .filter_map(|(k, v)| Some((k.strip_prefix("created_at[")?.strip_suffix(']')?, v.as_str())))
        .collect();
    let mut events = call.shared.read(|state| {
        let session = state
            .sessions
            .get(&call.route.id)
            .filter(|s| !s.deleted || !s.log.is_empty());
        session
            .map(|s| s.log.clone())
            .ok_or_else(|| Failure::not_found("session"))
    })?;
    events.retain(|e| types.is_empty() || types.contains(&e["type"].as_str().unwrap_or_default()));
    let mut times = Vec::new();
    for (op, text) in bounds {
        let time: jiff::Timestamp = text
            .parse()
            .map_err(|_| Failure::new(400, format!("created_at[{op}]: not a time")))?;
        times.push((op, time));
    }
    events.retain(|e| {
        let at = e["processed_at"]
            .as_str()
            .and_then(|t| t.parse::<jiff::Timestamp>().ok());
        times.iter().all(|(op, bound)| {
            at.is_some_and(|at| match *op {
                "gt" => at > *bound,
                "gte" => at >= *bound,
                "lt" => at < *bound,
                "lte" => at <= *bound,
                _ => true,
            })
        })
    });
    match call.query("order") {
        None | Some("asc") => {}
        Some("desc") => events.reverse(),
        Some(_) => return Err(Failure::new(400, "order: must be asc or desc")),
    }
    page(call, events, call.shared.scenario.events.page_size)
}

/// One page of a list. Page tokens are offsets, but callers must not know.
pub(crate) fn page(call: &Call<'_>, all: Vec<Value>, largest: usize) -> Reply {
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let start = match call.query("page").filter(|p| !p.is_empty()) {
        None => 0,
        Some(token) => engine
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.strip_prefix("page-")?.parse::<usize>().ok())
            .ok_or_else(|| Failure::new(400, "page: not a page token"))?,
    };
    let limit = match call.query("limit").map(str::parse::<usize>) {
        None => largest,
        Some(Ok(limit)) if limit > 0 => limit.min(largest),
        Some(_) => return Err(Failure::new(400, "limit: must be a positive integer")),
    };
    let rest = all.len().saturating_sub(start);
    let next = (rest > limit).then(|| engine.encode(format!("page-{}", start + limit)));
    let data: Vec<Value> = all.into_iter().skip(start).take(limit).collect();
    Ok(ok(&json!({"data": data, "next_page": next})))
}

pub(crate) fn send(call: &Call<'_>) -> Reply {
    let body = call.json()?;
    let events = body["events"]
        .as_array()
        .ok_or_else(|| Failure::new(400, "events: Field required"))?;
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(Failure::new(
            400,
            format!("events: must have from 1 to {MAX_EVENTS} entries"),
        ));
    }
    let shared = call.shared;
    shared.update(|state| {
        let session = state
            .sessions
            .get(&call.route.id)
            .ok_or_else(|| Failure::not_found("session"))?;
        if session.deleted {
            return Err(Failure::not_found("session"));
        }
        if session.is_closed() || session.archived.is_some() {
            return Err(Failure::new(
                400,
                "the session has terminated and takes no events",
            ));
        }
        let mut accepted = Vec::new();
        for event in events {
            accepted.push(send_one(call, state, event)?);
        }
        Ok(ok(&json!({"data": accepted})))
    })
}

fn send_one(call: &Call<'_>, state: &mut State, event: &Value) -> Result<Value, Failure> {
    let shared = call.shared;
    let kind = event["type"].as_str().unwrap_or_default();
    let by_worker = call.credential != Credential::Organization;
    match kind {
        "user.tool_result" | "user.custom_tool_result" => {
            if by_worker {
                audit_post(call, state, event);
            }
            let from = if by_worker { Owner::Worker } else { Owner::Client };
            let mut broken = Vec::new();
            let session = known(state, call)?;
            let posted = session.post_result(shared, event, from, &mut broken);
            let (name, now) = (session.name.clone(), shared.clock.now());
            for (rule, detail) in broken {
                state.audit.add(now, rule, &name, detail);
            }
            outcome(posted)
        }
        "user.tool_confirmation" => outcome(known(state, call)?.confirm(shared, event)),
        "user.interrupt" => {
            let session = known(state, call)?;
            session.interrupt(shared, event.clone());
            // An interrupt also wakes a session whose item has failed.
            let last = session
                .log
                .iter()
                .rev()
                .find(|e| e["type"] == "user.interrupt")
                .cloned();
            state.ensure_item(shared, &call.route.id);
            Ok(last.unwrap_or(Value::Null))
        }
        "user.message" | "user.define_outcome" | "system.message" => {
            let session = known(state, call)?;
            session.append(shared, event.clone(), None);
            let stored = session.log.last().cloned().unwrap_or(Value::Null);
            if kind == "user.message" {
                answer(call, session);
                state.ensure_item(shared, &call.route.id);
            }
            Ok(stored)
        }
        _ => Err(Failure::new(400, format!("events: type {kind:?} cannot be sent"))),
    }
}

fn known<'a>(state: &'a mut State, call: &Call<'_>) -> Result<&'a mut Session, Failure> {
    state
        .sessions
        .get_mut(&call.route.id)
        .ok_or_else(|| Failure::not_found("session"))
}

fn outcome(posted: Posted) -> Result<Value, Failure> {
    match posted {
        Posted::Accepted(event) => Ok(event),
        Posted::Refused(why) => Err(Failure::new(400, why)),
    }
}

/// A session without a script has an agent that only says that it heard.
pub(crate) fn answer(call: &Call<'_>, session: &mut Session) {
    session.go_running(call.shared);
    if !session.scripted {
        let content = json!([{"type": "text", "text": "(this session has no script)"}]);
        session.append(
            call.shared,
            json!({"type": "agent.message", "content": content}),
            None,
        );
        session.end_turn(call.shared);
    }
}

/// Notes results that come from a worker which must know that it may not post any more.
fn audit_post(call: &Call<'_>, state: &mut State, event: &Value) {
    let now = call.shared.clock.now();
    let Credential::Session(token) = &call.credential else {
        if state.live_item(&call.route.id).is_none() {
            state
                .audit
                .add(now, Rule::ResultWithoutItem, &call.route.id, "environment key");
        }
        return;
    };
    let Some((item, claim)) = state.claim(token) else {
        return;
    };
    let (id, worker) = (item.id.clone(), claim.worker.clone());
    let of = event["tool_use_id"]
        .as_str()
        .or(event["custom_tool_use_id"].as_str())
        .unwrap_or_default();
    if claim.told_lost.is_some_and(|told| now > told + GRACE) {
        state
            .audit
            .add(now, Rule::PostAfterLostLease, &id, format!("{worker}: {of}"));
    } else if claim.force_stopped {
        state
            .audit
            .add(now, Rule::ResultWithoutItem, &id, format!("{worker}: {of}"));
    }
}
