//! Every request comes through here.

use super::{
    Endpoint, auth, environments, events, fault,
    reply::{Failure, Reply},
    route::{Route, route},
    sessions, stream, work,
};
use crate::{
    report::Entry,
    scenario::{Drop, StreamFault},
    shared::Shared,
};
use axum::{
    body::Body,
    http::{HeaderValue, Request, Response},
};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// Largest request body: room for results with images and for large-output tests.
const MAX_BODY: usize = 64 << 20;

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped by a fault")]
pub(crate) struct Dropped;

/// A request as handlers see it.
pub(crate) struct Call<'a> {
    pub shared: &'a Arc<Shared>,
    pub route: &'a Route,
    pub credential: auth::Credential,
    pub query: Vec<(String, String)>,
    pub worker: Option<String>,
    pub body: Bytes,
    pub stream_fault: StreamFault,
}

impl Call<'_> {
    /// A query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// The body as JSON; an empty one reads as an empty object.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        if self.body.is_empty() {
            return Ok(Value::Object(Default::default()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|e| Failure::new(400, format!("the body is not JSON: {e}")))
    }
}

pub(crate) async fn entry(
    shared: Arc<Shared>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Dropped> {
    let at = shared.clock.now();
    let (parts, body) = request.into_parts();
    let (number, route) = (
        shared.note(|s| s.next_id()),
        route(&parts.method, parts.uri.path()),
    );
    let request_id = format!("req_{}_{number:06}", shared.tag);
    let decision = match &route {
        Some(route) => shared.note(|state| fault::decide(state, route)),
        None => fault::Decision::default(),
    };
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let mut log = Entry {
        at_ms: at.as_millis() as u64,
        method: parts.method.to_string(),
        path: parts.uri.path().chars().take(200).collect(),
        query: parts.uri.query().map(|q| q.chars().take(200).collect()),
        endpoint: route.as_ref().map(|r| r.endpoint),
        status: None,
        credential: None,
        helper: header("x-stainless-helper"),
        fault: decision.name.clone(),
    };
    let outcome = async {
        if let Some(delay) = decision.delay {
            tokio::time::sleep(shared.clock.scaled(delay)).await;
        }
        if decision.drop == Some(Drop::Before) {
            return Err(Dropped);
        }
        let reply = match (&route, decision.failure) {
            (_, Some(failure)) => Err(failure),
            (None, _) => Err(Failure::new(404, "no such endpoint")),
            (Some(route), None) => match axum::body::to_bytes(Body::new(body), MAX_BODY).await {
                Err(_) => Err(Failure::new(413, "the request is too large or was cut off")),
                Ok(body) => match auth::check(&shared, &parts.headers, route) {
                    Err(failure) => Err(failure),
                    Ok(credential) => {
                        log.credential = Some(credential.name());
                        let query = axum::extract::Query::try_from_uri(&parts.uri)
                            .map(|q| q.0)
                            .unwrap_or_default();
                        let worker = header("anthropic-worker-id");
                        let stream_fault = decision.stream.unwrap_or_default();
                        let call = Call {
                            shared: &shared,
                            route,
                            credential,
                            query,
                            worker,
                            body,
                            stream_fault,
                        };
                        dispatch(call).await
                    }
                },
            },
        };
        if decision.drop == Some(Drop::After) {
            return Err(Dropped);
        }
        let mut response = reply.unwrap_or_else(|failure| failure.into_response(&request_id));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("request-id", value);
        }
        log.status = Some(response.status().as_u16());
        match decision.truncate {
            Some(bytes) => Ok(fault::truncate(response, bytes).await),
            None => Ok(response),
        }
    }
    .await;
    shared.note(|state| state.requests.add(log));
    outcome
}

async fn dispatch(call: Call<'_>) -> Reply {
    use Endpoint::*;
    match call.route.endpoint {
        Poll => work::poll(&call).await,
        Ack => work::ack(&call),
        Heartbeat => work::heartbeat(&call),
        Stop => work::stop(&call),
        WorkStats => work::stats(&call),
        WorkList => work::list(&call),
        WorkGet => work::get(&call),
        WorkUpdate => work::update(&call),
        EnvironmentCreate => environments::create(&call),
        EnvironmentList => environments::list(&call),
        EnvironmentGet => environments::get(&call),
        EnvironmentUpdate => environments::update(&call),
        EnvironmentArchive => environments::archive(&call),
        EnvironmentDelete => environments::delete(&call),
        SessionCreate => sessions::create(&call),
        SessionGet => sessions::get(&call),
        SessionArchive => sessions::archive(&call),
        SessionDelete => sessions::delete(&call),
        EventsList => events::list(&call),
        EventsSend => events::send(&call),
        EventsStream => stream::open(call),
    }
}
