//! The ways in which an item or a worker ends that are not the session's own, and what goes on beside.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

mod support;

use omnirun_sessions::Release;
use omnirun_worker::Exit;
use serde_json::json;
use std::time::Instant;
use support::{Api, FakeHands, KEY, Reply, Setup, call, idle, ms};

fn running(hands: &FakeHands) -> bool {
    !hands.seen.lock().unwrap().ran.is_empty()
}

#[tokio::test]
async fn a_lost_lease_kills_at_once_posts_nothing_and_stops_nothing() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"ms":60_000,"stubborn":true}))]);
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    api.until("the call runs", |_| running(&hands)).await;
    {
        let mut inner = api.lock();
        inner.beats_before.clear();
        inner.beats.insert("work_1".into(), "another worker's".into());
    }
    let moved = Instant::now();
    api.until("the hands are closed", |_| {
        !hands.seen.lock().unwrap().closed.is_empty()
    })
    .await;
    assert!(moved.elapsed() < ms(1000), "{:?}", moved.elapsed());
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Lost)]
    );
    worker.end().await;
    assert_eq!((api.count("send"), api.count("stop")), (0, 0));
}

#[tokio::test]
async fn a_lease_without_a_heartbeat_for_its_whole_time_is_assumed_lost() {
    let api = Api::start().await;
    api.lock().ttl = 1;
    api.session(1, [call("c1", "bash", json!({"ms":60_000,"stubborn":true}))]);
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    api.until("the call runs and a heartbeat came through", |i| {
        running(&hands) && !i.beats.is_empty()
    })
    .await;
    api.always("heartbeat", Reply::Status(503));
    let from = Instant::now();
    api.until("the hands are closed", |_| {
        !hands.seen.lock().unwrap().closed.is_empty()
    })
    .await;
    assert!(
        from.elapsed() > ms(700) && from.elapsed() < ms(2500),
        "{:?}",
        from.elapsed()
    );
    worker.end().await;
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Lost)]
    );
    assert_eq!((api.count("send"), api.count("stop")), (0, 0));
    let inner = api.lock();
    let queries: Vec<_> = inner
        .asked
        .iter()
        .filter(|a| a.endpoint == "heartbeat")
        .map(|a| &a.query)
        .collect();
    let stored = inner.beats["work_1"].replace(':', "%3A");
    assert!(
        queries[queries.len() - 3..].iter().all(|q| q.ends_with(&stored)),
        "the same value again: {queries:?}"
    );
}

#[tokio::test]
async fn a_long_tool_is_cancelled_when_the_server_says_stopping_and_its_partial_output_posted() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"ms":60_000}))]);
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    api.until("the call runs", |_| running(&hands)).await;
    api.lock().states.insert("work_1".into(), "stopping");
    let asked = Instant::now();
    api.until_stopped().await;
    assert!(asked.elapsed() >= ms(400), "it had its time");
    worker.end().await;
    let inner = api.lock();
    let result = &inner.sessions["sesn_1"].log[1];
    assert_eq!(
        (&result["content"][0]["text"], &result["is_error"]),
        (&json!("partial"), &json!(true))
    );
    let order: Vec<_> = inner
        .asked
        .iter()
        .map(|a| a.endpoint)
        .filter(|e| matches!(*e, "send" | "stop"))
        .collect();
    assert_eq!(order, ["send", "stop"]);
}

#[tokio::test]
async fn a_tool_that_does_not_end_when_cancelled_is_killed_and_the_item_stopped() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"ms":60_000,"stubborn":true}))]);
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    api.until("the call runs", |_| running(&hands)).await;
    api.lock().states.insert("work_1".into(), "stopping");
    api.until_stopped().await;
    worker.end().await;
    assert_eq!(api.count("send"), 0);
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Keep)]
    );
}

#[tokio::test]
async fn terminated_and_deleted_end_the_item_live_and_from_the_history() {
    for (kind, live) in [
        ("session.status_terminated", true),
        ("session.deleted", true),
        ("session.status_terminated", false),
        ("session.deleted", false),
    ] {
        let api = Api::start().await;
        let end = json!({"type":kind,"id":"sevt_end"});
        let work = call("c1", "bash", json!({"ms":60_000,"stubborn":true}));
        api.session(1, if live { vec![work] } else { vec![work, end.clone()] });
        let worker = Setup::default().start(&api);
        let hands = worker.hands.clone();
        if live {
            api.until("the call runs", |_| running(&hands)).await;
            api.emit(1, end);
        }
        api.until_stopped().await;
        worker.end().await;
        assert_eq!(
            hands.seen.lock().unwrap().closed,
            [("sesn_1".into(), Release::Remove)],
            "{kind} {live}"
        );
        assert_eq!(
            (hands.seen.lock().unwrap().ran.len(), api.count("send")),
            (usize::from(live), 0)
        );
    }
}

#[tokio::test]
async fn a_worker_that_is_refused_serves_its_sessions_to_their_end() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"ms":500})), idle("end_turn")]);
    api.script("poll", [Reply::Normal, Reply::Status(401)]);
    let (exit, hands) = Setup::default().start(&api).ended().await;
    assert!(matches!(exit, Exit::Refused(_)));
    assert_eq!(api.count("poll"), 2);
    assert_eq!(api.lock().sessions["sesn_1"].answered(), ["c1"]);
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Keep)]
    );
    assert_eq!(api.count("stop"), 1);
}

#[tokio::test]
async fn a_session_that_another_process_holds_is_waited_for_and_then_given_up() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({})), idle("end_turn")]);
    let setup = Setup::default();
    *setup.hands.held_for.lock().unwrap() = 3;
    let worker = setup.start(&api);
    api.until("served after all", |i| i.sessions["sesn_1"].answered() == ["c1"])
        .await;
    worker.end().await;

    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({}))]);
    let setup = Setup::default();
    *setup.hands.held_for.lock().unwrap() = usize::MAX;
    let worker = setup.start(&api);
    let hands = worker.hands.clone();
    api.until("given up", |_| !hands.seen.lock().unwrap().ended.is_empty())
        .await;
    worker.end().await;
    assert!(api.count("heartbeat") >= 5, "heartbeats while waiting");
    assert_eq!((api.count("stop"), api.count("stream")), (0, 0));
    assert_eq!(
        hands.seen.lock().unwrap().ended,
        ["another process of this host holds the session"]
    );
}

#[tokio::test]
async fn winding_down_serves_the_turn_on_within_its_grace_and_then_cancels() {
    let api = Api::start().await;
    // One session at rest, one whose turn ends soon, one that does not end.
    api.session(1, [idle("end_turn")]);
    api.session(
        2,
        [
            call("a1", "bash", json!({"ms":150})),
            call("a2", "bash", json!({"ms":50})),
            idle("end_turn"),
        ],
    );
    api.session(3, [call("b1", "bash", json!({"ms":60_000}))]);
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    let hands = worker.hands.clone();
    api.until("all run", |i| {
        hands.seen.lock().unwrap().ran.len() >= 2 && i.count("list") >= 6
    })
    .await;
    worker.shutdown.wind_down();
    let asked = Instant::now();
    let polls = api.count("poll");
    api.until("the one at rest is let go at once", |i| {
        i.states.get("work_1") == Some(&"stopped")
    })
    .await;
    assert!(asked.elapsed() < ms(400), "{:?}", asked.elapsed());
    let (exit, _) = worker.ended().await;
    assert!(matches!(exit, Exit::Stopped));
    assert!(api.count("poll") <= polls + 1);
    let inner = api.lock();
    assert_eq!(inner.sessions["sesn_2"].answered(), ["a1", "a2"]);
    assert_eq!(inner.sessions["sesn_3"].log[1]["content"][0]["text"], "partial");
    assert_eq!(inner.states.len(), 3, "all are stopped");
}

#[tokio::test]
async fn a_hard_stop_kills_at_once_and_leaves_the_item_to_come_back() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"ms":60_000,"stubborn":true}))]);
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    api.until("the call runs", |_| running(&hands)).await;
    worker.shutdown.hard();
    let asked = Instant::now();
    let (exit, _) = worker.ended().await;
    assert!(asked.elapsed() < ms(1000));
    assert!(matches!(exit, Exit::StoppedHard));
    assert_eq!((api.count("send"), api.count("stop")), (0, 0));
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Lost)]
    );
}

#[tokio::test]
async fn a_drain_ends_with_the_first_empty_poll_and_the_sessions() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"ms":200})), idle("end_turn")]);
    let (exit, _) = Setup {
        drain: true,
        ..Setup::default()
    }
    .start(&api)
    .ended()
    .await;
    assert!(matches!(exit, Exit::Drained));
    assert_eq!((api.count("poll"), api.count("stop")), (2, 1));
    assert_eq!(api.lock().sessions["sesn_1"].answered(), ["c1"]);
}

#[tokio::test]
async fn it_polls_only_while_there_is_room_and_serves_several_at_once() {
    let api = Api::start().await;
    for n in 1..=3 {
        api.session(
            n,
            [
                call(&format!("c{n}"), "bash", json!({"ms":600})),
                idle("end_turn"),
            ],
        );
    }
    let worker = Setup {
        max_sessions: 2,
        ..Setup::default()
    }
    .start(&api);
    let hands = worker.hands.clone();
    api.until("two run", |_| hands.seen.lock().unwrap().ran.len() == 2)
        .await;
    let beats = api.count("heartbeat");
    api.until("time passes", |i| i.count("heartbeat") >= beats + 6)
        .await;
    assert_eq!(api.count("poll"), 2);
    api.until("all over", |i| i.states.len() == 3).await;
    worker.end().await;
    assert_eq!(hands.seen.lock().unwrap().most_at_once, 2);
}

#[tokio::test]
async fn the_items_own_token_speaks_for_it_and_the_key_for_the_queue() {
    use base64::prelude::*;
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({})), idle("end_turn")]);
    let secret = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sessions_token":"tok-1"}"#);
    api.lock().queue[0]["secret"] = json!(secret);
    let worker = Setup::default().start(&api);
    api.until_stopped().await;
    worker.end().await;
    for asked in &api.lock().asked {
        let expected = if matches!(asked.endpoint, "poll" | "ack") {
            KEY
        } else {
            "tok-1"
        };
        assert_eq!(asked.bearer(), expected, "{}", asked.endpoint);
    }
}
