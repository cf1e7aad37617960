//! What the double's endpoints do: the scripted reply, or the ordinary one.

use super::api::{Api, Asked, Endpoint, Inner, Reply, Session};
use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::{collections::VecDeque, time::Instant};

pub fn emit(session: &mut Session, event: Value) {
    let frame = format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    session.log.push(event);
    let _ = session.live().send(Some(frame.into_bytes()));
}

fn answer(status: u16, body: Value) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn error(status: u16) -> Response {
    answer(
        status,
        json!({"type":"error","error":{"type":"some_error","message":"scripted"},"request_id":"req_1"}),
    )
}

/// A body that breaks off: the client sees a dropped connection.
fn broken() -> Response {
    let body = stream::iter([
        Ok::<_, std::io::Error>(Bytes::new()),
        Err(std::io::Error::other("dropped")),
    ]);
    Response::builder()
        .header("content-length", "100")
        .body(Body::from_stream(body))
        .unwrap()
}

fn endpoint(path: &str) -> Option<Endpoint> {
    let segments: Vec<&str> = path.strip_prefix("/prefix/v1/")?.split('/').collect();
    Some(match segments[..] {
        ["environments", "env_1", "work", "poll"] => "poll",
        ["environments", "env_1", "work", _, "ack"] => "ack",
        ["environments", "env_1", "work", _, "heartbeat"] => "heartbeat",
        ["environments", "env_1", "work", _, "stop"] => "stop",
        ["sessions", _] => "session",
        ["sessions", _, "events"] => "list",
        ["sessions", _, "events", "stream"] => "stream",
        _ => return None,
    })
}

pub async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 30).await.unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let Some(mut endpoint) = endpoint(&path) else {
        return error(404);
    };
    if endpoint == "list" && parts.method == "POST" {
        endpoint = "send";
    }
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let response = {
        let mut inner = api.lock();
        inner.asked.push(Asked {
            endpoint,
            path: path.clone(),
            query: query.clone(),
            headers: parts.headers,
            body: body.clone(),
            at: Instant::now(),
        });
        let scripted = inner.script.get_mut(endpoint).and_then(VecDeque::pop_front);
        let reply = scripted
            .or_else(|| inner.always.get(endpoint).cloned())
            .unwrap_or(Reply::Normal);
        let reply = match (reply, &mut inner.chaos) {
            (Reply::Normal, Some(chaos)) => chaos(endpoint),
            (reply, _) => reply,
        };
        match reply {
            Reply::Normal => normal(&mut inner, endpoint, &path, &query, &body),
            Reply::Lost => {
                normal(&mut inner, endpoint, &path, &query, &body);
                inner.beats_before.clear();
                broken()
            }
            Reply::Status(status) => error(status),
            Reply::Json(status, body) => answer(status, body),
            Reply::Bytes(bytes) => Response::new(Body::from(bytes)),
        }
    };
    api.changed.notify_waiters();
    response
}

fn normal(inner: &mut Inner, endpoint: Endpoint, path: &str, query: &str, body: &[u8]) -> Response {
    let segments: Vec<&str> = path.split('/').collect();
    match endpoint {
        "poll" => answer(200, inner.queue.pop_front().unwrap_or(Value::Null)),
        "ack" => answer(200, json!({})),
        "heartbeat" => {
            let work = segments[6].to_owned();
            let state = inner.states.get(&work).copied().unwrap_or("active");
            let sent = query
                .strip_prefix("expected_last_heartbeat=")
                .unwrap()
                .replace("%3A", ":");
            let stored = inner.beats.get(&work).cloned().unwrap_or("NO_HEARTBEAT".into());
            let given_up = inner.beats_before.get(&work) == Some(&sent);
            if sent != stored && !given_up && state == "active" {
                return error(412);
            }
            inner.beats_before.insert(work.clone(), stored);
            inner.n += 1;
            let value = format!("2026-11-02T09:00:32.{:06}Z", inner.n);
            inner.beats.insert(work, value.clone());
            answer(
                200,
                json!({"type":"work_heartbeat","last_heartbeat":value,"lease_extended":true,"state":state,"ttl_seconds":inner.ttl}),
            )
        }
        "stop" => {
            inner.states.insert(segments[6].to_owned(), "stopped");
            Response::builder()
                .status(StatusCode::NO_CONTENT)
                .body(Body::empty())
                .unwrap()
        }
        "session" => match inner.sessions.get(segments[4]) {
            Some(session) => answer(200, session.object.clone()),
            None => error(404),
        },
        "list" => {
            let log = &inner.sessions[segments[4]].log;
            // Two pages, so that paging is always part of the test.
            let half = log.len().div_ceil(2);
            if query.contains("page=second") {
                answer(200, json!({"data": &log[half..], "next_page": null}))
            } else {
                answer(200, json!({"data": &log[..half], "next_page": "second"}))
            }
        }
        "send" => {
            let events: Value = serde_json::from_slice(body).unwrap();
            let id = segments[4].to_owned();
            let mut event = events["events"][0].clone();
            inner.n += 1;
            event["id"] = json!(format!("sevt_result_{}", inner.n));
            let more = match &mut inner.on_result {
                Some(hook) => hook(&id, &event),
                None => Vec::new(),
            };
            let session = inner.sessions.get_mut(&id).unwrap();
            emit(session, event.clone());
            more.into_iter().for_each(|e| emit(session, e));
            answer(200, json!({"data":[event]}))
        }
        "stream" => {
            let live = inner.sessions.get_mut(segments[4]).unwrap().live().subscribe();
            let frames = stream::unfold(live, |mut live| async move {
                match live.recv().await {
                    Ok(Some(frame)) => Some((Ok::<_, std::io::Error>(Bytes::from(frame)), live)),
                    _ => None,
                }
            });
            let hello = stream::once(async { Ok(Bytes::from_static(b": hello\n\n")) });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::from_stream(hello.chain(frames)))
                .unwrap()
        }
        _ => unreachable!(),
    }
}
