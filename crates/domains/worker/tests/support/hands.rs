//! Hands that do what a call's input says, with a journal like the real ones'.

use async_trait::async_trait;
use omnirun_ids::{ApiId, SessionKey};
use omnirun_redact::Guest;
use omnirun_sessions::{CallOutcome, Hands, HandsError, HandsFactory, Release, ToolCall};
use omnirun_worker::{Observer, WorkerEvent};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct Seen {
    pub opened: Vec<String>,
    pub closed: Vec<(String, Release)>,
    /// Calls whose tool ran, each as often as it did.
    pub ran: Vec<String>,
    /// Inputs, by call.
    pub inputs: HashMap<String, String>,
    pub posted: Vec<String>,
    pub cancelled: Vec<String>,
    pub forgotten: Vec<String>,
    /// Why items ended, as the observer was told.
    pub ended: Vec<&'static str>,
    pub most_at_once: usize,
    now: usize,
    journal: HashMap<String, CallOutcome>,
    started: HashSet<String>,
    held: HashSet<String>,
}

/// Opens fake hands. `held_for`: so many openings find the session held by somebody else.
#[derive(Clone, Default)]
pub struct FakeHands {
    pub seen: Arc<Mutex<Seen>>,
    pub held_for: Arc<Mutex<usize>>,
    pub broken: bool,
}

fn text(text: &str) -> Guest<String> {
    Guest(json!([{"type":"text","text":text}]).to_string())
}

#[async_trait]
impl HandsFactory for FakeHands {
    async fn open(
        &self,
        key: &SessionKey,
        _: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Hands>, HandsError> {
        let session = key.session.to_string();
        let held = || HandsError::Held {
            session: session.clone(),
        };
        {
            let mut left = self.held_for.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return Err(held());
            }
        }
        if self.broken {
            return Err(HandsError::Failed {
                step: "no image".into(),
                source: "none".into(),
            });
        }
        let mut seen = self.seen.lock().unwrap();
        if !seen.held.insert(session.clone()) {
            return Err(held());
        }
        seen.opened.push(session.clone());
        Ok(Box::new(One {
            session,
            seen: self.seen.clone(),
        }))
    }

    async fn forget(&self, key: &SessionKey) -> Result<Vec<String>, HandsError> {
        self.seen.lock().unwrap().forgotten.push(key.session.to_string());
        Ok(Vec::new())
    }
}

impl Observer for FakeHands {
    fn event(&self, event: &WorkerEvent<'_>) {
        if let WorkerEvent::Ended { reason, .. } = event {
            self.seen.lock().unwrap().ended.push(reason);
        }
    }
}

struct One {
    session: String,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for One {
    fn drop(&mut self) {
        self.seen.lock().unwrap().held.remove(&self.session);
    }
}

/// Counts a running tool down even when its future is dropped.
struct Running(Arc<Mutex<Seen>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().unwrap().now -= 1;
    }
}

#[async_trait]
impl Hands for One {
    async fn call(&mut self, call: &ToolCall, cancel: CancellationToken) -> Result<CallOutcome, HandsError> {
        let id = call.id.to_string();
        let input: Value = serde_json::from_str(&call.input.0).unwrap_or_default();
        {
            let mut seen = self.seen.lock().unwrap();
            if let Some(stored) = seen.journal.get(&id) {
                return Ok(stored.clone());
            }
            if !seen.started.insert(id.clone()) {
                let outcome = CallOutcome {
                    is_error: true,
                    content: text("interrupted"),
                    sandbox: None,
                    exit_code: None,
                    timings: vec![],
                };
                seen.journal.insert(id, outcome.clone());
                return Ok(outcome);
            }
            if input["fail"] == true {
                return Err(HandsError::Failed {
                    step: "the VMM did not start".into(),
                    source: "/secret/path".into(),
                });
            }
            if input["unrecorded"] == true {
                return Err(HandsError::Unrecorded("/secret/path".into()));
            }
            seen.ran.push(id.clone());
            seen.inputs.insert(id.clone(), call.input.0.clone());
            seen.now += 1;
            seen.most_at_once = seen.most_at_once.max(seen.now);
        }
        let _running = Running(self.seen.clone());
        let time = Duration::from_millis(input["ms"].as_u64().unwrap_or(0));
        let stubborn = input["stubborn"] == true;
        let said = tokio::select! {
            () = tokio::time::sleep(time) => input["say"].as_str().unwrap_or("done").to_owned(),
            () = cancel.cancelled(), if !stubborn => {
                self.seen.lock().unwrap().cancelled.push(id.clone());
                "partial".to_owned()
            }
        };
        let outcome = CallOutcome {
            is_error: said == "partial",
            content: text(&said),
            sandbox: Some("sbx_0123456789ab".into()),
            exit_code: Some(0),
            timings: vec![("tool", time)],
        };
        self.seen.lock().unwrap().journal.insert(id, outcome.clone());
        Ok(outcome)
    }

    async fn posted(&mut self, call: &ApiId) -> Result<(), HandsError> {
        self.seen.lock().unwrap().posted.push(call.to_string());
        Ok(())
    }

    async fn close(self: Box<Self>, release: Release) -> Result<Vec<String>, HandsError> {
        self.seen
            .lock()
            .unwrap()
            .closed
            .push((self.session.clone(), release));
        Ok(Vec::new())
    }
}
