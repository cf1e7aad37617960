//! The owner task: the only one that touches a VM.
//!
//! ```text
//!   handle --- requests (mpsc) ------> task --- restore, resume, attach, claim --> VMM, guest agent
//!          --- end (watch, first wins) ->|
//!          <-- state (watch) ------------|
//!          <-- report (watch) -----------'  teardown, always, last
//! ```
//!
//! Every step of the task is raced against two things, in this order: the request to end, and the VMM's exit. So
//! neither a hung guest nor a dead one can hold it up, and each step's failure takes the one way out: the teardown.
//!
//! Cancellation: a step that loses the race is dropped. Dropping a restore kills the half-started VMM (the driver's
//! promise); the teardown then asks the driver to make sure of its exit. Dropping a request to the guest leaves a reply
//! nobody reads, of a guest that is about to be killed.

mod boot;
mod calls;
mod claim;
mod clone;
mod messages;
mod port;
mod registry;
mod suspend;

pub(crate) use boot::{ColdBoot, Started, failed, trial};
pub(crate) use calls::{bounded, connect, save, vmm_error};
pub(crate) use clone::{CloneTask, RESTORE};
pub(crate) use messages::{Claim, ClaimAnswer, Msg, Order, Woken};
pub(crate) use registry::Registry;
pub(crate) use suspend::{Going, Written};

use crate::{
    EngineError, Network, Port,
    error::chain,
    teardown::{Process, TeardownReport, teardown},
};
use omnirun_ids::SandboxId;
use omnirun_redact::Guest;
use omnirun_store::{DataDir, OwnerId, VmKind, VmRow, VmState, Vms, now_ms};
use omnirun_vm_machine::{Event, Kind, Machine, State, Why};
use omnirun_vmm::{Exit, Vm, VmIdentity, Vmm};
use std::{fs, future::Future, io, os::unix::fs::DirBuilderExt, sync::Arc, time::Duration};
use tokio::sync::watch;

/// A guest that dies takes its connection with it, and the broken connection may be noticed first. So long the task
/// waits for an exit that explains a failure.
const EXPLAIN: Duration = Duration::from_millis(300);

/// What owner tasks share: the facts of this process's engine.
pub(crate) struct Context {
    pub(crate) data: DataDir,
    pub(crate) vms: Vms,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) owner: OwnerId,
    /// Where cards lead.
    pub(crate) network: Option<Arc<dyn Network>>,
}

/// Why a task stops before its time.
pub(crate) struct Stop {
    pub(crate) why: Why,
    pub(crate) error: EngineError,
}

/// One VM and its life, as its owner task holds it.
pub(crate) struct Owned {
    pub(crate) context: Arc<Context>,
    pub(crate) identity: VmIdentity,
    machine: Machine,
    state: watch::Sender<State>,
    end: watch::Receiver<Option<Why>>,
    /// Shared with this task's own steps alone, for as long as each runs.
    vm: Option<Arc<dyn Vm>>,
    /// Where its card leads. The same.
    port: Option<Arc<dyn Port>>,
}

/// The other ends of an [`Owned`].
pub(crate) struct Ends {
    pub(crate) end: watch::Sender<Option<Why>>,
    pub(crate) state: watch::Receiver<State>,
}

/// Asks for the end. The first reason is kept.
pub(crate) fn ask_end(end: &watch::Sender<Option<Why>>, why: Why) {
    end.send_if_modified(|slot| {
        let first = slot.is_none();
        if first {
            *slot = Some(why);
        }
        first
    });
}

impl Owned {
    pub(crate) fn new(context: Arc<Context>, sandbox: SandboxId, kind: Kind) -> (Self, Ends) {
        let machine = Machine::new(kind);
        let (end_tx, end) = watch::channel(None);
        let (state, state_rx) = watch::channel(machine.state().clone());
        let run_dir = context.data.run().join(sandbox.as_str());
        let identity = VmIdentity { sandbox, run_dir };
        (
            Self {
                context,
                identity,
                machine,
                state,
                end,
                vm: None,
                port: None,
            },
            Ends {
                end: end_tx,
                state: state_rx,
            },
        )
    }

    /// Makes the VM's row and run folder, in this order: whatever exists has a row.
    pub(crate) fn record(&self, purpose: &str) -> Result<(), EngineError> {
        let kind = match self.machine.kind() {
            Kind::Boot => VmKind::Boot,
            Kind::Clone => VmKind::Clone,
        };
        self.context.vms.insert(&VmRow {
            id: self.identity.sandbox.clone(),
            owner: self.context.owner.clone(),
            kind,
            state: VmState::Starting,
            run_dir: self.identity.run_dir.clone(),
            purpose: purpose.to_owned(),
            created_ms: now_ms(),
        })?;
        let path = &self.identity.run_dir;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(|source| EngineError::File {
                sandbox: self.identity.sandbox.clone(),
                step: format!("create {}", path.display()),
                source,
            })
    }

    pub(crate) fn set_vm(&mut self, vm: Box<dyn Vm>) -> Arc<dyn Vm> {
        self.vm.insert(Arc::from(vm)).clone()
    }

    pub(crate) fn vm(&self) -> Option<&Arc<dyn Vm>> {
        self.vm.as_ref()
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Takes note of an event and tells everybody.
    pub(crate) fn apply(&mut self, event: Event) {
        match self.machine.apply(event) {
            Ok(state) => {
                self.state.send_replace(state.clone());
            }
            Err(unexpected) => {
                debug_assert!(false, "{unexpected}");
                tracing::error!(sandbox = %self.identity.sandbox, %unexpected, "a mistake in the owner task");
            }
        }
    }

    /// Runs one step of the VM's life. `biased`, in this order: a wish to end is heard even if the step is always
    /// ready; an exit explains what the step could only report as a broken connection.
    pub(crate) async fn step<T>(
        &mut self,
        step: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, Stop> {
        let Self {
            end, vm, identity, ..
        } = self;
        let exited = async {
            match vm.as_deref() {
                Some(vm) => vm.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = ended(end) => Err(Stop { error: gone(identity, why.clone(), vm.as_deref()), why }),
            exit = exited => {
                let why = why_of(&exit);
                Err(Stop { error: gone(identity, why.clone(), vm.as_deref()), why })
            }
            done = step => match done {
                Ok(value) => Ok(value),
                Err(error) => Err(explain(error, identity, vm.as_deref()).await),
            },
        }
    }

    /// The wish to end, or the VMM's exit; whichever comes first. Cancel-safe: both are levels.
    pub(crate) async fn over(&self) -> Why {
        let mut end = self.end.clone();
        let exited = async {
            match self.vm() {
                Some(vm) => why_of(&vm.wait().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = ended(&mut end) => why,
            why = exited => why,
        }
    }

    /// The one way out.
    pub(crate) async fn teardown(&mut self, why: Why) -> TeardownReport {
        self.apply(Event::End(why.clone()));
        let process = match self.vm.as_deref() {
            Some(vm) => Process::Ours(vm),
            None => Process::Unknown(&*self.context.vmm),
        };
        let report = teardown(
            &self.identity,
            process,
            self.port.as_deref(),
            &self.context.vms,
            why,
        )
        .await;
        if report.is_clean() {
            self.apply(Event::Checked);
        }
        report
    }
}

/// Waits for the wish to end. If nobody can wish any more (every handle is gone), that is one.
async fn ended(end: &mut watch::Receiver<Option<Why>>) -> Why {
    match end.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or(Why::Released),
        Err(_) => Why::Released,
    }
}

fn why_of(exit: &Exit) -> Why {
    Why::Exited {
        code: exit.code,
        signal: exit.signal,
    }
}

fn gone(identity: &VmIdentity, why: Why, vm: Option<&dyn Vm>) -> EngineError {
    let console = vm.map(Vm::console_tail).unwrap_or_default();
    EngineError::Ended {
        sandbox: identity.sandbox.clone(),
        why,
        console: Guest(console),
    }
}

/// A step failed: is it because the VM is gone?
async fn explain(error: EngineError, identity: &VmIdentity, vm: Option<&dyn Vm>) -> Stop {
    if let (Some(vm), true) = (vm, error.is_vm_failure())
        && let Ok(exit) = tokio::time::timeout(EXPLAIN, vm.wait()).await
    {
        let why = why_of(&exit);
        return Stop {
            error: gone(identity, why.clone(), Some(vm)),
            why,
        };
    }
    let step = match &error {
        EngineError::Vmm { step, .. }
        | EngineError::Guest { step, .. }
        | EngineError::Timeout { step, .. } => *step,
        _ => "start",
    };
    Stop {
        why: Why::Failed {
            step,
            reason: chain(&error),
        },
        error,
    }
}

/// Random bytes of the host.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0u8; N];
    let mut at = 0;
    while at < N {
        at += rustix::rand::getrandom(&mut bytes[at..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| EngineError::Random(io::Error::from(e)))?;
    }
    Ok(bytes)
}

/// A new sandbox id.
pub(crate) fn draw_id() -> Result<SandboxId, EngineError> {
    Ok(SandboxId::from_random(random()?))
}
