//! The session object, as far as a worker reads it.

use crate::work::null_is_default;
use omnirun_ids::ApiId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Waiting to run again.
    Rescheduling,
    /// The model is at work.
    Running,
    /// The model waits: for a result, a confirmation or a message.
    Idle,
    /// Over for good; archived sessions read so too.
    Terminated,
    /// A state that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A session. Everything else in the object (agent, usage, budget) is not read here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The session.
    pub id: ApiId,
    /// Its state.
    #[serde(default, deserialize_with = "null_is_default")]
    pub status: SessionStatus,
    /// The customer's own pairs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
    /// What is attached to it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub resources: Vec<Resource>,
    /// Its agent.
    #[serde(default, deserialize_with = "null_is_default")]
    pub agent: Agent,
}

impl Session {
    /// The memory stores attached to it.
    pub fn memory_stores(&self) -> usize {
        self.resources.iter().filter(|r| r.kind == "memory_store").count()
    }
}

/// Something attached to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// `memory_store`, `file`, `github_repository`.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
}

/// The agent of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its skills.
    #[serde(default, deserialize_with = "null_is_default")]
    pub skills: Vec<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_needs_and_no_more() {
        let s: Session = serde_json::from_str(
            r#"{"type":"session","id":"sesn_01Xy","status":"running","metadata":{"input":"s3://b/k"},
            "resources":[{"type":"memory_store","memory_store_id":"m"},{"type":"file"}],
            "agent":{"skills":[{"type":"custom"}],"tools":{"a":1}},"budget":null,"later":{}}"#,
        )
        .unwrap();
        assert_eq!(
            (s.status, s.memory_stores(), s.agent.skills.len()),
            (SessionStatus::Running, 1, 1)
        );
        let bare: Session = serde_json::from_str(
            r#"{"id":"s","status":"paused","metadata":null,"resources":null,"agent":null}"#,
        )
        .unwrap();
        assert_eq!(bare.status, SessionStatus::Unknown);
    }
}
