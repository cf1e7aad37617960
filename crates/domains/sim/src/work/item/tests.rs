//! The table of the protocol reference as examples, then random histories with several holders.

use super::*;
use proptest::prelude::*;

const TTL: Duration = Duration::from_secs(10);
const RECLAIM: Duration = Duration::from_secs(5);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn held() -> Item {
    let mut item = Item::new(TTL);
    assert!(item.offer(s(0), RECLAIM));
    item.ack(s(0)).unwrap();
    item
}

#[test]
fn a_life_by_the_rules() {
    let mut item = held();
    assert_eq!(item.phase().name(), "starting");
    assert_eq!(
        item.beat(s(1), Some(NO_HEARTBEAT), "a".into()),
        Beat::Extended("a".into())
    );
    assert_eq!(item.beat(s(2), Some("a"), "b".into()), Beat::Extended("b".into()));
    assert_eq!(item.phase().name(), "active");
    item.stop(s(3), false).unwrap();
    assert_eq!(
        item.beat(s(4), Some("nonsense"), "c".into()),
        Beat::Ending("stopping")
    );
    item.stop(s(5), true).unwrap();
    assert_eq!(item.beat(s(6), Some("b"), "d".into()), Beat::Ending("stopped"));
    assert_eq!(item.stop(s(7), true), Err(AlreadyStopped));
    assert_eq!(item.times().stop_requested, Some(s(3)));
    assert_eq!(item.times().stopped, Some(s(5)));
}

#[test]
fn an_unacknowledged_item_is_offered_again_after_the_reclaim_time() {
    let mut item = Item::new(TTL);
    assert!(item.offer(s(0), RECLAIM));
    assert!(!item.offer(s(5), RECLAIM));
    assert!(item.offer(s(6), RECLAIM));
    item.ack(s(6)).unwrap();
    assert_eq!(item.ack(s(6)), Err(AckDenied::Already("starting")));
    assert_eq!(Item::new(TTL).ack(s(0)), Err(AckDenied::NotPending));
}

#[test]
fn an_expired_lease_moves_the_item_and_the_old_holder_gets_412() {
    let mut item = held();
    item.beat(s(1), Some(NO_HEARTBEAT), "a".into());
    assert!(!item.expire(s(10)));
    assert!(item.expire(s(11)));
    assert_eq!(
        item.beat(s(11), Some("a"), "b".into()),
        Beat::Moved {
            state: "queued",
            stored: None
        }
    );
    assert!(item.offer(s(12), RECLAIM));
    item.ack(s(12)).unwrap();
    assert_eq!(
        item.beat(s(12), Some("a"), "b".into()),
        Beat::Moved {
            state: "starting",
            stored: None
        }
    );
    assert_eq!(
        item.beat(s(12), Some(NO_HEARTBEAT), "c".into()),
        Beat::Extended("c".into())
    );
    let moved = Beat::Moved {
        state: "active",
        stored: Some("c".into()),
    };
    assert_eq!(item.beat(s(13), Some("a"), "d".into()), moved);
}

#[test]
fn a_stopping_item_whose_holder_is_gone_stops() {
    let mut item = held();
    item.stop(s(1), false).unwrap();
    assert!(item.expire(s(11)));
    assert!(!item.is_live());
}

#[derive(Clone, Debug)]
enum Op {
    Poll(usize),
    Ack(usize),
    Beat(usize),
    Stop(bool),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3usize).prop_map(Op::Poll),
        4 => (0..3usize).prop_map(Op::Ack),
        8 => (0..3usize).prop_map(Op::Beat),
        1 => any::<bool>().prop_map(Op::Stop),
        6 => (0..12u64).prop_map(Op::Wait),
    ]
}

/// What one worker believes.
#[derive(Default)]
struct Holder {
    acked: bool,
    last: Option<String>,
    /// Set when its lease ended: from then on no beat of that tenure may succeed.
    lost: bool,
}

proptest! {
    #[test]
    fn at_most_one_holder_and_no_way_back(ops in proptest::collection::vec(op(), 1..200)) {
        let mut item = Item::new(TTL);
        let mut holders: [Holder; 3] = Default::default();
        let mut now = s(0);
        let mut stamp = 0u32;
        let mut stopped = false;
        for op in ops {
            if item.expire(now) && item.is_live() {
                for holder in &mut holders {
                    holder.lost |= holder.acked;
                }
            }
            match op {
                Op::Poll(who) => {
                    let before = item.phase().clone();
                    if item.offer(now, RECLAIM) {
                        let eligible = match before {
                            Phase::Queued { pending: None } => true,
                            Phase::Queued { pending: Some(since) } => now - since > RECLAIM,
                            _ => false,
                        };
                        prop_assert!(eligible);
                        holders[who] = Holder::default();
                    }
                }
                Op::Ack(who) => {
                    let pending = matches!(item.phase(), Phase::Queued { pending: Some(_) });
                    prop_assert_eq!(item.ack(now).is_ok(), pending);
                    if pending {
                        holders[who] = Holder { acked: true, ..Holder::default() };
                    }
                }
                Op::Beat(who) => {
                    let holder = &mut holders[who];
                    if !holder.acked {
                        continue;
                    }
                    stamp += 1;
                    let expected = holder.last.clone().unwrap_or_else(|| NO_HEARTBEAT.into());
                    match item.beat(now, Some(&expected), stamp.to_string()) {
                        Beat::Extended(value) => {
                            // A lost holder that never beat is told apart by nothing but its tenure; all others are.
                            prop_assert!(!holder.lost || holder.last.is_none(), "a lost lease was extended");
                            prop_assert_eq!(item.deadline(), Some(now + TTL));
                            holder.last = Some(value);
                            // It beat the next holder to the first beat, and so is the holder.
                            holder.lost = false;
                        }
                        Beat::Ending(state) => prop_assert!(state == "stopping" || state == "stopped"),
                        Beat::Moved { stored, .. } => prop_assert_ne!(stored.unwrap_or_else(|| "?".into()), expected),
                    }
                }
                Op::Stop(force) => {
                    let live = item.is_live();
                    prop_assert_eq!(item.stop(now, force).is_ok(), live);
                    prop_assert!(!force || !item.is_live());
                }
                Op::Wait(seconds) => now += s(seconds),
            }
            prop_assert!(!stopped || !item.is_live(), "a stopped item came back");
            stopped |= !item.is_live();
        }
    }
}
