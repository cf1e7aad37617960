//! What a run showed: each call's expected and seen result, broken rules, requests. No credential is in it: headers and
//! bodies are never logged, and results are cut.

use crate::{
    audit::Violation,
    scenario::{Expect, Owner},
    server::Endpoint,
    session::{Call, CallPhase, Session},
    shared::{Shared, State},
    work::{WorkItem, WorkKind},
};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// Most of a result's text that a report shows.
const MAX_TEXT: usize = 2000;
/// Most requests that a report lists: the latest.
const MAX_REQUESTS: usize = 2000;

/// A run's report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// Whether everything held and everything ended.
    pub ok: bool,
    /// Whether all scripts have ended and no work item is left.
    pub ended: bool,
    /// What was wrong, one line each.
    pub failures: Vec<String>,
    /// The sessions.
    pub sessions: Vec<SessionReport>,
    /// Items that are no sessions.
    pub healthchecks: Vec<ItemReport>,
    /// Broken rules.
    pub violations: Vec<Violation>,
    /// How often each injected fault hit.
    pub faults: BTreeMap<String, u32>,
    /// Requests by endpoint.
    pub request_counts: BTreeMap<String, u64>,
    /// The latest requests.
    pub requests: Vec<Entry>,
}

/// A session's part of it.
#[derive(Clone, Debug, Serialize)]
pub struct SessionReport {
    /// The scenario's name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its status at the end.
    pub status: String,
    /// Its work items.
    pub items: Vec<ItemReport>,
    /// Its calls.
    pub calls: Vec<CallReport>,
    /// Failures outside of calls.
    pub failures: Vec<String>,
    /// Events in its history.
    pub events: usize,
}

/// A work item's part.
#[derive(Clone, Debug, Serialize)]
pub struct ItemReport {
    /// Its id.
    pub id: String,
    /// Its state at the end.
    pub state: String,
    /// Times it was handed out.
    pub claims: usize,
    /// Of these, acknowledged.
    pub acks: usize,
    /// Of these, lost.
    pub lost: usize,
    /// Heartbeats that extended a lease.
    pub heartbeats: u32,
    /// Whether a holder ended it by force.
    pub force_stopped: bool,
}

/// A call's part.
#[derive(Clone, Debug, Serialize)]
pub struct CallReport {
    /// Its name.
    pub name: String,
    /// Its event's id.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// `answered`, `denied`, `open`, `asking`, `server_side`, or why it needs no result any more.
    pub outcome: String,
    /// What was expected.
    pub expected: Expect,
    /// What came, cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<crate::scenario::Seen>,
    /// Results received, repeats included.
    pub received: u32,
    /// Of these, repeats with the same bytes.
    pub repeats: u32,
    /// Whether it held.
    pub ok: bool,
    /// What was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// From the call's event to its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<f64>,
}

/// A request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Since the start.
    pub at_ms: u64,
    /// GET, POST, …
    pub method: String,
    /// Its path.
    pub path: String,
    /// Its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The endpoint, if it is one.
    pub endpoint: Option<Endpoint>,
    /// The answer's status; null when the connection was dropped.
    pub status: Option<u16>,
    /// The credential's kind.
    pub credential: Option<&'static str>,
    /// `x-stainless-helper`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// The fault that hit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The latest requests, and counts of all.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    latest: VecDeque<Entry>,
    counts: BTreeMap<String, u64>,
}

impl RequestLog {
    pub(crate) fn add(&mut self, entry: Entry) {
        let name = entry.endpoint.map_or("unknown".into(), |e| format!("{e:?}"));
        *self.counts.entry(name).or_default() += 1;
        if self.latest.len() == MAX_REQUESTS {
            self.latest.pop_front();
        }
        self.latest.push_back(entry);
    }
}

/// Draws it up from the present state.
pub(crate) fn draw(shared: &Shared, state: &State) -> Report {
    let mut failures = Vec::new();
    let sessions: Vec<SessionReport> = state.sessions.values().map(|s| session(state, s)).collect();
    for session in &sessions {
        failures.extend(session.failures.iter().map(|f| format!("{}: {f}", session.name)));
        for call in session.calls.iter().filter(|c| !c.ok) {
            let why = call.failure.as_deref().unwrap_or("failed");
            failures.push(format!("{}, call {}: {why}", session.name, call.name));
        }
    }
    let is_healthcheck = |i: &&WorkItem| i.kind == WorkKind::Healthcheck;
    let healthchecks: Vec<ItemReport> = state.items.iter().filter(is_healthcheck).map(item).collect();
    for check in healthchecks.iter().filter(|c| !c.force_stopped) {
        failures.push(format!(
            "healthcheck {} was not acknowledged and stopped by force",
            check.id
        ));
    }
    let audit = &state.audit;
    failures.extend(
        audit
            .violations
            .iter()
            .map(|v| format!("{:?}: {} {}", v.rule, v.subject, v.detail)),
    );
    if audit.count > audit.violations.len() {
        failures.push(format!(
            "{} more violations",
            audit.count - audit.violations.len()
        ));
    }
    let ended = state.is_done();
    if !ended {
        let live = state.items.iter().filter(|i| i.machine.is_live());
        let live: Vec<String> = live
            .map(|i| format!("{} ({}) is {}", i.id, i.subject, i.machine.phase().name()))
            .collect();
        failures.push(format!(
            "not ended: {} scripts running, items: {live:?}",
            state.running
        ));
    }
    Report {
        scenario: shared.scenario.name.clone(),
        ok: failures.is_empty(),
        ended,
        failures,
        sessions,
        healthchecks,
        violations: audit.violations.clone(),
        faults: state.faults.hits.clone(),
        request_counts: state.requests.counts.clone(),
        requests: state.requests.latest.iter().cloned().collect(),
    }
}

fn session(state: &State, session: &Session) -> SessionReport {
    SessionReport {
        name: session.name.clone(),
        id: session.id.clone(),
        status: if session.deleted {
            "deleted"
        } else {
            session.status
        }
        .to_owned(),
        items: state
            .items
            .iter()
            .filter(|i| i.subject == session.id)
            .map(item)
            .collect(),
        calls: session.calls.iter().map(call).collect(),
        failures: session.failures.clone(),
        events: session.log.len(),
    }
}

fn item(item: &WorkItem) -> ItemReport {
    ItemReport {
        id: item.id.clone(),
        state: item.machine.phase().name().to_owned(),
        claims: item.claims.len(),
        acks: item.claims.iter().filter(|c| c.acked).count(),
        lost: item.claims.iter().filter(|c| c.acked && c.lost).count(),
        heartbeats: item.claims.iter().map(|c| c.beats).sum(),
        force_stopped: item.claims.iter().any(|c| c.force_stopped),
    }
}

fn call(call: &Call) -> CallReport {
    let outcome = match call.phase {
        CallPhase::Asking => "asking",
        CallPhase::Open => "open",
        CallPhase::Answered => "answered",
        CallPhase::Denied => "denied",
        CallPhase::Abandoned(why) => why,
        CallPhase::ServerSide => "server_side",
    };
    let failure = match &call.checked {
        None if matches!(call.phase, CallPhase::Abandoned(_)) => None,
        None => Some("never resolved".to_owned()),
        Some(Err(why)) => Some(why.clone()),
        Some(Ok(())) => None,
    };
    let seen = call.seen.clone().map(|mut seen| {
        if let Some((at, _)) = seen.text.char_indices().nth(MAX_TEXT) {
            seen.text.truncate(at);
            seen.text.push('…');
        }
        seen
    });
    CallReport {
        name: call.name.clone(),
        id: call.id.clone(),
        tool: call.spec.tool.chars().take(80).collect(),
        outcome: outcome.to_owned(),
        expected: call.spec.expect.clone(),
        seen: seen.filter(|_| call.spec.owner == Owner::Worker),
        received: call.received,
        repeats: call.repeats,
        ok: failure.is_none(),
        failure,
        milliseconds: call
            .answered
            .map(|t| t.saturating_sub(call.emitted).as_micros() as f64 / 1e3),
    }
}
