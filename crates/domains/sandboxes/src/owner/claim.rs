//! How a clone becomes somebody's.

use super::{
    ClaimAnswer, CloneTask, Stop,
    calls::{bounded, claim_request, vmm_error},
};
use crate::{
    EngineError,
    sandbox::{Begun, First},
    spec::ClaimSpec,
};
use omnirun_guest_client::{GuestClient, message::Claimed};
use omnirun_store::VmState;
use omnirun_vm_machine::{Admission, Event, Request, Why};
use omnirun_vmm::AttachDisk;
use std::{
    future::Future,
    time::{Duration, Instant},
};

/// A claim mounts the session disk and replays its journal.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);

impl CloneTask {
    /// A claim: a refusal leaves the sandbox as it is, a failure ends it.
    pub(super) async fn claim(
        &mut self,
        guest: &GuestClient,
        spec: ClaimSpec,
        first: First,
    ) -> Result<ClaimAnswer, Stop> {
        match self.owned.machine().admit(Request::Claim) {
            Admission::Accept => {}
            Admission::AlreadySo => return Ok(Err(EngineError::ShuttingDown)),
            Admission::Denied(source) => {
                let sandbox = self.owned.identity.sandbox.clone();
                return Ok(Err(EngineError::Denied { sandbox, source }));
            }
        }
        self.owned.apply(Event::ClaimBegun {
            purpose: spec.purpose.clone(),
        });
        let claimed = self
            .claim_steps(
                guest,
                spec,
                first,
                None::<std::future::Ready<Result<(), EngineError>>>,
            )
            .await?;
        self.owned.apply(Event::ClaimDone);
        Ok(Ok(claimed))
    }

    /// The claim's request is written, and behind it the first call's; the disk is attached while the guest takes them
    /// in. The agent waits for the disk's size before it mounts.
    pub(super) async fn claim_steps(
        &mut self,
        guest: &GuestClient,
        spec: ClaimSpec,
        first: First,
        waking: Option<impl Future<Output = Result<(), EngineError>>>,
    ) -> Result<(Claimed, Begun), Stop> {
        let timings = self.timings.clone();
        let id = self.owned.identity.sandbox.clone();
        let since = Instant::now();
        let request = claim_request(&spec, &self.template);
        let (gate, egress) = (self.owned.gate(), spec.egress);
        let purpose = spec.purpose;
        let disk = AttachDisk {
            file: spec.disk,
            bytes: spec.disk_bytes,
        };
        let (vms, name) = (self.owned.context.vms.clone(), id.clone());
        let Some(vm) = self.owned.vm().cloned() else {
            let error = EngineError::ShuttingDown;
            return Err(Stop {
                why: Why::Failed {
                    step: "claim",
                    reason: error.to_string(),
                },
                error,
            });
        };
        let steps = async {
            // Nothing that is somebody's runs before its policy is in force.
            gate.admit(egress).await?;
            // Polled in this order, so the requests are written in this order.
            let wake = async {
                match waking {
                    Some(waking) => waking.await,
                    None => Ok(()),
                }
            };
            let claim = async {
                let claimed = bounded(&id, "claim the sandbox", CLAIM_LIMIT, guest.claim(request)).await;
                timings.since("claim", since);
                claimed
            };
            let begin = async {
                first.begin(guest).await.map_err(|source| EngineError::Guest {
                    sandbox: id.clone(),
                    step: "take the first call",
                    source,
                })
            };
            let attach = async {
                vm.attach_disk(disk)
                    .await
                    .map_err(|source| vmm_error(&id, "attach the session disk", source))?;
                timings.since("attach", since);
                // Durable before the claim is answered.
                vms.set_state(&name, VmState::Claimed, Some(&purpose))
                    .map_err(EngineError::from)
            };
            let ((), claimed, begun, ()) = tokio::try_join!(wake, claim, begin, attach)?;
            Ok((claimed, begun))
        };
        self.owned.step(steps).await
    }
}
