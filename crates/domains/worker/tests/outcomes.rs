//! The rows of the protocol reference's table of outcomes (10.3) that a claimed item decides.

mod support;

use omnirun_sessions::Release;
use serde_json::{Value, json};
use support::{Api, PACE, Reply, Setup, call, idle, item, ms};

fn health(n: usize) -> Value {
    let mut work = item(n, None);
    work["data"] = json!({"type":"healthcheck"});
    work
}

#[tokio::test]
async fn a_first_heartbeat_that_is_refused_as_moved_stops_nothing() {
    let api = Api::start().await;
    api.session(1, []);
    api.script("heartbeat", [Reply::Status(412)]);
    let worker = Setup::default().start(&api);
    api.until("a second poll", |i| i.count("poll") >= 2).await;
    let (_, hands) = worker.end().await;
    assert_eq!((api.count("stop"), api.count("heartbeat")), (0, 1));
    assert_eq!(
        api.lock()
            .asked
            .iter()
            .find(|a| a.endpoint == "heartbeat")
            .unwrap()
            .query,
        "expected_last_heartbeat=NO_HEARTBEAT"
    );
    assert!(hands.seen.lock().unwrap().ran.is_empty());
}

#[tokio::test]
async fn a_heartbeat_for_an_unknown_item_ends_it_with_a_forced_stop() {
    let api = Api::start().await;
    api.session(1, []);
    api.script("heartbeat", [Reply::Normal, Reply::Status(404)]);
    let worker = Setup::default().start(&api);
    api.until_stopped().await;
    worker.end().await;
    assert_eq!((api.count("stop"), api.count("heartbeat")), (1, 2));
}

#[tokio::test]
async fn stopping_lets_the_running_tool_end_and_is_confirmed_under_heartbeats() {
    let api = Api::start().await;
    api.session(
        1,
        [
            call("c1", "bash", json!({"ms":250,"say":"whole"})),
            call("c2", "bash", json!({})),
        ],
    );
    let worker = Setup::default().start(&api);
    api.until("a heartbeat", |i| i.beats.contains_key("work_1")).await;
    let hands = worker.hands.clone();
    api.until("the call runs", |_| !hands.seen.lock().unwrap().ran.is_empty())
        .await;
    api.lock().states.insert("work_1".into(), "stopping");
    let before = api.count("heartbeat");
    api.until_stopped().await;
    let (_, hands) = worker.end().await;
    let log = api.lock().sessions["sesn_1"].log.clone();
    assert_eq!(log[2]["content"][0]["text"], "whole");
    assert_eq!(log.len(), 3, "the second call is not begun");
    assert!(api.count("heartbeat") >= before + 2, "heartbeats go on");
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Keep)]
    );
}

#[tokio::test]
async fn a_health_check_is_acknowledged_and_stopped_and_nothing_else() {
    let api = Api::start().await;
    api.lock().queue.push_back(health(1));
    let worker = Setup::default().start(&api);
    api.until_stopped().await;
    worker.end().await;
    let order: Vec<_> = api.order().into_iter().filter(|e| *e != "poll").collect();
    assert_eq!(order, ["ack", "stop"]);
}

#[tokio::test]
async fn a_terminated_session_is_stopped_without_a_stream_and_forgotten() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({}))]);
    api.lock().sessions.get_mut("sesn_1").unwrap().object["status"] = json!("terminated");
    let worker = Setup::default().start(&api);
    api.until_stopped().await;
    let (_, hands) = worker.end().await;
    assert_eq!(
        (api.count("session"), api.count("stream"), api.count("list")),
        (1, 0, 0)
    );
    assert!(api.count("heartbeat") >= 1);
    assert_eq!(hands.seen.lock().unwrap().forgotten, ["sesn_1"]);
}

#[tokio::test]
async fn a_session_that_may_not_be_read_is_stopped_and_the_worker_goes_on() {
    let api = Api::start().await;
    api.session(1, []);
    api.session(2, [call("c1", "bash", json!({})), idle("end_turn")]);
    api.script("session", [Reply::Status(403)]);
    let worker = Setup {
        max_sessions: 1,
        ..Setup::default()
    }
    .start(&api);
    api.until("both over", |i| i.count("stop") == 2).await;
    worker.end().await;
    assert_eq!(api.lock().sessions["sesn_2"].answered(), ["c1"]);
}

#[tokio::test]
async fn memory_stores_without_a_token_end_the_item() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({}))]);
    api.lock().sessions.get_mut("sesn_1").unwrap().object["resources"] = json!([{"type":"memory_store"}]);
    let worker = Setup::default().start(&api);
    api.until_stopped().await;
    let (_, hands) = worker.end().await;
    assert_eq!(api.count("stream"), 0);
    assert!(hands.seen.lock().unwrap().opened.is_empty());
}

#[tokio::test]
async fn a_stream_that_does_not_exist_ends_the_item() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({}))]);
    api.script("stream", [Reply::Status(404)]);
    let worker = Setup::default().start(&api);
    api.until_stopped().await;
    let polls = api.count("poll");
    api.until("the worker goes on", |i| i.count("poll") > polls).await;
    worker.end().await;
    assert_eq!(api.count("stream"), 1);
}

#[tokio::test]
async fn a_closed_stream_is_opened_again_after_growing_pauses_with_the_history_each_time() {
    let api = Api::start().await;
    api.session(1, []);
    api.always("stream", Reply::Bytes(Vec::new()));
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    api.until("five streams", |i| i.count("stream") == 5).await;
    worker.shutdown.hard();
    worker.ended().await;
    let gaps = api.pauses("stream");
    for (n, least) in [0.5, 1.0, 2.0, 4.0].into_iter().enumerate() {
        assert!(gaps[n] >= least, "{gaps:?}");
    }
    assert!(api.count("list") >= 2 * 4, "two pages each time");
    let order: Vec<_> = api
        .order()
        .into_iter()
        .filter(|e| matches!(*e, "stream" | "list"))
        .collect();
    assert_eq!(order[..4], ["stream", "list", "list", "stream"]);
}

#[tokio::test]
async fn a_refused_result_is_posted_once_until_a_reconnect() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({"say":"same"}))]);
    api.script("send", [Reply::Status(400)]);
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    api.until("a post", |i| i.count("send") > 0).await;
    // Events in between change nothing.
    for _ in 0..3 {
        let lists = api.count("list");
        api.emit(1, json!({"type":"session.status_running","id":"sevt_r"}));
        api.until("a heartbeat later", |i| {
            i.asked.last().is_some_and(|a| a.endpoint == "heartbeat")
        })
        .await;
        assert_eq!((api.count("send"), api.count("list")), (1, lists));
    }
    api.close_streams(1);
    api.until("a second post", |i| i.sessions["sesn_1"].answered() == ["c1"])
        .await;
    let hands = worker.hands.clone();
    worker.shutdown.hard();
    worker.ended().await;
    let inner = api.lock();
    let sent: Vec<_> = inner
        .asked
        .iter()
        .filter(|a| a.endpoint == "send")
        .map(|a| a.body.clone())
        .collect();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    assert_eq!(hands.seen.lock().unwrap().ran, ["c1"], "it ran once");
}

#[tokio::test]
async fn a_result_that_meets_a_broken_server_is_posted_for_the_lease_time() {
    let api = Api::start().await;
    api.lock().ttl = 2;
    api.session(1, [call("c1", "bash", json!({})), call("c2", "bash", json!({}))]);
    api.always("send", Reply::Status(500));
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    api.until("the second call's turn", |i| {
        i.asked
            .iter()
            .any(|a| a.endpoint == "send" && a.body.windows(4).any(|w| w == b"\"c2\""))
    })
    .await;
    worker.shutdown.hard();
    worker.ended().await;
    let inner = api.lock();
    let first: Vec<_> = inner
        .asked
        .iter()
        .filter(|a| a.endpoint == "send" && a.body.windows(4).any(|w| w == b"\"c1\""))
        .collect();
    let took = first.last().unwrap().at - first[0].at;
    assert!(took > ms(500) && took < ms(2500), "{took:?}");
    assert!(
        first.len() >= 9,
        "three posts an attempt, several attempts: {}",
        first.len()
    );
    assert!(
        first.iter().all(|a| a.body == first[0].body),
        "the same bytes each time"
    );
    let gap = (first[3].at - first[2].at).as_secs_f64() / PACE;
    assert!(gap >= 0.5, "{gap}");
}

#[tokio::test]
async fn a_turn_that_ended_gives_the_item_up_after_the_idle_time() {
    let api = Api::start().await;
    api.session(1, [json!({"type":"user.message","id":"sevt_m"})]);
    let worker = Setup::default().start(&api);
    api.until("a history", |i| i.count("list") == 2).await;
    api.emit(1, idle("end_turn"));
    let armed = std::time::Instant::now();
    api.until_stopped().await;
    assert!(armed.elapsed() >= ms(200));
    let (_, hands) = worker.end().await;
    assert_eq!(
        hands.seen.lock().unwrap().closed,
        [("sesn_1".into(), Release::Keep)]
    );
}

#[tokio::test]
async fn a_session_that_waits_for_an_action_is_kept() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({})), idle("end_turn")]);
    let worker = Setup::default().start(&api);
    api.until("the answer", |i| i.sessions["sesn_1"].answered() == ["c1"])
        .await;
    api.emit(1, idle("requires_action"));
    let since = api.count("heartbeat");
    api.until("many idle times", |i| i.count("heartbeat") > since + 15)
        .await;
    assert_eq!(api.count("stop"), 0);
    worker.shutdown.hard();
    worker.ended().await;
}
