//! Which endpoint a request is for.

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// An endpoint, as scenarios name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `GET …/work/poll`
    Poll,
    /// `POST …/work/{id}/ack`
    Ack,
    /// `POST …/work/{id}/heartbeat`
    Heartbeat,
    /// `POST …/work/{id}/stop`
    Stop,
    /// `GET …/work/stats`
    WorkStats,
    /// `GET …/work`
    WorkList,
    /// `GET …/work/{id}`
    WorkGet,
    /// `POST …/work/{id}`
    WorkUpdate,
    /// `POST /v1/environments`
    EnvironmentCreate,
    /// `GET /v1/environments`
    EnvironmentList,
    /// `GET /v1/environments/{id}`
    EnvironmentGet,
    /// `POST /v1/environments/{id}`
    EnvironmentUpdate,
    /// `POST /v1/environments/{id}/archive`
    EnvironmentArchive,
    /// `DELETE /v1/environments/{id}`
    EnvironmentDelete,
    /// `POST /v1/sessions`
    SessionCreate,
    /// `GET /v1/sessions/{id}`
    SessionGet,
    /// `POST /v1/sessions/{id}/archive`
    SessionArchive,
    /// `DELETE /v1/sessions/{id}`
    SessionDelete,
    /// `GET /v1/sessions/{id}/events`
    EventsList,
    /// `POST /v1/sessions/{id}/events`
    EventsSend,
    /// `GET /v1/sessions/{id}/events/stream`
    EventsStream,
}

/// A request's endpoint and the ids in its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub endpoint: Endpoint,
    /// The environment's or the session's id.
    pub id: String,
    pub work: String,
}

/// Finds it.
pub(crate) fn route(method: &Method, path: &str) -> Option<Route> {
    use Endpoint::*;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (get, post, delete) = (
        method == Method::GET,
        method == Method::POST,
        method == Method::DELETE,
    );
    let (endpoint, id, work) = match parts.as_slice() {
        ["v1", "environments"] if post => (EnvironmentCreate, "", ""),
        ["v1", "environments"] if get => (EnvironmentList, "", ""),
        ["v1", "environments", id] if get => (EnvironmentGet, *id, ""),
        ["v1", "environments", id] if post => (EnvironmentUpdate, *id, ""),
        ["v1", "environments", id] if delete => (EnvironmentDelete, *id, ""),
        ["v1", "environments", id, "archive"] if post => (EnvironmentArchive, *id, ""),
        ["v1", "environments", id, "work"] if get => (WorkList, *id, ""),
        ["v1", "environments", id, "work", "poll"] if get => (Poll, *id, ""),
        ["v1", "environments", id, "work", "stats"] if get => (WorkStats, *id, ""),
        ["v1", "environments", id, "work", work] if get => (WorkGet, *id, *work),
        ["v1", "environments", id, "work", work] if post => (WorkUpdate, *id, *work),
        ["v1", "environments", id, "work", work, "ack"] if post => (Ack, *id, *work),
        ["v1", "environments", id, "work", work, "heartbeat"] if post => (Heartbeat, *id, *work),
        ["v1", "environments", id, "work", work, "stop"] if post => (Stop, *id, *work),
        ["v1", "sessions"] if post => (SessionCreate, "", ""),
        ["v1", "sessions", id] if get => (SessionGet, *id, ""),
        ["v1", "sessions", id] if delete => (SessionDelete, *id, ""),
        ["v1", "sessions", id, "archive"] if post => (SessionArchive, *id, ""),
        ["v1", "sessions", id, "events"] if get => (EventsList, *id, ""),
        ["v1", "sessions", id, "events"] if post => (EventsSend, *id, ""),
        ["v1", "sessions", id, "events", "stream"] if get => (EventsStream, *id, ""),
        _ => return None,
    };
    Some(Route {
        endpoint,
        id: id.to_owned(),
        work: work.to_owned(),
    })
}
