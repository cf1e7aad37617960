//! What the service keeps about an item besides its machine: who claimed it, and what they were told.

use super::item::Item;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// What an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkKind {
    /// A session to serve.
    Session,
    /// To be acknowledged and stopped, nothing else.
    Healthcheck,
}

impl WorkKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            WorkKind::Session => "session",
            WorkKind::Healthcheck => "healthcheck",
        }
    }
}

/// One handing-out of an item.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim {
    pub worker: String,
    pub acked: bool,
    pub beats: u32,
    /// The lease went elsewhere.
    pub lost: bool,
    /// When the holder was told so.
    pub told_lost: Option<Duration>,
    pub force_stopped: bool,
}

/// An item of an environment's queue.
#[derive(Debug)]
pub(crate) struct WorkItem {
    pub id: String,
    pub environment: String,
    pub kind: WorkKind,
    /// The session's id, or the healthcheck's.
    pub subject: String,
    pub created: Duration,
    pub metadata: Map<String, Value>,
    pub machine: Item,
    pub claims: Vec<Claim>,
}

impl WorkItem {
    /// The wire's object. `secret` is for poll responses only.
    pub(crate) fn to_json(&self, stamp: impl Fn(Duration) -> String, secret: Option<String>) -> Value {
        let times = self.machine.times();
        let at = |t: Option<Duration>| t.map(&stamp);
        json!({
            "type": "work", "id": self.id, "environment_id": self.environment,
            "state": self.machine.phase().name(),
            "data": {"type": self.kind.name(), "id": self.subject},
            "metadata": self.metadata, "secret": secret,
            "created_at": stamp(self.created),
            "acknowledged_at": at(times.acknowledged), "started_at": at(times.started),
            "latest_heartbeat_at": at(times.beat),
            "stop_requested_at": at(times.stop_requested), "stopped_at": at(times.stopped),
        })
    }

    /// Marks the present claim's lease as gone.
    pub(crate) fn lose(&mut self) {
        if let Some(claim) = self.claims.last_mut() {
            claim.lost = true;
        }
    }
}

/// An environment: its wire object, its key, who polls it.
#[derive(Debug)]
pub(crate) struct Environment {
    pub id: String,
    pub key: String,
    pub name: String,
    pub description: Option<String>,
    pub metadata: Map<String, Value>,
    pub created: Duration,
    pub updated: Duration,
    pub archived: Option<Duration>,
    /// Last poll by worker id.
    pub pollers: BTreeMap<String, Duration>,
}

impl Environment {
    pub(crate) fn to_json(&self, stamp: impl Fn(Duration) -> String) -> Value {
        json!({
            "type": "environment", "id": self.id, "name": self.name, "description": self.description,
            "config": {"type": "self_hosted"}, "metadata": self.metadata, "scope": "organization",
            "created_at": stamp(self.created), "updated_at": stamp(self.updated),
            "archived_at": self.archived.map(&stamp),
        })
    }
}
