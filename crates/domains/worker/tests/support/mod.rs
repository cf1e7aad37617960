//! What the worker's tests share: a scripted API, fake hands, and a worker between them at a fast pace.
#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    clippy::type_complexity
)] // Each test takes a part.

pub mod api;
mod endpoints;
pub mod hands;

pub use api::{Api, KEY, Reply, item};
pub use hands::FakeHands;
use omnirun_redact::Secret;
use omnirun_work_client::{Client, ClientConfig, Limits};
use omnirun_work_proto::LeaseRules;
use omnirun_worker::{Exit, ItemConfig, Shutdown, Timing, WindDown, WorkerConfig};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

pub const PACE: f64 = 0.1;

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn timing() -> Timing {
    Timing {
        // Beats every 50 ms whatever the lease time says.
        lease: LeaseRules {
            assumed_ttl: ms(10_000),
            first_interval: ms(50),
            min_interval: ms(50),
            max_interval: ms(50),
        },
        stopping: WindDown {
            serve_on: false,
            tool: ms(400),
            post: ms(2000),
            total: ms(5000),
        },
        cancel: ms(500),
        held: ms(600),
        held_every: ms(50),
        close: ms(2000),
        stop: ms(2000),
        pace: PACE,
    }
}

fn client(api: &Api, pace: f64) -> Client {
    Client::new(ClientConfig {
        base: api.url.parse().unwrap(),
        user_agent: "omnirun/test".into(),
        limits: Limits {
            pace,
            ..Limits::default()
        },
    })
    .unwrap()
}

/// A worker that runs, its doors, its hands.
pub struct Running {
    pub task: JoinHandle<Exit>,
    pub shutdown: Shutdown,
    pub hands: FakeHands,
}

pub struct Setup {
    pub hands: FakeHands,
    pub max_idle: Option<Duration>,
    pub max_sessions: usize,
    pub drain: bool,
    pub timing: Timing,
    pub wind_down: WindDown,
    pub key: Option<&'static str>,
    /// The pace of the pauses between a request's tries.
    pub transport_pace: f64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            hands: FakeHands::default(),
            max_idle: Some(ms(200)),
            max_sessions: 8,
            drain: false,
            timing: timing(),
            wind_down: WindDown {
                serve_on: true,
                tool: ms(600),
                post: ms(1000),
                total: ms(3000),
            },
            key: Some(KEY),
            transport_pace: PACE,
        }
    }
}

impl Setup {
    pub fn item_config(&self, api: &Api) -> Arc<ItemConfig> {
        Arc::new(ItemConfig {
            client: client(api, self.transport_pace),
            environment: "env_1".parse().unwrap(),
            key: self.key.map(Secret::new),
            hands: Arc::new(self.hands.clone()),
            max_idle: self.max_idle,
            timing: self.timing,
            wind_down: self.wind_down,
            observer: Arc::new(self.hands.clone()),
        })
    }

    pub fn start(self, api: &Api) -> Running {
        let config = Arc::new(WorkerConfig {
            item: self.item_config(api),
            key: Secret::new(KEY),
            worker_id: "worker-1".into(),
            max_sessions: self.max_sessions,
            drain: self.drain,
        });
        let shutdown = Shutdown::new();
        let doors = shutdown.clone();
        let task = tokio::spawn(async move { omnirun_worker::run(&config, &doors).await });
        Running {
            task,
            shutdown,
            hands: self.hands,
        }
    }
}

impl Running {
    /// Ends the worker and gives its hands' record.
    pub async fn end(self) -> (Exit, FakeHands) {
        self.shutdown.wind_down();
        let exit = tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the worker ends");
        (exit.unwrap(), self.hands)
    }

    /// Waits for it to end by itself.
    pub async fn ended(self) -> (Exit, FakeHands) {
        let exit = tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the worker ends");
        (exit.unwrap(), self.hands)
    }
}

pub fn call(id: &str, name: &str, input: Value) -> Value {
    json!({"type":"agent.tool_use","id":id,"name":name,"input":input,"evaluated_permission":"allow","session_thread_id":null})
}

pub fn idle(reason: &str) -> Value {
    json!({"type":"session.status_idle","id":"sevt_idle","stop_reason":{"type":reason}})
}
