//! The state that all handlers and scripts share: one lock, never held across an await, and one counter that tells
//! waiters to look again.

use crate::{
    audit::Audit,
    clock::Clock,
    report::RequestLog,
    scenario::Scenario,
    server::FaultPlan,
    session::Session,
    work::{Claim, Environment, WorkItem, WorkKind, item::Item},
};
use serde_json::Map;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State {
    pub environments: BTreeMap<String, Environment>,
    /// In the order of creation: ids are numbered.
    pub items: Vec<WorkItem>,
    pub sessions: BTreeMap<String, Session>,
    /// Sessions tokens, to the item's index and the claim's.
    pub tokens: BTreeMap<String, (usize, usize)>,
    pub faults: FaultPlan,
    pub audit: Audit,
    pub requests: RequestLog,
    /// Scripts that have not ended.
    pub running: usize,
    next_id: u64,
}

/// The handle that everything holds.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    pub clock: Clock,
    pub scenario: Scenario,
    pub tag: String,
    pub organization_key: String,
    pub shutdown: CancellationToken,
}

impl Shared {
    pub(crate) fn new(scenario: Scenario) -> Arc<Shared> {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let tag = scenario
            .id_tag
            .clone()
            .unwrap_or_else(|| random()[..6].to_owned());
        let keys = &scenario.keys;
        let organization_key = keys
            .organization
            .clone()
            .unwrap_or_else(|| format!("sk-ant-api03-{}", random()));
        let key = keys
            .environment
            .clone()
            .unwrap_or_else(|| format!("sk-ant-oat01-{}", random()));
        let environment = Environment {
            id: format!("env_{tag}"),
            key,
            name: scenario.name.clone(),
            description: None,
            metadata: Map::new(),
            created: Duration::ZERO,
            updated: Duration::ZERO,
            archived: None,
            pollers: BTreeMap::new(),
        };
        let state = State {
            environments: BTreeMap::from([(environment.id.clone(), environment)]),
            items: Vec::new(),
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            faults: FaultPlan::new(&scenario),
            audit: Audit::default(),
            requests: RequestLog::default(),
            running: 0,
            next_id: 0,
        };
        Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            clock: Clock::new(scenario.clock_scale),
            scenario,
            tag,
            organization_key,
            shutdown: CancellationToken::new(),
        })
    }

    /// The environment that the scenario's sessions live in.
    pub(crate) fn environment_id(&self) -> String {
        format!("env_{}", self.tag)
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and wakes everyone who waits for a change.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Changes what nobody waits for.
    pub(crate) fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a look at the state gives something. Cancel-safe: a look changes nothing.
    pub(crate) async fn wait<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed();
        loop {
            changed.borrow_and_update();
            if let Some(found) = self.read(&mut look) {
                return found;
            }
            if changed.changed().await.is_err() {
                // The sender lives in self, so this cannot be.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A waiter's end of the change counter.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A stamp for clients.
    pub(crate) fn stamp(&self, at: Duration) -> String {
        self.clock.stamp(at)
    }
}

impl State {
    /// A number that no other id of this run has.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A session that a script runs. Sessions are never removed from the table, so its script finds it.
    pub(crate) fn session(&mut self, id: &str) -> &mut Session {
        self.sessions
            .entry(id.to_owned())
            .or_insert_with(|| Session::new(id.to_owned(), id.to_owned(), String::new(), Duration::ZERO))
    }

    /// Queues an item.
    pub(crate) fn queue(
        &mut self,
        shared: &Shared,
        environment: &str,
        kind: WorkKind,
        subject: &str,
    ) -> usize {
        let number = self.next_id();
        self.items.push(WorkItem {
            id: format!("work_{}_{number:04}", shared.tag),
            environment: environment.to_owned(),
            kind,
            subject: subject.to_owned(),
            created: shared.clock.now(),
            metadata: Map::new(),
            machine: Item::new(Duration::from_secs(shared.scenario.queue.ttl_seconds)),
            claims: Vec::new(),
        });
        self.items.len() - 1
    }

    /// The item that a worker may be serving a session under, if any is live.
    pub(crate) fn live_item(&self, session: &str) -> Option<usize> {
        self.items
            .iter()
            .position(|i| i.subject == session && i.machine.is_live())
    }

    /// Queues an item for a session that has none. True when it did.
    pub(crate) fn ensure_item(&mut self, shared: &Shared, session: &str) -> bool {
        if self.live_item(session).is_some() {
            return false;
        }
        let Some(environment) = self.sessions.get(session).map(|s| s.environment.clone()) else {
            return false;
        };
        self.queue(shared, &environment, WorkKind::Session, session);
        true
    }

    /// Lets overdue leases end.
    pub(crate) fn expire(&mut self, now: Duration) -> bool {
        let mut any = false;
        for item in &mut self.items {
            if item.machine.expire(now) {
                any = true;
                item.lose();
            }
        }
        any
    }

    /// The claim that a token belongs to.
    pub(crate) fn claim(&self, token: &str) -> Option<(&WorkItem, &Claim)> {
        let (item, claim) = *self.tokens.get(token)?;
        Some((&self.items[item], &self.items[item].claims[claim]))
    }

    /// Items that workers hold right now.
    pub(crate) fn held(&self) -> usize {
        self.items.iter().filter(|i| i.machine.is_held()).count()
    }

    /// Whether scripts have ended and no item is left.
    pub(crate) fn is_done(&self) -> bool {
        self.running == 0 && self.items.iter().all(|i| !i.machine.is_live())
    }
}
