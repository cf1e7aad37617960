//! The rows of the protocol reference's table of outcomes (10.3) that the queue decides: poll and acknowledge.

mod support;

use omnirun_worker::Exit;
use serde_json::json;
use support::{Api, KEY, PACE, Reply, Setup, item};

#[tokio::test]
async fn a_poll_that_is_refused_is_asked_once() {
    for status in [401, 403, 404] {
        let api = Api::start().await;
        api.always("poll", Reply::Status(status));
        let (exit, _) = Setup::default().start(&api).ended().await;
        assert!(matches!(exit, Exit::Refused(e) if e.status() == Some(status)));
        assert_eq!(api.order(), ["poll"]);
    }
}

#[tokio::test]
async fn a_poll_that_fails_is_tried_three_times_then_after_growing_pauses() {
    let api = Api::start().await;
    api.always("poll", Reply::Status(503));
    let worker = Setup::default().start(&api);
    api.until("nine polls", |i| i.asked.len() >= 9).await;
    worker.end().await;
    let pauses = api.pauses("poll");
    // Inside an attempt the transport's own pauses, between attempts 2-3 s and 4-5 s.
    for n in [0, 1, 3, 4] {
        assert!(pauses[n] >= 0.37 && pauses[n] < 2.0, "{pauses:?}");
    }
    assert!(pauses[2] >= 2.0 && pauses[5] >= 4.0, "{pauses:?}");
}

#[tokio::test]
async fn an_empty_queue_is_asked_again_after_one_to_three_seconds() {
    let api = Api::start().await;
    // `null`, and what other servers may say instead.
    api.script(
        "poll",
        [
            Reply::Normal,
            Reply::Bytes(Vec::new()),
            Reply::Bytes(b"null\n".to_vec()),
        ],
    );
    let worker = Setup::default().start(&api);
    api.until("five polls", |i| i.asked.len() >= 5).await;
    worker.end().await;
    let asked = &api.lock().asked;
    assert!(
        asked
            .iter()
            .all(|a| a.endpoint == "poll" && a.query == "block_ms=999")
    );
    let first = &asked[0];
    assert_eq!(first.bearer(), KEY);
    assert_eq!(first.headers["anthropic-worker-id"], "worker-1");
    assert_eq!(first.headers["anthropic-version"], "2026-10-21");
    assert_eq!(first.headers["anthropic-beta"], "managed-agents-2026-04-01");
    assert_eq!(first.headers["user-agent"], "omnirun/test");
    assert!(!first.headers.contains_key("x-api-key") && !first.headers.contains_key("content-type"));
    assert_eq!(first.path, "/prefix/v1/environments/env_1/work/poll");
}

#[tokio::test]
async fn empty_polls_pause() {
    let api = Api::start().await;
    let worker = Setup::default().start(&api);
    api.until("four polls", |i| i.asked.len() >= 4).await;
    worker.end().await;
    assert!(
        api.pauses("poll").iter().all(|p| *p >= 1.0),
        "{:?}",
        api.pauses("poll")
    );
}

#[tokio::test]
async fn an_item_that_is_gone_is_stopped_and_the_next_poll_comes_at_once() {
    let api = Api::start().await;
    api.lock().queue.push_back(item(1, Some("bm8")));
    api.script("ack", [Reply::Status(404)]);
    let worker = Setup::default().start(&api);
    api.until("a second poll", |i| i.asked.len() >= 4).await;
    worker.end().await;
    assert_eq!(api.order()[..4], ["poll", "ack", "stop", "poll"]);
    let inner = api.lock();
    assert_eq!(inner.asked[2].json(), json!({"force":true}));
    assert_eq!(inner.asked[2].bearer(), KEY);
    let pause = (inner.asked[3].at - inner.asked[0].at).as_secs_f64();
    assert!(pause < 0.5, "{pause}");
}

#[tokio::test]
async fn a_conflicting_acknowledgement_is_tried_three_times_and_left() {
    let api = Api::start().await;
    api.lock().queue.push_back(item(1, None));
    api.always("ack", Reply::Status(409));
    let worker = Setup::default().start(&api);
    api.until("a second poll", |i| i.count("poll") >= 2).await;
    worker.end().await;
    assert_eq!(api.order()[..5], ["poll", "ack", "ack", "ack", "poll"]);
    assert_eq!(api.count("stop"), 0);
    let inner = api.lock();
    assert!((inner.asked[4].at - inner.asked[3].at).as_secs_f64() / PACE >= 2.0);
    assert!(inner.asked[1].body.is_empty());
    assert_eq!(inner.asked[1].headers["content-length"], "0");
}
