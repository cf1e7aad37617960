//! Sessions without a worker process: a test holds the hands itself, over real guests.

#![allow(clippy::unwrap_used)] // helpers of tests

use crate::data;
use omnirun_ids::{ByteSize, SessionKey};
use omnirun_images::ImageStore;
use omnirun_redact::Guest;
use omnirun_sandboxes::{Engine, EngineConfig, SandboxSize, SnapshotLimits};
use omnirun_sessions::{
    CallOutcome, EnginePlatform, Hands, HandsFactory, Isolation, SessionFactory, SessionsConfig, ToolCall,
};
use omnirun_store::{
    DataDir, Db,
    sessions::{CallState, SessionHash},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// What a worker process has, without the queue protocol.
pub struct Worker {
    engine: Arc<Engine>,
    /// Opens its sessions.
    pub factory: SessionFactory,
}

impl Worker {
    /// Over the shared data folder; `seed` goes into new sessions.
    pub async fn start(isolation: Isolation, seed: Option<PathBuf>) -> Self {
        let dir = DataDir::open(Some(data().to_owned())).unwrap();
        let db = Db::open(&dir).unwrap();
        let engine = Engine::open(EngineConfig {
            data: dir.clone(),
            db: db.clone(),
            vmm: crate::driver().await,
            command: "e2e sessions".to_owned(),
            pool_memory: None,
            network: None,
            snapshots: SnapshotLimits::default(),
            say: Arc::new(|notice| eprintln!("{notice}")),
        })
        .await
        .unwrap();
        let platform = EnginePlatform::new(engine.clone(), ImageStore::open(dir.root()).unwrap());
        let config = SessionsConfig {
            isolation,
            seed,
            size: SandboxSize {
                vcpus: 1,
                memory: ByteSize::mib(256),
            },
            disk: ByteSize::gib(1),
            // Not a share of the disk, which may be nearly full: that has tests of its own.
            floor: Some(ByteSize::mib(512)),
            ..SessionsConfig::new("default".parse().unwrap())
        };
        let factory = SessionFactory::new(config, Arc::new(platform), &db, &dir).unwrap();
        Self { engine, factory }
    }

    /// The hands of a session.
    pub async fn open(&self, key: &SessionKey) -> Box<dyn Hands> {
        self.factory.open(key, &BTreeMap::new()).await.unwrap()
    }

    /// Ends its VMs.
    pub async fn stop(self) {
        let reports = self.engine.shutdown().await;
        assert!(reports.iter().all(|r| r.is_clean()), "{reports:?}");
    }
}

/// A session of this test run alone.
pub fn key(name: &str) -> SessionKey {
    SessionKey {
        origin: "http://e2e".to_owned(),
        environment: "env_e2e".parse().unwrap(),
        session: format!("sesn_{name}_{}", std::process::id()).parse().unwrap(),
    }
}

/// A call of `bash` with an id of its own.
pub fn bash(command: &str) -> ToolCall {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    call(&format!("sevt_{n}"), "bash", &json!({ "command": command }))
}

/// A call.
pub fn call(id: &str, name: &str, input: &serde_json::Value) -> ToolCall {
    ToolCall {
        id: id.parse().unwrap(),
        name: name.to_owned(),
        input: Guest(input.to_string()),
    }
}

/// What the model would read.
pub fn text(outcome: &CallOutcome) -> String {
    let blocks = outcome.content_json();
    blocks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|b| b["text"].as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs a call, posts it as a worker does, and returns what the model would see.
pub async fn run(hands: &mut Box<dyn Hands>, command: &str) -> String {
    run_call(hands, &bash(command)).await
}

/// The same with any call.
pub async fn run_call(hands: &mut Box<dyn Hands>, call: &ToolCall) -> String {
    let outcome = hands.call(call, CancellationToken::new()).await.unwrap();
    eprintln!("{:?} {:?}", outcome.sandbox, outcome.timings);
    hands.posted(&call.id).await.unwrap();
    text(&outcome)
}

/// Waits until a call's tool runs: until its start is in the journal, and then for as long as a guest takes to begin. What
/// a guest does cannot be seen from here.
pub async fn runs(worker: &Worker, key: &SessionKey, call: &str) {
    let hash = SessionHash::of(key);
    let begun = Instant::now();
    let started = || {
        let rows = worker.factory.store().calls(&hash).unwrap_or_default();
        rows.iter()
            .any(|c| c.id.as_str() == call && c.state == CallState::Started)
    };
    while !started() {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "{call} does not start"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
}
