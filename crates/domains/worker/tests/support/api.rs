//! A small double of Anthropic's side that does what it is told, one reply at a time, and keeps what it was asked.

use super::endpoints::{emit, handle};
use axum::{Router, body::Bytes, http::HeaderMap};
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
    pub fn live(&mut self) -> broadcast::Sender<Option<Vec<u8>>> {
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
    /// The value before that. It is taken too: on a busy machine a worker may give a beat up before its answer comes.
    pub beats_before: HashMap<String, String>,
    pub states: HashMap<String, &'static str>,
    pub ttl: u64,
    pub n: u64,
    /// Chooses a fault for a request, if any.
    pub chaos: Option<Box<dyn FnMut(Endpoint) -> Reply + Send>>,
    /// Hears of each result that arrived.
    pub on_result: Option<Box<dyn FnMut(&str, &Value) -> Vec<Value> + Send>>,
}

impl Inner {
    /// How often an endpoint was asked.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.asked.iter().filter(|a| a.endpoint == endpoint).count()
    }
}

#[derive(Clone)]
pub struct Api {
    inner: Arc<Mutex<Inner>>,
    pub changed: Arc<Notify>,
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
        self.lock().count(endpoint)
    }

    /// The endpoints that were asked, in order.
    pub fn order(&self) -> Vec<Endpoint> {
        self.lock().asked.iter().map(|a| a.endpoint).collect()
    }

    /// The pauses between the requests to an endpoint, in seconds of the protocol's.
    pub fn pauses(&self, endpoint: Endpoint) -> Vec<f64> {
        let inner = self.lock();
        let of = inner.asked.iter().filter(|a| a.endpoint == endpoint);
        let times: Vec<Instant> = of.map(|a| a.at).collect();
        times
            .windows(2)
            .map(|w| (w[1] - w[0]).as_secs_f64() / super::PACE)
            .collect()
    }

    /// Waits until an item has been stopped.
    pub async fn until_stopped(&self) {
        self.until("a stop", |i| i.count("stop") > 0).await;
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
