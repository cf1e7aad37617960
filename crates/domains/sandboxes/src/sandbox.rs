//! A sandbox, as its user holds it.

use crate::{
    EngineError,
    owner::{Msg, Woken, Written, ask_end},
    spec::ClaimSpec,
    teardown::TeardownReport,
    timings::Timings,
};
use omnirun_guest_client::{
    ClientError, ExecHandle, GuestClient, ToolHandle,
    message::{Claimed, Exec, Tool},
};
use omnirun_ids::SandboxId;
use omnirun_redact::Guest;
use omnirun_vm_machine::{State, Why};
use omnirun_vmm::VmmError;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};

/// What a sandbox is to run at once when it is claimed: its request travels with the claim's.
#[derive(Debug, Clone)]
pub enum First {
    /// Nothing yet.
    Nothing,
    /// A process.
    Exec(Exec),
    /// A tool.
    Tool(Tool),
}

/// What has been begun with a claim.
#[derive(Debug)]
pub enum Begun {
    /// Nothing.
    Nothing,
    /// A process.
    Exec(ExecHandle),
    /// A tool.
    Tool(ToolHandle),
}

impl First {
    pub(crate) async fn begin(self, guest: &GuestClient) -> Result<Begun, ClientError> {
        Ok(match self {
            Self::Nothing => Begun::Nothing,
            Self::Exec(exec) => Begun::Exec(guest.exec(exec).await?),
            Self::Tool(tool) => Begun::Tool(guest.start_tool(tool)?),
        })
    }
}

/// The handle's half of what it shares with the owner task.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: SandboxId,
    pub(crate) requests: mpsc::Sender<Msg>,
    pub(crate) end: watch::Sender<Option<Why>>,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) report: watch::Receiver<Option<TeardownReport>>,
    pub(crate) timings: Timings,
    /// What the console said last, once the sandbox has ended.
    pub(crate) console: Arc<OnceLock<String>>,
}

impl Shared {
    /// Waits for the end, and lets go.
    async fn ended(self) -> TeardownReport {
        let id = self.id.clone();
        let mut report = self.report.clone();
        drop(self);
        let done = report.wait_for(Option::is_some).await;
        done.ok()
            .and_then(|r| r.clone())
            .unwrap_or_else(|| TeardownReport {
                sandbox: id,
                why: Why::Failed {
                    step: "own",
                    reason: "its owner task is gone".to_owned(),
                },
                removed: Vec::new(),
                left: vec!["unknown: the next omnirun command clears up".to_owned()],
            })
    }

    async fn ask<T>(&self, msg: impl FnOnce(oneshot::Sender<T>) -> Msg) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(msg(reply)).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return Ok(answer);
        }
        // The task does not answer any more: it is ending, and its state says why.
        Err(EngineError::Ended {
            sandbox: self.id.clone(),
            why: self.exited().await,
            console: Guest::default(),
        })
    }

    async fn exited(&self) -> Why {
        let mut state = self.state.clone();
        match state.wait_for(|s| s.why().is_some()).await {
            Ok(state) => state.why().cloned().unwrap_or(Why::Released),
            Err(_) => Why::Released,
        }
    }
}

/// Whoever lets go of a sandbox ends it.
impl Drop for Shared {
    fn drop(&mut self) {
        ask_end(&self.end, Why::Released);
    }
}

impl std::fmt::Debug for Msg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Msg")
    }
}

/// A sandbox. Dropping it ends it, in the background; [`Sandbox::kill`] waits for that.
#[derive(Debug)]
pub struct Sandbox {
    shared: Shared,
    guest: GuestClient,
}

impl Sandbox {
    pub(crate) fn new(shared: Shared, woken: Woken) -> (Self, Option<(Claimed, Begun)>) {
        (
            Self {
                shared,
                guest: woken.guest,
            },
            woken.claimed,
        )
    }

    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.shared.id
    }

    /// The connection to its agent. Before the claim the agent refuses all that touches files or processes.
    pub fn guest(&self) -> &GuestClient {
        &self.guest
    }

    /// How long each phase took so far.
    pub fn timings(&self) -> Vec<(&'static str, Duration)> {
        self.shared.timings.all()
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Whether it can still be of use.
    pub fn is_alive(&self) -> bool {
        self.shared.state.borrow().why().is_none() && self.guest.error().is_none()
    }

    /// Attaches the disk and makes the sandbox somebody's, once. If it fails the sandbox is killed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn claim(&self, spec: ClaimSpec) -> Result<Claimed, EngineError> {
        Ok(self.claim_with(spec, First::Nothing).await?.0)
    }

    /// Claims, and has the first call's request travel with the claim's.
    ///
    /// # Errors
    /// [`EngineError`]. That the first call itself fails is told by what it began.
    pub async fn claim_with(&self, spec: ClaimSpec, first: First) -> Result<(Claimed, Begun), EngineError> {
        self.shared
            .ask(|reply| Msg::Claim {
                spec,
                first: Box::new(first),
                reply,
            })
            .await?
    }

    /// How much memory the VMM process has: proportional and private bytes.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn memory(&self) -> Result<(u64, u64), EngineError> {
        self.shared
            .ask(|reply| Msg::Memory { reply })
            .await?
            .map_err(|source: VmmError| EngineError::Vmm {
                sandbox: self.shared.id.clone(),
                step: "read its memory",
                source,
            })
    }

    /// What the console says or, once the sandbox has ended, said last; guest data.
    ///
    /// # Errors
    /// [`EngineError::Ended`].
    pub async fn console_tail(&self) -> Result<Guest<String>, EngineError> {
        let asked = self.shared.ask(|reply| Msg::Console { reply }).await;
        match (asked, self.shared.console.get()) {
            (Err(_), Some(last)) => Ok(Guest(last.clone())),
            (asked, _) => asked.map(Guest),
        }
    }

    /// Resolves when the sandbox ends, whatever way: its VMM has exited, or its end has been asked for. Cancel-safe.
    pub async fn exited(&self) -> Why {
        self.shared.exited().await
    }

    /// Ends it in the background. [`Engine::shutdown`](crate::Engine::shutdown) joins that.
    pub fn end(self) {
        drop(self);
    }

    /// Ends it and waits until its VMM is dead and everything of it removed.
    pub async fn kill(self) -> TeardownReport {
        self.kill_for(Why::Released).await
    }

    pub(crate) fn end_for(self, why: Why) {
        ask_end(&self.shared.end, why);
    }

    async fn kill_for(self, why: Why) -> TeardownReport {
        ask_end(&self.shared.end, why);
        self.shared.ended().await
    }

    /// Has it written to files of the owner's, and waits for its end.
    pub(crate) async fn suspend(self) -> (Result<Written, EngineError>, TeardownReport) {
        let Self { shared, guest } = self;
        drop(guest);
        let written = shared.ask(|reply| Msg::Suspend { reply }).await;
        (written.and_then(|written| written), shared.ended().await)
    }
}
