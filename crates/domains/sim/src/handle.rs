//! Starting a simulator, and what its owner can ask of it.

use crate::{
    report::{self, Report},
    scenario::{Fault, Scenario},
    server,
    session::{Session, script},
    shared::Shared,
    work::WorkKind,
};
use serde_json::Value;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The simulator.
pub struct Sim;

/// A running simulator. Dropping it ends it.
pub struct SimHandle {
    shared: Arc<Shared>,
    addr: SocketAddr,
    tasks: JoinSet<()>,
}

impl Sim {
    /// Starts one on an address; port 0 picks one. The scripts begin at once, so what they put into the queue waits for
    /// the first worker.
    pub async fn start(scenario: Scenario, addr: SocketAddr) -> Result<SimHandle, StartError> {
        let listen = |source| StartError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let shared = Shared::new(scenario);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(shared.clone(), listener));
        tasks.spawn(leases(shared.clone()));
        for spec in shared.scenario.sessions.iter().filter(|s| !s.on_create).cloned() {
            shared.update(|state| state.running += 1);
            let shared = shared.clone();
            tasks.spawn(async move {
                tokio::time::sleep(shared.clock.scaled(spec.start_after)).await;
                let id = create(&shared, &spec);
                script::run(shared, spec, id).await;
            });
        }
        for check in shared.scenario.healthchecks.clone() {
            shared.update(|state| state.running += 1);
            let shared = shared.clone();
            tasks.spawn(async move {
                tokio::time::sleep(shared.clock.scaled(check.after)).await;
                shared.update(|state| {
                    let subject = format!("hc_{}_{}", shared.tag, state.next_id());
                    state.queue(&shared, &shared.environment_id(), WorkKind::Healthcheck, &subject);
                    state.running -= 1;
                });
            });
        }
        Ok(SimHandle { shared, addr, tasks })
    }
}

fn create(shared: &Shared, spec: &crate::scenario::SessionSpec) -> String {
    let id = format!("sesn_{}_{}", shared.tag, spec.name);
    let now = shared.clock.now();
    let mut session = Session::new(id.clone(), spec.name.clone(), shared.environment_id(), now);
    session.metadata = spec
        .metadata
        .iter()
        .map(|(k, v)| (k.clone(), Value::String(v.clone())))
        .collect();
    session.overlay = spec.session_override.clone();
    session.scripted = true;
    shared.update(|state| state.sessions.insert(id.clone(), session));
    id
}

/// Ends leases when they are due, so that the queue moves without anybody asking.
async fn leases(shared: Arc<Shared>) {
    loop {
        let mut changed = shared.changed();
        changed.borrow_and_update();
        let now = shared.clock.now();
        if shared.note(|state| state.expire(now)) {
            shared.update(|_| ());
            continue;
        }
        let next = shared.read(|state| state.items.iter().filter_map(|i| i.machine.deadline()).min());
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(shared.clock.instant(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Both only wake the loop.
            _ = changed.changed() => {}
            () = due => {}
            () = shared.shutdown.cancelled() => return,
        }
    }
}

impl SimHandle {
    /// `http://…`, to be given as the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The environment's id.
    pub fn environment_id(&self) -> String {
        self.shared.environment_id()
    }

    /// The environment's key.
    pub fn environment_key(&self) -> String {
        let id = self.environment_id();
        self.shared
            .read(|s| s.environments.get(&id).map(|e| e.key.clone()).unwrap_or_default())
    }

    /// The organization's API key.
    pub fn organization_key(&self) -> String {
        self.shared.organization_key.clone()
    }

    /// The id of the session that the scenario names so, once it exists.
    pub fn session_id(&self, name: &str) -> Option<String> {
        self.shared
            .read(|s| s.sessions.values().find(|x| x.name == name).map(|x| x.id.clone()))
    }

    /// A session's history.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.shared.read(|s| {
            s.sessions
                .values()
                .find(|x| x.name == name)
                .map(|x| x.log.clone())
                .unwrap_or_default()
        })
    }

    /// Waits until all scripts have ended and no work item is left. False when the time is over before. Cancel-safe.
    pub async fn wait_done(&self, bound: Duration) -> bool {
        self.wait_for(bound, |_| true, true).await
    }

    /// Waits until the report satisfies a condition. False when the time is over before. Cancel-safe.
    pub async fn wait_until(&self, bound: Duration, condition: impl FnMut(&Report) -> bool) -> bool {
        self.wait_for(bound, condition, false).await
    }

    async fn wait_for(
        &self,
        bound: Duration,
        mut condition: impl FnMut(&Report) -> bool,
        done: bool,
    ) -> bool {
        let look = self.shared.wait(|state| {
            if done {
                return state.is_done().then_some(());
            }
            condition(&report::draw(&self.shared, state)).then_some(())
        });
        tokio::time::timeout(bound, look).await.is_ok()
    }

    /// What it saw so far.
    pub fn report(&self) -> Report {
        self.shared.read(|state| report::draw(&self.shared, state))
    }

    /// Adds a fault while it runs.
    pub fn inject_fault(&self, fault: Fault) {
        self.shared.update(|state| state.faults.add(fault));
    }

    /// Credentials that nothing but the protocol may carry: the keys, and every token given out. For tests that search
    /// for them.
    pub fn secrets(&self) -> Vec<String> {
        self.shared.read(|s| {
            let keys = s.environments.values().map(|e| e.key.clone());
            keys.chain(s.tokens.keys().cloned())
                .chain([self.shared.organization_key.clone()])
                .collect()
        })
    }

    /// Ends it and waits until its tasks are gone.
    pub async fn stop(mut self) -> Report {
        let report = self.report();
        self.shared.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        report
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        // Tasks in the set are aborted with it; those of connections end by this.
        self.shared.shutdown.cancel();
    }
}
