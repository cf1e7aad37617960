//! The card of a VM: plugged in before there is a VMM, let through once it is somebody's.

use super::{Owned, Stop};
use crate::{Card, Egress, EngineError, NetworkError, Port};
use omnirun_ids::SandboxId;
use omnirun_vmm::Nic;
use std::sync::Arc;

/// What lets a sandbox through.
pub(super) struct Gate {
    port: Option<Arc<dyn Port>>,
    sandbox: SandboxId,
}

impl Owned {
    /// Plugs the card in, if there is to be one: what the VMM is told of it.
    pub(super) async fn plug(&mut self, card: Card) -> Result<Option<Nic>, Stop> {
        if !card.is_there() {
            return Ok(None);
        }
        let (context, sandbox) = (self.context.clone(), self.identity.sandbox.clone());
        let plug = async move {
            let plugged = match &context.network {
                Some(network) => network.plug(&context.owner, &sandbox, card).await,
                None => Err("this process has none".into()),
            };
            plugged.map_err(|source| failed(&sandbox, "connect it", source))
        };
        let port = self.step(plug).await?;
        let nic = port.nic();
        self.port = Some(port);
        Ok(Some(nic))
    }

    /// For a policy that is still to come.
    pub(super) fn gate(&self) -> Gate {
        Gate {
            port: self.port.clone(),
            sandbox: self.identity.sandbox.clone(),
        }
    }
}

impl Gate {
    /// Puts a policy in force. Without a card there is nothing to be let through.
    pub(super) async fn admit(&self, egress: Option<Egress>) -> Result<(), EngineError> {
        match (&self.port, egress) {
            (Some(port), Some(egress)) => port
                .admit(egress)
                .await
                .map_err(|source| failed(&self.sandbox, "put its egress policy in force", source)),
            _ => Ok(()),
        }
    }
}

fn failed(sandbox: &SandboxId, step: &'static str, source: NetworkError) -> EngineError {
    let sandbox = sandbox.clone();
    EngineError::Network {
        sandbox,
        step,
        source,
    }
}
