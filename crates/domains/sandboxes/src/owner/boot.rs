//! A cold boot, up to its agent's first answer.

use super::{Context, Ends, Owned, Stop, bounded, connect, draw_id, vmm_error};
use crate::{EngineError, error::chain, spec::SandboxSpec, teardown::TeardownReport};
use futures::future::BoxFuture;
use omnirun_guest_client::GuestClient;
use omnirun_ids::SandboxId;
use omnirun_vm_machine::{Event, Kind, Why};
use omnirun_vmm::{BootSpec, MachineSize, Vm};
use std::{sync::Arc, time::Duration};
use tokio::sync::{oneshot, watch};

/// From power-on to the agent's first answer. Seconds; under emulation on a loaded machine a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Running shell, git and python once.
const WARM_LIMIT: Duration = Duration::from_secs(180);

/// A machine to be booted, and its owner's half.
pub(crate) struct ColdBoot {
    pub(crate) owned: Owned,
    spec: SandboxSpec,
    machine: MachineSize,
    cmdline: String,
}

/// A boot's owner task, to be spawned; where its end can be asked for; and where it says what came of it.
pub(crate) struct Started<T> {
    pub(crate) id: SandboxId,
    pub(crate) task: BoxFuture<'static, TeardownReport>,
    pub(crate) end: watch::Sender<Option<Why>>,
    pub(crate) done: oneshot::Receiver<Result<T, EngineError>>,
}

impl ColdBoot {
    pub(crate) fn new(
        context: &Arc<Context>,
        spec: SandboxSpec,
        machine: MachineSize,
        cmdline: &str,
    ) -> Result<(Self, Ends), EngineError> {
        let (owned, ends) = Owned::new(context.clone(), draw_id()?, Kind::Boot);
        let cold = Self {
            owned,
            spec,
            machine,
            cmdline: cmdline.to_owned(),
        };
        Ok((cold, ends))
    }

    /// Starts it and waits for its agent.
    pub(crate) async fn answer(&mut self, purpose: &str) -> Result<(Arc<dyn Vm>, GuestClient), Stop> {
        let id = self.owned.identity.sandbox.clone();
        self.owned.record(purpose).map_err(failed)?;
        let network = self.owned.plug(self.spec.card).await?;
        let image = &self.spec.image;
        let boot = BootSpec {
            identity: self.owned.identity.clone(),
            kernel: image.kernel.clone(),
            vmlinux: image.vmlinux.clone(),
            initramfs: image.initramfs.clone(),
            cmdline: self.cmdline.clone(),
            base: image.base.clone(),
            size: self.machine,
            network,
        };
        let vmm = self.owned.context.vmm.clone();
        let vm = self
            .owned
            .step(async {
                vmm.start(boot)
                    .await
                    .map_err(|source| vmm_error(&id, "start", source))
            })
            .await?;
        let vm = self.owned.set_vm(vm);
        self.owned.apply(Event::Started);
        let guest = self
            .owned
            .step(async {
                let stream = vm
                    .channel()
                    .await
                    .map_err(|source| vmm_error(&id, "open the channel", source))?;
                connect(&id, stream, BOOT_LIMIT).await
            })
            .await?;
        Ok((vm, guest))
    }

    /// Has it run once what its calls will need.
    pub(crate) async fn warm(&mut self, guest: &GuestClient) -> Result<(), Stop> {
        let id = self.owned.identity.sandbox.clone();
        let warm = bounded(&id, "warm up", WARM_LIMIT, guest.warm());
        self.owned.step(warm).await.map(drop)
    }
}

/// A boot that cannot even begin.
pub(crate) fn failed(error: EngineError) -> Stop {
    Stop {
        why: Why::Failed {
            step: "start",
            reason: chain(&error),
        },
        error,
    }
}

/// A boot that is made to be seen: its agent has to answer and to run what it would be warmed with. It ends with that.
pub(crate) fn trial(mut cold: ColdBoot, ends: Ends) -> Started<()> {
    let (done, done_rx) = oneshot::channel();
    Started {
        id: cold.owned.identity.sandbox.clone(),
        end: ends.end,
        done: done_rx,
        task: Box::pin(async move {
            let purpose = format!("a trial for {}", cold.spec.purpose);
            let seen = async {
                let (_vm, guest) = cold.answer(&purpose).await?;
                cold.warm(&guest).await
            };
            let (why, answer) = match seen.await {
                Ok(()) => (Why::Released, Ok(())),
                Err(stop) => (stop.why, Err(stop.error)),
            };
            let report = cold.owned.teardown(why).await;
            let _ = done.send(answer);
            report
        }),
    }
}
