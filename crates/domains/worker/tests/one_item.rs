//! One item that somebody else has claimed, as `omnirun spawn` serves it.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

mod support;

use omnirun_work_proto::WorkItem;
use omnirun_worker::{End, Shutdown, WindDown};
use serde_json::{Value, json};
use std::time::Instant;
use support::{Api, FakeHands, Reply, Setup, call, idle, item, ms, timing};

fn running(hands: &FakeHands) -> bool {
    !hands.seen.lock().unwrap().ran.is_empty()
}

/// What `spawn` does: one item, claimed by somebody else.
async fn spawned(api: &Api, setup: &Setup, shutdown: &Shutdown, work: Value) -> End {
    let work: WorkItem = serde_json::from_value(work).unwrap();
    omnirun_worker::serve(&setup.item_config(api), &work, shutdown).await
}

#[tokio::test]
async fn one_item_is_served_without_polling_and_without_serving_on_when_asked_to_end() {
    let api = Api::start().await;
    api.session(
        1,
        [
            call("c1", "bash", json!({"ms":60_000})),
            call("c2", "bash", json!({})),
        ],
    );
    let wind_down = WindDown {
        serve_on: false,
        tool: ms(300),
        post: ms(1000),
        total: ms(5000),
    };
    let setup = Setup {
        wind_down,
        ..Setup::default()
    };
    let (shutdown, hands) = (Shutdown::new(), setup.hands.clone());
    let asked = async {
        api.until("the call runs", |_| running(&hands)).await;
        shutdown.wind_down();
    };
    let (end, ()) = tokio::join!(spawned(&api, &setup, &shutdown, item(1, None)), asked);
    assert_eq!(end, End::Drained);
    let inner = api.lock();
    assert_eq!(inner.sessions["sesn_1"].log[2]["content"][0]["text"], "partial");
    assert_eq!(inner.sessions["sesn_1"].log.len(), 3);
    let order: Vec<_> = inner.asked.iter().map(|a| a.endpoint).collect();
    assert!(!order.contains(&"poll") && !order.contains(&"ack"));
    assert_eq!(order.last(), Some(&"stop"));
}

#[tokio::test]
async fn an_item_without_any_credential_makes_no_request() {
    let api = Api::start().await;
    api.session(1, []);
    let setup = Setup {
        key: None,
        ..Setup::default()
    };
    let end = spawned(&api, &setup, &Shutdown::new(), item(1, Some("bm90IGpzb24"))).await;
    assert_eq!(end, End::NoCredential);
    assert!(api.order().is_empty());
}

#[tokio::test]
async fn hands_that_cannot_be_opened_end_the_item_and_a_call_that_cannot_run_is_answered() {
    let api = Api::start().await;
    api.session(1, []);
    let setup = Setup {
        hands: FakeHands {
            broken: true,
            ..FakeHands::default()
        },
        ..Setup::default()
    };
    assert_eq!(
        spawned(&api, &setup, &Shutdown::new(), item(1, None)).await,
        End::Failed
    );
    assert_eq!(api.count("stop"), 1);

    let api = Api::start().await;
    api.session(
        1,
        [
            call("c1", "bash", json!({"fail":true})),
            call("c2", "bash", json!({"unrecorded":true})),
            idle("end_turn"),
        ],
    );
    let setup = Setup::default();
    assert_eq!(
        spawned(&api, &setup, &Shutdown::new(), item(1, None)).await,
        End::Idle
    );
    for (at, says) in [
        (3, "the VMM did not start). Nothing is known to have run"),
        (4, "may have partly run"),
    ] {
        let result = api.lock().sessions["sesn_1"].log[at].clone();
        assert_eq!(result["is_error"], true);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(says) && !text.contains("/secret/path"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_stops_answering_posts_does_not_hold_up_a_wind_down() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({}))]);
    api.always("send", Reply::Status(500));
    let wind_down = WindDown {
        serve_on: false,
        tool: ms(100),
        post: ms(300),
        total: ms(5000),
    };
    let setup = Setup {
        wind_down,
        timing: omnirun_worker::Timing {
            pace: 1.0,
            ..timing()
        },
        ..Setup::default()
    };
    let shutdown = Shutdown::new();
    let asked = async {
        api.until("a post", |i| i.count("send") > 0).await;
        shutdown.wind_down();
        Instant::now()
    };
    let (end, since) = tokio::join!(spawned(&api, &setup, &shutdown, item(1, None)), asked);
    assert_eq!(end, End::Drained);
    assert!(since.elapsed() < ms(1500), "{:?}", since.elapsed());
    assert_eq!(api.count("stop"), 1);
}
