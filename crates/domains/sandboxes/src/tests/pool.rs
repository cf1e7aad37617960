//! Spares: how many, and within what.

use super::{bench, until};
use crate::{
    Engine, Why,
    testing::{Fault, Step, config, spec},
};
use omnirun_ids::ByteSize;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn the_pool_keeps_one_spare_for_each_user() {
    let b = bench().await;
    let (one, two) = (b.engine.pool(spec()), b.engine.pool(spec()));
    let first = one.take().await.unwrap();
    drop(two.take().await.unwrap());
    assert_eq!(b.engine.spares(), 0, "taking makes none");
    one.refill();
    one.refill();
    two.refill();
    let second = one.take().await.unwrap();
    let third = two.take().await.unwrap();
    assert_eq!(b.vmm.counts().1, 4, "what was on its way was taken");
    assert_ne!(second.id(), third.id());
    one.refill();
    two.refill();
    until(|| b.vmm.counts().1 == 6 && b.engine.spares() == 2).await;
    // A spare that died is not handed out.
    b.vmm.kill_all();
    let fresh = one.take().await.unwrap();
    assert!(fresh.is_alive());
    two.refill();
    until(|| b.engine.spares() >= 1).await;
    drop((one, two));
    until(|| b.engine.spares() == 0).await;
    drop((first, second, third, fresh));
    until(|| b.engine.vms() == 0).await;
    b.engine.shutdown().await;
    b.assert_nothing_left("after the pool");
}

#[tokio::test(start_paused = true)]
async fn the_pool_stays_within_its_budget() {
    let b = bench().await;
    let mut small = config(&b.root, &b.vmm, &b.heard).unwrap();
    small.pool_memory = Some(ByteSize::mib(100));
    let engine = Engine::open(small).await.unwrap();
    let users: Vec<_> = (0..8).map(|_| engine.pool(spec())).collect();
    for user in &users {
        drop(user.take().await.unwrap());
    }
    // The first is reckoned at 96 MiB, then measured at 20: five fit.
    let refill = || {
        users.iter().for_each(|user| user.refill());
        engine.spares() >= 5
    };
    until(refill).await;
    until(|| engine.vms() == 5).await;
    refill();
    assert_eq!(engine.spares(), 5);
    drop(users);
    engine.shutdown().await;
    b.engine.shutdown().await;
    b.assert_nothing_left("after a small pool");
}

/// A user for whom one clone waits beside the spare.
async fn with_one_waiting(b: &super::Bench) -> std::sync::Arc<crate::PoolHandle> {
    let user = b.engine.pool(spec());
    drop(user.take().await.unwrap());
    user.refill();
    until(|| b.engine.spares() == 1 && b.engine.vms() == 2 && b.vmm.living() == 2).await;
    user
}

#[tokio::test(start_paused = true)]
async fn a_clone_waits_with_its_process_ready_for_whoever_needs_one() {
    let b = bench().await;
    let user = with_one_waiting(&b).await;
    assert_eq!(b.vmm.counts().1, 2, "it has loaded nothing");
    user.refill();
    assert_eq!(b.engine.vms(), 2, "one is enough");
    let spare = user.take().await.unwrap();
    // The next one has to be made, and is made of it.
    let begun = b.vmm.seen().len();
    let made = user.take().await.unwrap();
    assert_eq!((b.vmm.seen().len(), b.vmm.counts().1), (begun, 3));
    let claimed = made.claim(b.claim()).await.unwrap();
    assert!(claimed.fresh);
    assert_eq!(b.engine.vms(), 2, "taking makes none");
    drop((spare, made));
    until(|| b.engine.vms() == 0).await;
    // It goes with its last user.
    user.refill();
    until(|| b.engine.vms() == 2).await;
    drop(user);
    until(|| b.engine.vms() == 0).await;
    b.engine.shutdown().await;
    b.assert_nothing_left("after one has waited");
}

#[tokio::test(start_paused = true)]
async fn one_that_ended_while_it_waited_is_nobodys_loss() {
    let b = bench().await;
    let user = with_one_waiting(&b).await;
    b.vmm.kill_all();
    until(|| b.engine.vms() == 0).await;
    let fresh = user.take().await.unwrap();
    assert!(fresh.is_alive());
    // One that cannot be prepared is said by its absence; and the snapshot is not to blame.
    b.vmm.set_fault(Step::Prepare, Fault::Die);
    user.refill();
    until(|| b.engine.spares() == 0 && b.engine.vms() == 1).await;
    b.vmm.clear_faults();
    assert!(user.take().await.unwrap().is_alive());
    assert_eq!(b.vmm.counts().0, 1, "the snapshot was not made anew");
    let other = b.other().await;
    drop((fresh, user, other));
    b.engine.shutdown().await;
    b.assert_nothing_left("after deaths of those that waited");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_and_a_dead_owner_leave_none_that_waited() {
    let b = bench().await;
    let user = with_one_waiting(&b).await;
    let reports = b.engine.shutdown().await;
    assert!(
        reports.iter().all(|r| r.is_clean() && r.why != Why::Orphaned),
        "{reports:?}"
    );
    drop(user);
    b.assert_nothing_left("after a shutdown");

    let b = bench().await;
    let user = with_one_waiting(&b).await;
    b.engine.die();
    let other = b.other().await;
    assert_eq!(other.takeover().sandboxes.len(), 2, "{}", other.takeover());
    assert!(other.takeover().is_clean());
    drop(user);
    b.engine.shutdown().await;
    other.shutdown().await;
    b.assert_nothing_left("after a takeover");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_another_process() {
    let b = bench().await;
    let other = b.other().await;
    // The other one makes the snapshot, and comes to no end.
    b.vmm.set_fault(Step::Start, Fault::Hang);
    let making = tokio::spawn({
        let other = other.clone();
        async move { other.prepare(&spec()).await.map(drop) }
    });
    until(|| b.vmm.living() == 1).await;
    let user = b.engine.pool(spec());
    user.refill();
    until(|| b.heard.all().contains(&crate::Notice::Waiting)).await;
    let over = tokio::time::timeout(Duration::from_secs(60), b.engine.shutdown()).await;
    assert_eq!(over.expect("it waits").len(), 0);
    drop(user);
    other.shutdown().await;
    assert!(making.await.unwrap().is_err());
    b.assert_nothing_left("after one waited for the other");
}
