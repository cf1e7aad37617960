use super::*;
use crate::child::{events::Events, flow::Flow};
use omnirun_egress_policy::Protocol;
use std::time::Duration;
use tokio::time::timeout;

fn guest(id: u64, process: &Arc<Process>) -> Arc<Guest> {
    let caps = Caps {
        connections: 8,
        ..Caps::default()
    };
    let mut tasks = JoinSet::new();
    Guest::new(id, Policy::none(), caps, Arc::clone(process), &mut tasks)
}

#[tokio::test(start_paused = true)]
async fn whoever_has_no_place_for_a_line_waits_and_nobody_else_does() {
    let (events, outbox) = Events::new();
    let process = Arc::new(Process::new(events, 1, tokio::runtime::Handle::current()));
    let (noisy, other) = (guest(1, &process), guest(2, &process));
    // Nobody reads the lines.
    for _ in 0..8 + MORE_SLOTS {
        drop(Flow::begin(&noisy, Protocol::Tcp, None, 443).await);
    }
    let minute = Duration::from_secs(60);
    let one_more = Flow::begin(&noisy, Protocol::Tcp, None, 443);
    tokio::pin!(one_more);
    assert!(timeout(minute, &mut one_more).await.is_err());
    assert!(
        timeout(minute, Flow::begin(&other, Protocol::Tcp, None, 443))
            .await
            .is_ok()
    );
    // Read, they leave room again.
    drop(outbox);
    drop(Flow::begin(&other, Protocol::Tcp, None, 443).await);
    assert!(timeout(minute, one_more).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn flows_begin_no_faster_than_they_may() {
    let (events, _outbox) = Events::new();
    let process = Arc::new(Process::new(events, 1, tokio::runtime::Handle::current()));
    let guest = guest(1, &process);
    let begun = tokio::time::Instant::now();
    for _ in 0..1000 {
        drop(Flow::begin(&guest, Protocol::Tcp, None, 443).await);
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(950), "{took:?}");
}
