//! Work items and heartbeats, as they are on the wire.

use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// What the first heartbeat of an item says that it expects.
pub const NO_HEARTBEAT: &str = "NO_HEARTBEAT";

/// Reads null, an absent field and an empty string as nothing: `ant` re-encodes items, and its null fields may arrive
/// as empty strings.
pub(crate) fn blank_is_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|s| !s.is_empty()))
}

/// Reads null as the default.
pub(crate) fn null_is_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The state of a work item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkState {
    /// Waiting for a worker.
    Queued,
    /// Acknowledged, no heartbeat yet.
    Starting,
    /// Leased by heartbeats.
    Active,
    /// Asked to stop; the worker confirms with a forced stop.
    Stopping,
    /// Over.
    Stopped,
    /// A state that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What an item is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkData {
    /// `session`; the queue also carries `healthcheck`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The session, for a session.
    #[serde(default, deserialize_with = "null_is_default")]
    pub id: String,
}

/// The `secret` of a work item: a credential in itself, so it prints nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkSecret(pub Secret);

impl Serialize for WorkSecret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0.expose())
    }
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<WorkSecret>, D::Error> {
    Ok(blank_is_none(d)?.map(|s| WorkSecret(Secret::new(s))))
}

/// A work item. A worker reads `id`, `data` and `secret`; the rest is there for whoever plays the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkItem {
    /// Always `work`.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// The item.
    pub id: ApiId,
    /// Its environment.
    pub environment_id: ApiId,
    /// Its state; unconfirmed in a poll's response, so nobody should decide by it.
    #[serde(default, deserialize_with = "lenient_state")]
    pub state: WorkState,
    /// What it is about.
    pub data: WorkData,
    /// Free pairs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
    /// Set in a poll's response only.
    #[serde(default, deserialize_with = "secret")]
    pub secret: Option<WorkSecret>,
    /// When it was queued.
    #[serde(default, deserialize_with = "blank_is_none")]
    pub created_at: Option<String>,
    /// When a worker acknowledged it.
    #[serde(default, deserialize_with = "blank_is_none")]
    pub acknowledged_at: Option<String>,
    /// When its first heartbeat came.
    #[serde(default, deserialize_with = "blank_is_none")]
    pub started_at: Option<String>,
    /// When its latest heartbeat came.
    #[serde(default, deserialize_with = "blank_is_none")]
    pub latest_heartbeat_at: Option<String>,
    /// When somebody asked it to stop.
    #[serde(default, deserialize_with = "blank_is_none")]
    pub stop_requested_at: Option<String>,
    /// When it was over.
    #[serde(default, deserialize_with = "blank_is_none")]
    pub stopped_at: Option<String>,
}

fn lenient_state<'de, D: Deserializer<'de>>(d: D) -> Result<WorkState, D::Error> {
    null_is_default(d)
}

impl WorkItem {
    /// The session that the item is about; nothing if it is about something else (a health check), or if the id is
    /// not one.
    pub fn session(&self) -> Option<ApiId> {
        if self.data.kind == "session" {
            self.data.id.parse().ok()
        } else {
            None
        }
    }
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatResponse {
    /// Always `work_heartbeat`.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// What the next heartbeat must say, byte for byte. Empty when none was ever recorded.
    #[serde(default, deserialize_with = "null_is_default")]
    pub last_heartbeat: String,
    /// Whether this beat extended the lease.
    #[serde(default = "yes", deserialize_with = "null_is_yes")]
    pub lease_extended: bool,
    /// The item's state.
    #[serde(default, deserialize_with = "lenient_state")]
    pub state: WorkState,
    /// For how long the lease holds from now.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ttl_seconds: i64,
}

fn yes() -> bool {
    true
}

fn null_is_yes<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(d)?.unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_as_the_api_writes_it_and_as_ant_rewrites_it() {
        let api = r#"{"type":"work","id":"work_01Ab","environment_id":"env_01Qa","state":"queued",
            "data":{"type":"session","id":"sesn_01Xy"},"metadata":{},"secret":"c2VjcmV0",
            "created_at":"2026-11-02T09:00:01Z","acknowledged_at":null,"started_at":null,
            "latest_heartbeat_at":null,"stop_requested_at":null,"stopped_at":null,"new_field":[1]}"#;
        let item: WorkItem = serde_json::from_str(api).unwrap();
        assert_eq!(item.session().unwrap().as_str(), "sesn_01Xy");
        assert!(!format!("{item:?}").contains("c2VjcmV0"));
        assert!(serde_json::to_string(&item).unwrap().contains("c2VjcmV0"));

        let ant = r#"{"type":"work","id":"work_01Ab","environment_id":"env_01Qa","state":"",
            "data":{"type":"session","id":"sesn_01Xy"},"metadata":null,"secret":"","acknowledged_at":""}"#;
        let item: WorkItem = serde_json::from_str(ant).unwrap();
        assert_eq!(
            (item.secret, item.acknowledged_at, item.state),
            (None, None, WorkState::Unknown)
        );
    }

    #[test]
    fn a_health_check_has_no_session_and_a_hostile_id_is_none() {
        let item = |data: &str| -> WorkItem {
            serde_json::from_str(&format!(r#"{{"id":"w","environment_id":"e","data":{data}}}"#)).unwrap()
        };
        assert_eq!(item(r#"{"type":"healthcheck"}"#).session(), None);
        assert_eq!(item(r#"{"type":"session","id":"../x"}"#).session(), None);
        assert!(
            serde_json::from_str::<WorkItem>(r#"{"id":"../../w","environment_id":"e","data":{"type":"s"}}"#)
                .is_err()
        );
    }

    #[test]
    fn a_heartbeat_needs_nothing_but_an_object() {
        let beat: HeartbeatResponse = serde_json::from_str("{}").unwrap();
        assert!(beat.lease_extended);
        let beat: HeartbeatResponse =
            serde_json::from_str(r#"{"last_heartbeat":null,"state":"paused","ttl_seconds":300}"#).unwrap();
        assert_eq!((beat.state, beat.ttl_seconds), (WorkState::Unknown, 300));
        let beat: HeartbeatResponse = serde_json::from_str(
            r#"{"type":null,"last_heartbeat":null,"lease_extended":null,"state":null,"ttl_seconds":null}"#,
        )
        .unwrap();
        assert!(beat.lease_extended);
    }
}
