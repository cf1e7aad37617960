//! One guest that is served: its policy, what it has going, what it may use.
//!
//! ```text
//!   listeners --> connections --> flows --admit--> policy
//!                                      <--cut----- update
//! ```
//!
//! Everything that a guest can use up is counted here, per guest: connections, connections being set up, lookups, threads
//! ([`super::lanes`]), places for audit lines, new flows a second. So what one uses up, it alone waits for.

use super::{
    answers::Answers,
    events::Slot,
    flow::{Shared as FlowShared, Subject},
    lanes::Lanes,
    meter::{self, Bucket, Meters, Way},
    names::Names,
    process::Process,
};
use crate::{Caps, Metrics};
use omnirun_egress_policy::{AuditLine, Decision, Policy, Reason, Verdict};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Flows that a guest may begin in a second, once it has begun as many as it may have connections. It bounds the audit log
/// to some 300 KiB a second.
const FLOWS_PER_SECOND: u64 = 1000;
/// Places for lines beyond those of the connections that there may be: for what is done already and not read yet.
const MORE_SLOTS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) id: u64,
    pub(super) caps: Caps,
    pub(super) process: Arc<Process>,
    pub(super) names: Names,
    pub(super) answers: Answers,
    pub(super) connections: Arc<Semaphore>,
    pub(super) setups: Arc<Semaphore>,
    pub(super) lookups: Arc<Semaphore>,
    pub(super) queries: Mutex<Bucket>,
    /// Where all of it runs.
    pub(super) lanes: Lanes,
    /// The guest is let go.
    pub(super) end: CancellationToken,
    begins: Mutex<Bucket>,
    slots: Arc<Semaphore>,
    state: Mutex<State>,
    /// Counts the policies.
    changed: watch::Sender<u64>,
    emptied: Notify,
    counted: Counted,
}

#[derive(Debug)]
struct State {
    policy: Arc<Policy>,
    flows: HashMap<u64, (Subject, Arc<FlowShared>)>,
    last: u64,
    meters: Meters,
}

#[derive(Debug, Default)]
struct Counted {
    passed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    queries: AtomicU64,
    dropped: AtomicU64,
}

impl Guest {
    /// Its lanes are run by these tasks.
    pub(super) fn new(
        id: u64,
        policy: Policy,
        caps: Caps,
        process: Arc<Process>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let per_second = caps.queries_per_second.into();
        Arc::new(Self {
            id,
            names: Names::new(Arc::clone(&process)),
            answers: Answers::default(),
            connections: Arc::new(Semaphore::new(caps.connections)),
            setups: Arc::new(Semaphore::new(caps.setups)),
            lookups: Arc::new(Semaphore::new(caps.lookups)),
            queries: Mutex::new(Bucket::new(per_second, 4 * per_second)),
            lanes: Lanes::new(process.lanes, &process.crowd, tasks),
            end: CancellationToken::new(),
            begins: Mutex::new(Bucket::new(FLOWS_PER_SECOND, caps.connections as u64)),
            slots: Arc::new(Semaphore::new(caps.connections + MORE_SLOTS)),
            state: Mutex::new(State {
                policy: Arc::new(policy),
                flows: HashMap::new(),
                last: 0,
                meters: Meters::default(),
            }),
            changed: watch::Sender::new(0),
            emptied: Notify::new(),
            counted: Counted::default(),
            caps,
            process,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy in force.
    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state().policy)
    }

    /// Follows its changes.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until it may begin a flow; nothing if it is being let go, when nobody reads lines of it any more.
    pub(super) async fn may_begin(&self) -> Option<Slot> {
        meter::one(&self.begins).await;
        tokio::select! {
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
            () = self.end.cancelled() => None,
        }
    }

    /// Decides on a flow; on yes it has a number.
    pub(super) fn admit(&self, subject: Subject, flow: &Arc<FlowShared>) -> (Decision, Option<u64>) {
        let mut state = self.state();
        let mut decision = subject.decide(&state.policy);
        if self.end.is_cancelled() {
            decision.verdict = Verdict::Deny;
            decision.reason = Reason::Changed;
        }
        if !decision.allows() {
            return (decision, None);
        }
        let Some(shares) = state.meters.shares(&decision.limits, false) else {
            decision.verdict = Verdict::Deny;
            decision.reason = Reason::Limit;
            return (decision, None);
        };
        flow.set_shares(shares);
        state.last += 1;
        let number = state.last;
        state.flows.insert(number, (subject, Arc::clone(flow)));
        (decision, Some(number))
    }

    /// Puts another policy in force. When this returns nothing is open that it does not allow.
    pub(super) async fn update(&self, policy: Policy) {
        let cut = {
            let mut state = self.state();
            state.policy = Arc::new(policy);
            let State {
                policy,
                flows,
                meters,
                ..
            } = &mut *state;
            let mut cut = Vec::new();
            for (subject, flow) in flows.values() {
                let decision = subject.decide(policy);
                match decision.allows() {
                    // Under the bounds that hold now.
                    true => {
                        if let Some(shares) = meters.shares(&decision.limits, true) {
                            flow.set_shares(shares);
                        }
                    }
                    false => {
                        flow.cut.cancel();
                        cut.push(flow.ended.clone());
                    }
                }
            }
            cut
        };
        self.changed.send_modify(|count| *count += 1);
        for ended in cut {
            ended.cancelled().await;
        }
    }

    /// Ends everything. When this returns no flow is open.
    pub(super) async fn let_go(&self) {
        self.end.cancel();
        for (_, flow) in self.state().flows.values() {
            flow.cut.cancel();
        }
        loop {
            let emptied = self.emptied.notified();
            if self.state().flows.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// A flow has ended.
    pub(super) fn ended(&self, admitted: Option<u64>, verdict: Verdict, reason: Reason) {
        if let Some(number) = admitted {
            let mut state = self.state();
            state.flows.remove(&number);
            if state.flows.is_empty() {
                self.emptied.notify_one();
            }
        }
        let counter = match (verdict, reason) {
            (Verdict::Deny, _) => &self.counted.refused,
            (_, Reason::NoAddress | Reason::Unreachable | Reason::TimedOut | Reason::Failed) => {
                &self.counted.failed
            }
            _ => &self.counted.passed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn audit(&self, line: AuditLine, slot: Slot) {
        self.process.events.audit(self.id, line, slot);
    }

    pub(super) fn count_bytes(&self, way: Way, bytes: u64) {
        let counter = match way {
            Way::Up => &self.counted.up,
            Way::Down => &self.counted.down,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether one more DNS query may be looked at.
    pub(super) fn may_query(&self) -> bool {
        self.counted.queries.fetch_add(1, Ordering::Relaxed);
        let may = self
            .queries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_one();
        if !may {
            self.counted.dropped.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    pub(super) fn metrics(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            open: (self.caps.connections - self.connections.available_permits()) as u64,
            passed: read(&self.counted.passed),
            refused: read(&self.counted.refused),
            failed: read(&self.counted.failed),
            bytes_up: read(&self.counted.up),
            bytes_down: read(&self.counted.down),
            queries: read(&self.counted.queries),
            queries_dropped: read(&self.counted.dropped),
        }
    }
}

#[cfg(test)]
mod tests;
