//! What a network card adds to a sandbox's coming and going. The floor is the same sandbox without one, in turn.

use crate::{
    BenchError, Figure, Samples, Setup,
    boots::{BenchDisk, create_to_first_exec},
};
use omnirun_egress_policy::Policy;
use omnirun_sandboxes::{Card, Egress, SandboxSpec};
use std::{sync::Arc, time::Instant};
use tokio::sync::watch;

/// Policies, and what their figures are called.
const KINDS: [(&str, &str, &str); 2] = [
    (
        "allow:bench.example",
        "allow_clone_to_first_exec",
        "allow_teardown",
    ),
    ("open", "open_clone_to_first_exec", "open_teardown"),
];

/// How a sandbox with this policy comes and goes.
#[derive(Default)]
struct Times {
    create: Samples,
    kill: Samples,
}

/// Takes the figures. Nothing is sent anywhere.
///
/// # Errors
/// [`BenchError`]; also where this host can have no networks.
pub async fn network(setup: &Setup) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for (policy, create, kill) in KINDS {
        (setup.say)(&format!("a card: {policy}"));
        let policy = Arc::new(Policy::from_metadata(policy)?);
        let (mut with, mut without) = (Times::default(), Times::default());
        // The first one makes the snapshot, the proxy and the first namespaces.
        Times::default().take(setup, &policy).await?;
        for _ in 0..setup.rounds {
            without.take(setup, &Arc::new(Policy::none())).await?;
            with.take(setup, &policy).await?;
        }
        figures.push(Figure::time(create, &with.create, Some(&without.create)));
        figures.push(Figure::time(kill, &with.kill, Some(&without.kill)));
    }
    Ok(figures)
}

impl Times {
    async fn take(&mut self, setup: &Setup, policy: &Arc<Policy>) -> Result<(), BenchError> {
        let card = Card::of(policy.mode());
        let disk = BenchDisk::new(setup, "ours.disk")?;
        let mut claim = disk.claim()?;
        claim.egress = card.is_there().then(|| Egress {
            // A channel without a sender keeps its value.
            policy: watch::channel(policy.clone()).1,
            tightened: None,
            subject: None,
            session: None,
        });
        let spec = SandboxSpec { card, ..setup.spec() };
        let (sandbox, took) = create_to_first_exec(setup, spec, claim).await?;
        self.create.push_ms(took);
        let start = Instant::now();
        sandbox.kill().await;
        self.kill.push_ms(start.elapsed());
        Ok(())
    }
}
