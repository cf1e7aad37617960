//! Cards: who has one, when it lets something through, and that it is pulled.

use super::{Bench, bench, exec, until};
use crate::{
    Card, Egress, Engine, EngineError, SandboxSpec,
    testing::{Deed, FakeNetwork, config, spec},
};
use omnirun_egress_policy::Policy;
use std::sync::Arc;
use tokio::sync::watch;

fn egress() -> Option<Egress> {
    Some(Egress {
        policy: watch::channel(Arc::new(Policy::none())).1,
        tightened: None,
        subject: Some("subject".to_owned()),
        session: None,
    })
}

fn carded(card: Card) -> SandboxSpec {
    SandboxSpec { card, ..spec() }
}

/// An engine with a network, on the bench's folder and VMM.
async fn networked(b: &Bench) -> (Arc<Engine>, FakeNetwork) {
    let vmm = b.vmm.clone();
    let network = FakeNetwork::new(move || vmm.seen().iter().map(|seen| seen.claims.len()).sum());
    let mut config = config(&b.root, &b.vmm, &b.heard).unwrap();
    config.network = Some(Arc::new(network.clone()));
    (Engine::open(config).await.unwrap(), network)
}

#[tokio::test(start_paused = true)]
async fn without_a_card_there_is_no_port() {
    let b = bench().await;
    let (engine, network) = networked(&b).await;
    let sandbox = engine.create(spec()).await.unwrap();
    let mut claim = b.claim();
    claim.egress = egress();
    sandbox.claim(claim).await.unwrap();
    assert!(sandbox.kill().await.is_clean());
    assert!(network.accounts().is_empty());
    engine.shutdown().await;
    assert!(network.is_shut());
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_in_force_before_the_claim_and_the_port_is_pulled_at_the_end() {
    let b = bench().await;
    let (engine, network) = networked(&b).await;
    let sandbox = engine.create(carded(Card::Restricted)).await.unwrap();
    let port = network.accounts().pop().unwrap();
    assert_eq!((port.card, &port.sandbox), (Card::Restricted, sandbox.id()));
    assert!(port.admitted.is_none(), "nobody's reaches nothing");
    let mut claim = b.claim();
    claim.egress = egress();
    sandbox.claim(claim).await.unwrap();
    let port = network.accounts().pop().unwrap();
    assert_eq!(port.claims_before, 0);
    assert_eq!(port.admitted.unwrap().subject.as_deref(), Some("subject"));
    let report = sandbox.kill().await;
    assert!(
        report.is_clean() && report.removed.contains(&"port".to_owned()),
        "{report}"
    );

    // The same in one go.
    let mut claim = b.claim();
    claim.egress = egress();
    let made = engine.create_claimed(carded(Card::Open), async { Ok(claim) }, exec());
    let (sandbox, ..) = made.await.unwrap();
    let port = network.accounts().pop().unwrap();
    assert_eq!(
        (port.card, port.claims_before),
        (Card::Open, 1),
        "only the first one's"
    );
    assert!(port.admitted.is_some());
    drop(sandbox);
    engine.shutdown().await;
    b.engine.shutdown().await;
    assert!(network.accounts().iter().all(|port| port.pulled));
    b.assert_nothing_left("after sandboxes with cards");
}

#[tokio::test(start_paused = true)]
async fn what_fails_of_the_network_ends_the_sandbox() {
    for deed in [Deed::Plug, Deed::Admit] {
        let b = bench().await;
        let (engine, network) = networked(&b).await;
        engine.prepare(&carded(Card::Restricted)).await.unwrap();
        network.fail(deed);
        let mut claim = b.claim();
        claim.egress = egress();
        let made = engine
            .create_claimed(carded(Card::Restricted), async { Ok(claim) }, exec())
            .await;
        let error = made.map(drop).unwrap_err();
        assert!(matches!(error, EngineError::Network { .. }), "{deed:?}: {error}");
        until(|| engine.vms() == 0).await;
        assert!(
            b.vmm.seen().iter().all(|seen| seen.claims.is_empty()),
            "{deed:?}: it was claimed"
        );
        engine.shutdown().await;
        b.engine.shutdown().await;
        b.assert_nothing_left("after a failure of the network");
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_cannot_be_pulled_keeps_the_record() {
    let b = bench().await;
    let (engine, network) = networked(&b).await;
    let sandbox = engine.create(carded(Card::Restricted)).await.unwrap();
    network.fail(Deed::Pull);
    let report = sandbox.kill().await;
    assert!(
        report.left.iter().any(|left| left.contains("network")),
        "{report}"
    );
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn spares_with_one_card_do_not_serve_those_who_want_another() {
    let b = bench().await;
    let (engine, network) = networked(&b).await;
    let (open, restricted) = (
        engine.pool(carded(Card::Open)),
        engine.pool(carded(Card::Restricted)),
    );
    drop(open.take().await.unwrap());
    drop(restricted.take().await.unwrap());
    open.refill();
    until(|| engine.spares() == 1).await;
    let sandbox = restricted.take().await.unwrap();
    let accounts = network.accounts();
    let port = accounts
        .iter()
        .find(|port| port.sandbox == *sandbox.id())
        .unwrap();
    assert_eq!(port.card, Card::Restricted);
    drop((open, restricted, sandbox));
    engine.shutdown().await;
    b.engine.shutdown().await;
    b.assert_nothing_left("after pools with cards");
}

#[tokio::test(start_paused = true)]
async fn a_process_without_a_network_makes_no_card() {
    let b = bench().await;
    let error = b
        .engine
        .create(carded(Card::Restricted))
        .await
        .map(drop)
        .unwrap_err();
    assert!(!b.vmm.seen().iter().any(|seen| !seen.wakes.is_empty()), "{error}");
    b.engine.shutdown().await;
    b.assert_nothing_left("after a card without a network");
}
