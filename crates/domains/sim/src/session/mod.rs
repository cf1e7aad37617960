//! A session: its event log, its calls, its status.
//!
//! The log is append-only and is the only thing that clients see: list reads it, a stream is a position in it that moves
//! on. A stream's position is taken when it opens, under the same lock as every append, so between "stream opened" and
//! "history listed" nothing can be lost.

mod calls;
mod emit;
mod object;
pub(crate) mod script;

pub(crate) use calls::{Call, CallPhase, Posted};

use crate::{
    scenario::{Scope, Seen},
    shared::Shared,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: String,
    /// The scenario's name for it.
    pub name: String,
    pub environment: String,
    pub agent: String,
    pub title: Option<String>,
    pub metadata: Map<String, Value>,
    pub overlay: Map<String, Value>,
    pub created: Duration,
    pub archived: Option<Duration>,
    pub status: &'static str,
    pub deleted: bool,
    pub log: Vec<Value>,
    pub calls: Vec<Call>,
    /// Threads, and whether they have ended.
    pub threads: BTreeMap<String, bool>,
    pub scope: Scope,
    /// Counted up to close this session's streams.
    pub stream_epoch: u64,
    /// Streams open now.
    pub streams: usize,
    /// Set by an interrupt; the script takes it.
    pub interrupted: bool,
    pub scripted: bool,
    pub script_done: bool,
    /// What the script found wrong outside of calls.
    pub failures: Vec<String>,
    last_stamp: Duration,
}

impl Session {
    pub(crate) fn new(id: String, name: String, environment: String, now: Duration) -> Session {
        Session {
            agent: format!("agent_{name}"),
            id,
            name,
            environment,
            title: None,
            metadata: Map::new(),
            overlay: Map::new(),
            created: now,
            archived: None,
            status: "idle",
            deleted: false,
            log: Vec::new(),
            calls: Vec::new(),
            threads: BTreeMap::new(),
            scope: Scope::default(),
            stream_epoch: 0,
            streams: 0,
            interrupted: false,
            scripted: false,
            script_done: false,
            failures: Vec::new(),
            last_stamp: Duration::ZERO,
        }
    }

    /// Whether nothing can happen in it any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.deleted || self.status == "terminated"
    }

    /// Appends an event and returns its id. `id` and `processed_at` are added where they are missing.
    pub(crate) fn append(&mut self, shared: &Shared, mut event: Value, id: Option<String>) -> String {
        // Strictly ascending, whatever the clock's resolution: clients page by it.
        let at = shared.clock.now().max(self.last_stamp + Duration::from_micros(1));
        self.last_stamp = at;
        let id = id.unwrap_or_else(|| self.event_id(shared));
        let given = event["id"].as_str().map(str::to_owned);
        if let Some(map) = event.as_object_mut() {
            if given.is_none() {
                map.insert("id".into(), Value::String(id.clone()));
            }
            if !map.get("processed_at").is_some_and(Value::is_string) {
                map.insert("processed_at".into(), Value::String(shared.stamp(at)));
            }
        }
        self.log.push(event);
        given.unwrap_or(id)
    }

    /// An id for the next event, unique in the run because session names are.
    pub(crate) fn event_id(&self, shared: &Shared) -> String {
        format!("sevt_{}_{}_{:05}", shared.tag, self.name, self.log.len())
    }

    /// Goes to a status, with its event.
    pub(crate) fn go_running(&mut self, shared: &Shared) {
        if self.status != "running" {
            self.status = "running";
            self.append(shared, json!({"type": "session.status_running"}), None);
        }
    }

    /// Goes idle with a reason.
    pub(crate) fn go_idle(&mut self, shared: &Shared, reason: Value) {
        self.status = "idle";
        self.append(
            shared,
            json!({"type": "session.status_idle", "stop_reason": reason}),
            None,
        );
    }

    /// Ends the turn.
    pub(crate) fn end_turn(&mut self, shared: &Shared) {
        self.go_idle(shared, json!({"type": "end_turn"}));
    }

    /// A user's interrupt: open calls are given up, the turn ends.
    pub(crate) fn interrupt(&mut self, shared: &Shared, event: Value) -> String {
        let id = self.append(shared, event, None);
        self.abandon("interrupted");
        self.interrupted = true;
        self.end_turn(shared);
        id
    }

    /// The session ends.
    pub(crate) fn terminate(&mut self, shared: &Shared) {
        if !self.is_closed() {
            self.abandon("session terminated");
            self.status = "terminated";
            self.append(shared, json!({"type": "session.status_terminated"}), None);
        }
    }

    /// The session is deleted.
    pub(crate) fn delete(&mut self, shared: &Shared) {
        if !self.deleted {
            self.abandon("session deleted");
            self.append(shared, json!({"type": "session.deleted"}), None);
            self.deleted = true;
        }
    }

    /// A thread ends; its open calls can get no result any more.
    pub(crate) fn terminate_thread(&mut self, shared: &Shared, name: &str) {
        let id = thread_id(shared, &self.name, name);
        self.threads.insert(name.to_owned(), true);
        for call in &mut self.calls {
            if call.thread.as_deref() == Some(name) && call.is_open() {
                call.phase = CallPhase::Abandoned("thread terminated");
            }
        }
        let event =
            json!({"type": "session.thread_status_terminated", "session_thread_id": id, "agent_name": name});
        self.append(shared, event, None);
        self.after_resolution(shared);
    }

    /// Takes a thread into the session at its first mention and returns its id.
    pub(crate) fn thread(&mut self, shared: &Shared, name: &str) -> String {
        let id = thread_id(shared, &self.name, name);
        if !self.threads.contains_key(name) {
            self.threads.insert(name.to_owned(), false);
            let event =
                json!({"type": "session.thread_created", "session_thread_id": id, "agent_name": name});
            self.append(shared, event, None);
            let event =
                json!({"type": "session.thread_status_running", "session_thread_id": id, "agent_name": name});
            self.append(shared, event, None);
        }
        id
    }

    /// After a call was resolved: idle again with the rest, or running when there is none.
    pub(crate) fn after_resolution(&mut self, shared: &Shared) {
        let open = self.open_ids();
        if open.is_empty() {
            self.go_running(shared);
        } else {
            self.go_idle(shared, json!({"type": "requires_action", "event_ids": open}));
        }
    }

    /// Ids of the calls that still need something.
    pub(crate) fn open_ids(&self) -> Vec<String> {
        self.calls
            .iter()
            .filter(|c| c.is_open())
            .map(|c| c.id.clone())
            .collect()
    }

    fn abandon(&mut self, why: &'static str) {
        for call in self.calls.iter_mut().filter(|c| c.is_open()) {
            call.phase = CallPhase::Abandoned(why);
        }
    }

    /// Keeps a call's result and captures for later templates. The error names the capture that does not match.
    pub(crate) fn remember(
        &mut self,
        name: &str,
        seen: Seen,
        patterns: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        for (capture, pattern) in patterns {
            let regex = regex::Regex::new(pattern).map_err(|e| e.to_string())?;
            let found = regex.captures(&seen.text);
            let group = found.as_ref().and_then(|c| c.get(1).or_else(|| c.get(0)));
            let value = group.ok_or_else(|| format!("capture {capture}: {pattern:?} does not match"))?;
            self.scope
                .captures
                .insert(capture.clone(), value.as_str().to_owned());
        }
        self.scope.results.insert(name.to_owned(), seen);
        Ok(())
    }
}

fn thread_id(shared: &Shared, session: &str, name: &str) -> String {
    format!("sthr_{}_{session}_{name}", shared.tag)
}
