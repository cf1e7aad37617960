//! Spares: how many, and within what.

use super::{bench, until};
use crate::{
    Engine,
    testing::{config, spec},
};
use omnirun_ids::ByteSize;

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
