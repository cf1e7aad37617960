//! The owner task of a clone.

use super::{
    Context, Msg, Order, Owned, Stop, Woken,
    calls::{WAKE_LIMIT, bounded, greet, realtime_ns, vmm_error, wake_request},
    draw_id,
    suspend::wake_again,
};
use crate::{
    Card, EngineError,
    sandbox::{First, Shared},
    snapshot::Template,
    spec::SandboxSpec,
    teardown::TeardownReport,
    timings::Timings,
};
use omnirun_guest_client::{GuestClient, message::Wake};
use omnirun_store::VmState;
use omnirun_vm_machine::{Event, Kind, Why};
use omnirun_vmm::{AttachDisk, CloneSpec, VmmError};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};
use tokio::sync::{mpsc, oneshot, watch};

/// The step in which a VMM says whether it takes a snapshot.
pub(crate) const RESTORE: &str = "restore the snapshot";
/// The step before it, which is no fault of the snapshot's.
const PREPARE: &str = "start a VMM";
/// The step in which a process waits to load one.
const WAIT: &str = "wait for an order";
/// Requests to an owner task that may wait. Each holder of a handle has one under way; more is a mistake.
const QUEUE: usize = 16;

/// The owner task of a clone, not yet started.
pub(crate) struct CloneTask {
    pub(super) owned: Owned,
    pub(super) template: Arc<Template>,
    purpose: String,
    tracked: bool,
    card: Card,
    /// The disk of a sandbox that was suspended and goes on: it is somebody's already.
    disk: Option<AttachDisk>,
    order: oneshot::Receiver<Box<Order>>,
    requests: mpsc::Receiver<Msg>,
    report: watch::Sender<Option<TeardownReport>>,
    pub(super) timings: Timings,
    console: Arc<OnceLock<String>>,
}

impl CloneTask {
    /// A task, its handle's half, and where it is told what to become. Until then it waits, once its process is ready.
    pub(crate) fn new(
        context: &Arc<Context>,
        template: Arc<Template>,
        spec: &SandboxSpec,
        disk: Option<AttachDisk>,
    ) -> Result<(Self, Shared, oneshot::Sender<Box<Order>>), EngineError> {
        let id = draw_id()?;
        let (owned, ends) = Owned::new(context.clone(), id.clone(), Kind::Clone);
        let (requests_tx, requests) = mpsc::channel(QUEUE);
        let (give, order) = oneshot::channel();
        let (report, report_rx) = watch::channel(None);
        let timings = Timings::default();
        let console = Arc::new(OnceLock::new());
        let shared = Shared {
            id,
            requests: requests_tx,
            end: ends.end,
            state: ends.state,
            report: report_rx,
            timings: timings.clone(),
            console: console.clone(),
        };
        let task = Self {
            owned,
            template,
            purpose: spec.purpose.clone(),
            tracked: spec.suspendable,
            card: spec.card,
            disk,
            order,
            requests,
            report,
            timings,
            console,
        };
        Ok((task, shared, give))
    }

    /// The clone's whole life. Whatever happens, it ends with the teardown.
    pub(crate) async fn run(mut self) -> TeardownReport {
        let mut ready = None;
        let why = match Box::pin(self.start(&mut ready)).await {
            Ok(woken) => {
                let guest = woken.guest.clone();
                if ready.is_some_and(|ready| ready.send(Ok(woken)).is_ok()) {
                    self.serve(guest).await
                } else {
                    // Whoever wanted it does not wait any more.
                    Why::Released
                }
            }
            Err(stop) => {
                // Whoever comes with an order from now on finds the door closed.
                self.order.close();
                let ready = ready.or_else(|| Some(self.order.try_recv().ok()?.ready));
                match ready {
                    Some(ready) => drop(ready.send(Err(stop.error))),
                    None => {
                        tracing::debug!(error = %crate::error::chain(&stop.error), "a prepared clone ended")
                    }
                }
                stop.why
            }
        };
        if let (Why::Exited { .. }, Some(vm)) = (&why, self.owned.vm()) {
            let _ = self.console.set(vm.console_tail());
        }
        // Requests that wait get their answer, an error, at once: their senders go with the queue.
        self.requests.close();
        while let Ok(msg) = self.requests.try_recv() {
            drop(msg);
        }
        let since = Instant::now();
        let report = self.owned.teardown(why).await;
        self.timings.since("teardown", since);
        self.report.send_replace(Some(report.clone()));
        report
    }

    /// From nothing to a clone that is awake. `ready` is set as soon as somebody waits for it.
    async fn start(
        &mut self,
        ready: &mut Option<oneshot::Sender<Result<Woken, EngineError>>>,
    ) -> Result<Woken, Stop> {
        let timings = self.timings.clone();
        let id = self.owned.identity.sandbox.clone();
        let begun = Instant::now();
        let fail = |error: EngineError| Stop {
            why: Why::Failed {
                step: "start",
                reason: crate::error::chain(&error),
            },
            error,
        };
        self.owned.record(&self.purpose).map_err(fail)?;
        let network = self.owned.plug(self.card).await?;
        let disk = self.disk.take();
        let goes_on = disk.is_some();
        let wake = match goes_on {
            true => wake_again(),
            false => wake_request(&id),
        };
        let wake = wake.map_err(fail)?;
        let state = self.template.open_state().map_err(|source| {
            fail(EngineError::File {
                sandbox: id.clone(),
                step: "open the snapshot's state".to_owned(),
                source,
            })
        })?;
        timings.since("record", begun);

        let spec = CloneSpec {
            identity: self.owned.identity.clone(),
            base: self.template.image.base.clone(),
            size: self.template.machine,
            memory: self.template.memory.clone(),
            state,
            disk,
            tracked: self.tracked,
            network,
        };
        let since = Instant::now();
        let vmm = self.owned.context.vmm.clone();
        let (ordered_at, ordered) = oneshot::channel();
        let restore = async {
            let prepared = vmm
                .prepare(spec)
                .await
                .map_err(|source| vmm_error(&id, PREPARE, source))?;
            let since = tokio::select! {
                biased;
                // No fault of the snapshot.
                exit = prepared.exited() => {
                    let (step, tail) = ("waiting", exit.stderr_tail);
                    return Err(vmm_error(&id, WAIT, VmmError::Gone { step, tail }));
                }
                Ok(at) = ordered => since.max(at),
            };
            let vm = prepared
                .load()
                .await
                .map_err(|source| vmm_error(&id, RESTORE, source))?;
            timings.since("restore", since);
            Ok(vm)
        };
        // What a claim needs is prepared while the VMM starts, if its order is there by then. Its policy is in force before
        // anything runs.
        let (order, gate) = (&mut self.order, self.owned.gate());
        let claim = async {
            let order = order.await.map_err(|_| EngineError::ShuttingDown)?;
            let _ = ordered_at.send(Instant::now());
            *ready = Some(order.ready);
            let (mut claim, first) = match order.claim {
                Some(claim) => (Some(claim.spec.await?), claim.first),
                None => (None, First::Nothing),
            };
            let claims = claim.as_mut().and_then(|claim| claim.egress.take());
            gate.admit(order.egress.or(claims)).await?;
            Ok((claim, first, order.purpose))
        };
        let (vm, (claim, first, purpose)) = self
            .owned
            .step(async { tokio::try_join!(restore, claim) })
            .await?;
        let vm = self.owned.set_vm(vm);
        self.owned.apply(Event::Started);

        let since = Instant::now();
        let greet = async {
            let resume = async {
                let resumed = vm
                    .resume()
                    .await
                    .map_err(|source| vmm_error(&id, "resume", source));
                timings.since("resume", since);
                resumed
            };
            tokio::try_join!(greet(&id, &*vm), resume).map(|(guest, ())| guest)
        };
        let guest = self.owned.step(greet).await?;
        timings.since("connect", since);

        let since = Instant::now();
        let waking = {
            let (guest, id) = (guest.clone(), id.clone());
            async move {
                let wake = Wake {
                    realtime_ns: realtime_ns(),
                    ..wake
                };
                bounded(&id, "wake", WAKE_LIMIT, guest.wake(wake)).await
            }
        };
        let Some(spec) = claim else {
            self.owned.step(waking).await?;
            timings.since("wake", since);
            match goes_on {
                true => {
                    self.note_state(VmState::Claimed, Some(&purpose));
                    self.gone_on(purpose);
                }
                false => {
                    self.owned.apply(Event::Woken);
                    self.note_state(VmState::Pooled, Some(&purpose));
                }
            }
            return Ok(Woken { guest, claimed: None });
        };
        let wake_timings = timings.clone();
        let waking = async move {
            waking.await?;
            wake_timings.since("wake", since);
            Ok(())
        };
        // The machine sees the steps in their order, though their requests travel together.
        let purpose = spec.purpose.clone();
        let claimed = Box::pin(self.claim_steps(&guest, spec, first, Some(waking))).await?;
        self.owned.apply(Event::Woken);
        self.owned.apply(Event::ClaimBegun { purpose });
        self.owned.apply(Event::ClaimDone);
        Ok(Woken {
            guest,
            claimed: Some(claimed),
        })
    }

    /// Serves requests until the end. Returns why it ends.
    async fn serve(&mut self, guest: GuestClient) -> Why {
        loop {
            let msg = tokio::select! {
                biased;
                why = self.owned.over() => return why,
                msg = self.requests.recv() => msg,
            };
            match msg {
                // Every handle is gone.
                None => return Why::Released,
                Some(Msg::Claim { spec, first, reply }) => match self.claim(&guest, spec, *first).await {
                    Ok(answer) => {
                        let _ = reply.send(answer);
                    }
                    Err(stop) => {
                        let _ = reply.send(Err(stop.error));
                        return stop.why;
                    }
                },
                Some(Msg::Suspend { reply }) => {
                    let (why, written) = self.suspend(guest).await;
                    let _ = reply.send(written);
                    return why;
                }
                Some(Msg::Memory { reply }) => {
                    if let Some(vm) = self.owned.vm() {
                        let _ = reply.send(vm.memory());
                    }
                }
                Some(Msg::Console { reply }) => {
                    let _ = reply.send(self.owned.vm().map(|vm| vm.console_tail()).unwrap_or_default());
                }
            }
        }
    }

    /// For other processes to see; that it could not be written ends nothing.
    fn note_state(&self, state: VmState, purpose: Option<&str>) {
        let id = &self.owned.identity.sandbox;
        if let Err(error) = self.owned.context.vms.set_state(id, state, purpose) {
            tracing::warn!(sandbox = %id, %error, "the sandbox's state could not be recorded");
        }
    }
}
