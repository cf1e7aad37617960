//! A small double of Anthropic's side that does what it is told, one reply at a time, and keeps what it was asked.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, broadcast};

pub const KEY: &str = "sk-ant-oat01-the-environment-key";

/// An endpoint, by the end of its path.
pub type Endpoint = &'static str;
pub const ENDPOINTS: [Endpoint; 8] = [
    "poll",
    "ack",
    "heartbeat",
    "stop",
    "stream",
    "list",
    "send",
    "session",
];

/// A scripted reply.
#[derive(Clone)]
pub enum Reply {
    /// What the endpoint does anyway.
    Normal,
    Status(u16),
    Json(u16, Value),
    Bytes(Vec<u8>),
    /// Does what the endpoint does, and closes the connection without an answer.
    Lost,
}

pub struct Asked {
    pub endpoint: Endpoint,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Asked {
    pub fn bearer(&self) -> &str {
        self.headers["authorization"]
            .to_str()
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
pub struct Session {
    pub object: Value,
    pub log: Vec<Value>,
    live: Option<broadcast::Sender<Option<Vec<u8>>>>,
}

impl Session {
    fn live(&mut self) -> broadcast::Sender<Option<Vec<u8>>> {
        self.live
            .get_or_insert_with(|| broadcast::channel(10_000).0)
            .clone()
    }
    /// Ids of calls with a result, each as often as it has one.
    pub fn answered(&self) -> Vec<String> {
        self.log
            .iter()
            .filter(|e| e["type"] == "user.tool_result" || e["type"] == "user.custom_tool_result")
            .map(|e| {
                e["tool_use_id"]
                    .as_str()
                    .or(e["custom_tool_use_id"].as_str())
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }
}

#[derive(Default)]
pub struct Inner {
    pub queue: VecDeque<Value>,
    pub asked: Vec<Asked>,
    pub script: HashMap<Endpoint, VecDeque<Reply>>,
    /// After the script: always this.
    pub always: HashMap<Endpoint, Reply>,
    pub sessions: HashMap<String, Session>,
    pub beats: HashMap<String, String>,
    pub states: HashMap<String, &'static str>,
    pub ttl: u64,
    n: u64,
    /// Chooses a fault for a request, if any.
    pub chaos: Option<Box<dyn FnMut(Endpoint) -> Reply + Send>>,
    /// Hears of each result that arrived.
    pub on_result: Option<Box<dyn FnMut(&str, &Value) -> Vec<Value> + Send>>,
}

#[derive(Clone)]
pub struct Api {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
    pub url: String,
}

impl Api {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            inner: Arc::new(Mutex::new(Inner {
                ttl: 60,
                ..Inner::default()
            })),
            changed: Arc::new(Notify::new()),
            url: format!("http://{}/prefix", listener.local_addr().unwrap()),
        };
        let app = Router::new().fallback(handle).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        api
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn script(&self, endpoint: Endpoint, replies: impl IntoIterator<Item = Reply>) {
        assert!(ENDPOINTS.contains(&endpoint));
        self.lock().script.entry(endpoint).or_default().extend(replies);
    }

    pub fn always(&self, endpoint: Endpoint, reply: Reply) {
        assert!(ENDPOINTS.contains(&endpoint));
        self.lock().always.insert(endpoint, reply);
    }

    /// A session that runs, and an item for it.
    pub fn session(&self, n: usize, log: impl IntoIterator<Item = Value>) {
        let mut inner = self.lock();
        let id = format!("sesn_{n}");
        let object = json!({"type":"session","id":id,"status":"running","metadata":{},"resources":[],"agent":{"skills":[]}});
        inner.sessions.insert(
            id.clone(),
            Session {
                object,
                log: log.into_iter().collect(),
                live: None,
            },
        );
        inner.queue.push_back(item(n, None));
    }

    /// Emits an event: into the history and to whoever streams.
    pub fn emit(&self, n: usize, event: Value) {
        let mut inner = self.lock();
        let session = inner.sessions.get_mut(&format!("sesn_{n}")).unwrap();
        emit(session, event);
    }

    /// Sends bytes to whoever streams, and nothing into the history.
    pub fn emit_raw(&self, n: usize, frame: &[u8]) {
        let mut inner = self.lock();
        let live = inner.sessions.get_mut(&format!("sesn_{n}")).unwrap().live();
        let _ = live.send(Some(frame.to_vec()));
    }

    /// Ends the open streams of a session.
    pub fn close_streams(&self, n: usize) {
        let mut inner = self.lock();
        let live = inner.sessions.get_mut(&format!("sesn_{n}")).unwrap().live();
        let _ = live.send(None);
    }

    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.lock()
            .asked
            .iter()
            .filter(|a| a.endpoint == endpoint)
            .count()
    }

    /// The endpoints that were asked, in order.
    pub fn order(&self) -> Vec<Endpoint> {
        self.lock().asked.iter().map(|a| a.endpoint).collect()
    }

    pub fn times(&self, endpoint: Endpoint) -> Vec<Instant> {
        self.lock()
            .asked
            .iter()
            .filter(|a| a.endpoint == endpoint)
            .map(|a| a.at)
            .collect()
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Inner) -> bool) {
        self.within(Duration::from_secs(20), what, &mut holds).await;
    }

    pub async fn within(&self, bound: Duration, what: &str, mut holds: impl FnMut(&Inner) -> bool) {
        let deadline = tokio::time::Instant::now() + bound;
        loop {
            let changed = self.changed.notified();
            if holds(&self.lock()) {
                return;
            }
            // Some conditions hold by the passing of time, so a look now and then is part of the wait.
            let look = deadline.min(tokio::time::Instant::now() + Duration::from_millis(50));
            let _ = tokio::time::timeout_at(look, changed).await;
            if tokio::time::Instant::now() >= deadline {
                let asked = self.order();
                panic!("not within {bound:?}: {what}; asked: {asked:?}");
            }
        }
    }
}

pub fn item(n: usize, secret: Option<&str>) -> Value {
    json!({"type":"work","id":format!("work_{n}"),"environment_id":"env_1","state":"queued",
        "data":{"type":"session","id":format!("sesn_{n}")},"metadata":{},"secret":secret,
        "created_at":"2026-11-02T09:00:01Z","acknowledged_at":null,"started_at":null,
        "latest_heartbeat_at":null,"stop_requested_at":null,"stopped_at":null})
}

fn emit(session: &mut Session, event: Value) {
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

async fn handle(State(api): State<Api>, request: Request) -> Response {
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
            if sent != stored && state == "active" {
                return error(412);
            }
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
