//! What arrives on the stream and in the history, good and bad, and what is made of it.

mod support;

use serde_json::{Value, json};
use support::{Api, Setup, call, idle, ms};

fn asking(id: &str) -> Value {
    let mut call = call(id, "bash", json!({"ms":100}));
    call["evaluated_permission"] = json!("ask");
    call
}

fn verdict(id: &str, result: &str) -> Value {
    json!({"type":"user.tool_confirmation","id":format!("sevt_v_{id}"),"tool_use_id":id,"result":result})
}

async fn all_listed(api: &Api) {
    api.until("a history", |i| i.count("list") >= 2).await;
}

#[tokio::test]
async fn confirmations_let_calls_go_or_deny_them() {
    let api = Api::start().await;
    api.session(
        1,
        [asking("c1"), asking("c2"), verdict("c2", "deny"), asking("c3")],
    );
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    all_listed(&api).await;
    api.emit(1, idle("end_turn"));
    api.emit(1, verdict("c3", "deny"));
    // The item does not go idle while a call is held.
    let beats = api.count("heartbeat");
    api.until("many idle times", |i| i.count("heartbeat") > beats + 12)
        .await;
    assert_eq!((api.count("send"), api.count("stop")), (0, 0));
    api.emit(1, verdict("c1", "allow"));
    api.until_stopped().await;
    worker.end().await;
    assert_eq!(api.lock().sessions["sesn_1"].answered(), ["c1"]);
    assert_eq!(hands.seen.lock().unwrap().ran, ["c1"]);
}

#[tokio::test]
async fn tools_of_others_are_left_alone_and_custom_results_have_their_form() {
    let api = Api::start().await;
    let mut custom = call("c3", "read", json!({}));
    custom["type"] = json!("agent.custom_tool_use");
    let mut mcp = call("c4", "bash", json!({}));
    mcp["type"] = json!("agent.mcp_tool_use");
    api.session(1, [call("c1", "web_search", json!({})), custom, mcp]);
    let worker = Setup::default().start(&api);
    all_listed(&api).await;
    api.emit(1, call("c2", "my_tool", json!({})));
    api.emit(1, call("c5", "bash", json!({})));
    api.until("ours are answered", |i| {
        i.sessions["sesn_1"].answered().len() == 2
    })
    .await;
    worker.end().await;
    let inner = api.lock();
    assert_eq!(inner.sessions["sesn_1"].answered(), ["c3", "c5"]);
    let result = inner.sessions["sesn_1"]
        .log
        .iter()
        .find(|e| e["custom_tool_use_id"] == "c3")
        .unwrap();
    assert_eq!(result["type"], "user.custom_tool_result");
    assert!(result.get("tool_use_id").is_none());
}

#[tokio::test]
async fn a_call_in_history_and_stream_runs_once_and_calls_are_serial_in_order() {
    let api = Api::start().await;
    let calls: Vec<Value> = (0..6)
        .map(|n| call(&format!("c{n}"), "bash", json!({"ms":20})))
        .collect();
    api.session(1, calls[..3].to_vec());
    let worker = Setup::default().start(&api);
    all_listed(&api).await;
    for call in &calls {
        let frame = format!("event: agent.tool_use\ndata: {call}\n\n");
        api.emit_raw(1, frame.as_bytes());
    }
    api.until("all answered", |i| i.sessions["sesn_1"].answered().len() == 6)
        .await;
    let (_, hands) = worker.end().await;
    let seen = hands.seen.lock().unwrap();
    assert_eq!(seen.ran, ["c0", "c1", "c2", "c3", "c4", "c5"]);
    assert_eq!((seen.most_at_once, &seen.posted), (1, &seen.ran));
}

#[tokio::test]
async fn results_from_elsewhere_and_dead_threads_leave_nothing_to_post() {
    let api = Api::start().await;
    let mut threaded = call("c2", "bash", json!({"ms":300}));
    threaded["session_thread_id"] = json!("sthr_1");
    api.session(1, [call("c1", "bash", json!({"ms":300})), threaded]);
    let worker = Setup::default().start(&api);
    let hands = worker.hands.clone();
    api.until("the first runs", |_| hands.seen.lock().unwrap().ran.len() == 1)
        .await;
    api.emit(
        1,
        json!({"type":"user.tool_result","id":"sevt_x","tool_use_id":"c1"}),
    );
    api.until("the second runs", |_| hands.seen.lock().unwrap().ran.len() == 2)
        .await;
    api.emit(
        1,
        json!({"type":"session.thread_status_terminated","id":"sevt_y","session_thread_id":"sthr_1"}),
    );
    api.emit(1, idle("end_turn"));
    api.until_stopped().await;
    worker.end().await;
    assert_eq!(api.count("send"), 0);
}

#[tokio::test]
async fn malformed_events_cost_themselves_alone() {
    let api = Api::start().await;
    api.session(
        1,
        [
            json!({"type":"agent.tool_use","id":"../../etc","name":"bash","input":{}}),
            json!({"type":"agent.tool_use","name":"bash"}),
            json!({"no":"type"}),
            json!(null),
            json!([1, 2]),
            call("c1", "bash", json!({})),
        ],
    );
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    all_listed(&api).await;
    let bad: [&[u8]; 12] = [
        b"event: agent.tool_use\ndata: {\"type\":\n\n",
        b"event: agent.tool_use\ndata: not json\n\n",
        b"event: agent.tool_use\n\n",
        b"data\n\n",
        b"event: x\ndata: {\"type\":7}\n\n",
        b"event: x\ndata: \xff\xfe\x00\n\n",
        b": comment\n\n",
        b"event: ping\ndata: {}\n\n",
        b"id: 1\nretry: 5\n\n",
        b"event: agent.tool_use\ndata: {\"type\":\"agent.tool_use\",\"id\":\"\",\"name\":\"bash\"}\n\n",
        b"event: brand.new\r\ndata: {\"type\":\"brand.new\"}\r\n\r\n",
        b"event: user.message\ndata: {\"type\":\"user.message\",\"content\":\"\\ud800\"}\n\n",
    ];
    for frame in bad {
        api.emit_raw(1, frame);
    }
    // A call with bytes that are no UTF-8 and half a surrogate pair is a call all the same.
    api.emit_raw(
        1,
        b"event: agent.tool_use\ndata: {\"type\":\"agent.tool_use\",\"id\":\"c2\",\"name\":\"bash\",\"input\":{\"command\":\"\xff\\udc00\"}}\n\n",
    );
    // One without an `event:` line is known by its type.
    api.emit_raw(
        1,
        b"data: {\"type\":\"agent.tool_use\",\"id\":\"c3\",\"name\":\"bash\"}\n\n",
    );
    api.until("all good ones are answered", |i| {
        i.sessions["sesn_1"].answered().len() == 3
    })
    .await;
    assert_eq!(api.count("stream"), 1, "the stream was not given up");
    let (_, hands) = worker.end().await;
    let seen = hands.seen.lock().unwrap();
    assert_eq!(seen.ran, ["c1", "c2", "c3"]);
    assert_eq!(seen.inputs["c2"], "{\"command\":\"\u{fffd}\\ufffd\"}");
    assert_eq!(seen.inputs["c3"], "{}");
}

#[tokio::test]
async fn ten_megabytes_of_input_arrive_whole_by_stream_and_history() {
    let api = Api::start().await;
    let big = "x\u{e9}\n".repeat(10 << 18);
    api.session(1, [call("c1", "write", json!({"content":big}))]);
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    all_listed(&api).await;
    api.emit(1, call("c2", "write", json!({"content":big})));
    api.until("both are answered", |i| {
        i.sessions["sesn_1"].answered().len() == 2
    })
    .await;
    let (_, hands) = worker.end().await;
    for id in ["c1", "c2"] {
        let input: Value = serde_json::from_str(&hands.seen.lock().unwrap().inputs[id]).unwrap();
        assert_eq!(input["content"].as_str().unwrap(), big);
    }
}

#[tokio::test]
async fn an_error_on_the_stream_is_a_reconnect_and_finds_what_was_missed() {
    let api = Api::start().await;
    api.session(1, []);
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    all_listed(&api).await;
    // Into the history only, as if it had been emitted between two streams.
    api.lock()
        .sessions
        .get_mut("sesn_1")
        .unwrap()
        .log
        .push(call("c1", "bash", json!({})));
    api.emit_raw(
        1,
        b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
    );
    api.until("answered", |i| i.sessions["sesn_1"].answered() == ["c1"])
        .await;
    assert_eq!(api.count("stream"), 2);
    worker.end().await;
}

#[tokio::test]
async fn a_history_that_fails_dispatches_nothing_and_is_read_again() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({})), idle("end_turn")]);
    // The first page comes, the second does not, in all three tries of it.
    use support::Reply::{Normal, Status};
    api.script(
        "list",
        [Normal, Status(500), Status(500), Status(500), Status(403)],
    );
    let worker = Setup {
        max_idle: None,
        ..Setup::default()
    }
    .start(&api);
    api.until("the list failed", |i| i.count("list") >= 4).await;
    api.emit(1, call("c2", "bash", json!({"ms":1})));
    api.until("the live one is answered first", |i| {
        !i.sessions["sesn_1"].answered().is_empty()
    })
    .await;
    assert_eq!(api.lock().sessions["sesn_1"].answered()[0], "c2");
    api.until("then the other", |i| {
        i.sessions["sesn_1"].answered() == ["c2", "c1"]
    })
    .await;
    assert_eq!(api.count("stream"), 1);
    worker.end().await;
}

#[tokio::test]
async fn a_lost_answer_to_a_post_is_not_a_second_result_when_the_echo_came() {
    let api = Api::start().await;
    api.session(1, [call("c1", "bash", json!({}))]);
    api.script("send", [support::Reply::Lost]);
    let worker = Setup {
        max_idle: Some(ms(100)),
        transport_pace: 1.0, // the echo has to come within the pause before the next try
        ..Setup::default()
    }
    .start(&api);
    let hands = worker.hands.clone();
    api.until("posted", |_| hands.seen.lock().unwrap().posted == ["c1"])
        .await;
    worker.end().await;
    assert_eq!(api.lock().sessions["sesn_1"].answered(), ["c1"]);
}
