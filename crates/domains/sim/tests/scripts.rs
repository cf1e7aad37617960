//! What a session's script does, as a client sees it: confirmations, threads, other clients, templates, interrupts, ends.

// Helpers outside of test functions panic as test functions do.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use omnirun_sim::Rule;

#[tokio::test]
async fn confirmations_threads_and_other_clients() {
    let sim = start(
        "
name: mixed
clock_scale: 20
events: {page_size: 3}
sessions:
  - name: a
    steps:
      - user: go
      - calls:
          - {name: yes, tool: bash, permission: ask, confirm: {verdict: allow, after: 2s}}
          - {name: no, tool: bash, permission: ask, confirm: {verdict: deny, when: before, message: never}, expect: {none: true}}
          - {name: refused, tool: bash, permission: deny, expect: {none: true}}
          - {name: theirs, tool: weather, kind: custom, owner: client, answer: {after: 1s, text: sunny}}
          - {name: side, tool: bash, thread: helper, expect: {any: true}}
      - do: {terminate_thread: helper}
",
    )
    .await;
    let client = Client::of(&sim);
    let (_, session, item) = client.hold().await;
    let mut stream = item.stream(&session).await;
    assert!(sim.wait_until(BOUND, |r| r.sessions[0].calls.len() == 5).await);
    let report = sim.report();
    let id = |name: &str| {
        report.sessions[0]
            .calls
            .iter()
            .find(|c| c.name == name)
            .unwrap()
            .id
            .clone()
    };
    assert_eq!(item.result(&session, &id("no"), "x").await.status, 400);
    assert_eq!(item.result(&session, &id("refused"), "x").await.status, 400);
    assert_eq!(item.result(&session, &id("side"), "x").await.status, 200);
    loop {
        if stream.until("user.tool_confirmation").await["result"] == "allow" {
            break;
        }
    }
    assert_eq!(item.result(&session, &id("yes"), "x").await.status, 200);
    assert!(
        sim.wait_until(BOUND, |r| r.sessions[0]
            .calls
            .iter()
            .all(|c| c.outcome == "answered" || c.outcome == "denied"))
            .await
    );
    // Small pages hold the whole history, once, in order.
    let mut all = Vec::new();
    let mut page = String::new();
    loop {
        let path = format!("/v1/sessions/{session}/events?limit=1000&page={page}");
        let body = item.call("GET", &path, "").await.body;
        let data = body["data"].as_array().unwrap();
        assert!(data.len() <= 3);
        all.extend(data.iter().map(|e| e["id"].as_str().unwrap().to_owned()));
        match body["next_page"].as_str() {
            Some(next) => page = next.to_owned(),
            None => break,
        }
    }
    let unique: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), all.len());
    let listed = item
        .call(
            "GET",
            &format!("/v1/sessions/{session}/events?types%5B%5D=user.custom_tool_result"),
            "",
        )
        .await;
    assert_eq!(listed.body["data"][0]["content"][0]["text"], "sunny");
    let rules: Vec<Rule> = sim.report().violations.iter().map(|v| v.rule).collect();
    assert_eq!(rules, [Rule::ResultForDenied, Rule::ResultForDenied]);
}

#[tokio::test]
async fn later_inputs_use_earlier_results() {
    let sim = start(
        "
name: templates
sessions:
  - name: a
    steps:
      - user: go
      - call: {name: one, tool: bash, capture: {pid: 'pid=(\\d+)'}}
      - call:
          name: two
          tool: bash
          input: {command: 'kill ${captures.pid} # ${results.one.text}'}
          expect: {exact: 'killed ${captures.pid}'}
",
    )
    .await;
    let client = Client::of(&sim);
    let (_, session, item) = client.hold().await;
    for (name, text) in [("one", "pid=17"), ("two", "killed 17")] {
        assert!(
            sim.wait_until(BOUND, |r| r.sessions[0].calls.iter().any(|c| c.name == name))
                .await
        );
        let history = item.history(&session).await;
        let call = history.iter().rfind(|e| e["type"] == "agent.tool_use").unwrap();
        if name == "two" {
            assert_eq!(call["input"]["command"], "kill 17 # pid=17");
        }
        assert_eq!(
            item.result(&session, call["id"].as_str().unwrap(), text)
                .await
                .status,
            200
        );
    }
    assert!(
        sim.wait_until(BOUND, |r| r.sessions[0].calls.iter().all(|c| c.ok)
            && r.sessions[0].calls.len() == 2)
            .await
    );
}

#[tokio::test]
async fn an_interrupt_a_termination_and_a_second_item() {
    let sim = start(
        "
name: ends
clock_scale: 10
sessions:
  - name: a
    steps:
      - user: go
      - calls:
          of: [{name: x, tool: bash}]
          meanwhile: [{after: 1s, do: interrupt}]
      - call: {name: skipped, tool: bash}
      - until_released: {within: 20s}
      - user: again
      - calls:
          of: [{name: y, tool: bash}]
          meanwhile: [{after: 1s, do: terminate}]
",
    )
    .await;
    let client = Client::of(&sim);
    let (id, session, item) = client.hold().await;
    let mut stream = item.stream(&session).await;
    stream.until("user.interrupt").await;
    assert_eq!(
        stream.until("session.status_idle").await["stop_reason"]["type"],
        "end_turn"
    );
    item.work("POST", &format!("/{id}/stop"), r#"{"force":true}"#)
        .await;
    let (second, _, item) = client.hold().await;
    assert_ne!(second, id);
    let mut stream = item.stream(&session).await;
    stream.until("session.status_terminated").await;
    assert!(stream.next().await.is_none(), "the stream ends with the session");
    let object = item
        .call("GET", &format!("/v1/sessions/{session}"), "")
        .await
        .body;
    assert_eq!(object["status"], "terminated");
    assert_eq!(item.result(&session, "x", "late").await.status, 400);
    item.work("POST", &format!("/{second}/stop"), r#"{"force":true}"#)
        .await;
    assert!(sim.wait_done(BOUND).await);
    let report = sim.stop().await;
    let outcomes: Vec<&str> = report.sessions[0]
        .calls
        .iter()
        .map(|c| c.outcome.as_str())
        .collect();
    assert_eq!(outcomes, ["interrupted", "session terminated"]);
    assert!(report.ok, "{:?}", report.failures);
}
