//! Faults: each does to a request what its name says, and only to those it names.

// Helpers outside of test functions panic as test functions do.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use omnirun_sim::{
    Endpoint, SimHandle,
    scenario::{Fault, Scenario},
};
use std::{
    io::{self, ErrorKind},
    path::Path,
};

fn fault(yaml: &str) -> Fault {
    let whole = format!("name: f\nfaults: [{yaml}]\n");
    Scenario::parse(&whole).unwrap().faults.remove(0)
}

const CALLS: &str = "
name: faults
sessions:
  - name: a
    steps:
      - user: go
      - call: {tool: bash, expect: {any: true}}
      - call: {tool: bash, expect: {any: true}}
      - call: {tool: bash, expect: {any: true}}
";

/// A session whose first call is open: the simulator, the session, the call, and who serves it.
async fn open_call() -> (SimHandle, String, String, Client) {
    let sim = start(CALLS).await;
    let (_, session, item) = Client::of(&sim).hold().await;
    assert!(sim.wait_until(BOUND, |r| r.sessions[0].calls.len() == 1).await);
    let id = sim.report().sessions[0].calls[0].id.clone();
    (sim, session, id, item)
}

fn cut_off(answer: io::Result<Reply>) -> bool {
    let kind = answer.err().unwrap().kind();
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn status_sequences_pass_first_and_end_in_time() {
    let sim = start("name: s\nfaults:\n  - {endpoint: poll, skip: 1, statuses: [503, 429], headers: {retry-after-ms: '5'}}\n").await;
    let client = Client::of(&sim);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(client.work("GET", "/poll", "").await.status);
    }
    assert_eq!(seen, [200, 503, 429, 200]);
    assert_eq!(client.work("GET", "/stats", "").await.status, 200);
    let report = sim.report();
    assert_eq!(report.faults.values().sum::<u32>(), 2);
    assert_eq!(report.requests[1].fault.as_deref(), Some("status 503"));
}

#[tokio::test]
async fn dropped_connections_lose_the_request_or_only_the_answer() {
    let (sim, session, id, item) = open_call().await;
    let path = format!("/v1/sessions/{session}/events");
    let mut received = Vec::new();
    for drop in ["before", "after"] {
        sim.inject_fault(fault(&format!("{{endpoint: events_send, drop: {drop}}}")));
        assert!(cut_off(item.try_call("POST", &path, &result(&id, "r")).await));
        received.push(sim.report().sessions[0].calls[0].received);
    }
    assert_eq!(received, [0, 1]);
    assert_eq!(item.result(&session, &id, "r").await.status, 200);
    assert_eq!(sim.report().sessions[0].calls[0].repeats, 1);
}

#[tokio::test]
async fn cut_bodies_announce_more_than_they_send() {
    let (sim, session, _, item) = open_call().await;
    let path = format!("/v1/sessions/{session}");
    sim.inject_fault(fault("{endpoint: session_get, truncate: 10}"));
    assert!(cut_off(item.try_call("GET", &path, "").await));
    assert_eq!(item.call("GET", &path, "").await.status, 200);
}

#[tokio::test]
async fn streams_close_break_err_and_repeat() {
    let (sim, session, id, item) = open_call().await;
    let mut streams = Vec::new();
    for kind in [
        "close_after: 1",
        "break_after: 1",
        "error_after: 1",
        "duplicate: true",
        "dribble: true",
    ] {
        sim.inject_fault(fault(&format!("{{endpoint: events_stream, stream: {{{kind}}}}}")));
        streams.push(item.stream(&session).await);
    }
    assert_eq!(item.result(&session, &id, "r").await.status, 200);
    for (index, stream) in streams.iter_mut().enumerate() {
        if index == 4 {
            let raw = stream.raw_until("\r\n\r\n").await;
            assert!(raw.contains("event: user.tool_result\r\ndata: {"), "{raw}");
            continue;
        }
        let first = stream.next().await;
        let first = first.unwrap_or_else(|| panic!("stream {index} gave nothing"));
        assert_eq!(first["type"], "user.tool_result");
        match index {
            2 => assert_eq!(stream.next().await.unwrap()["error"]["type"], "api_error"),
            3 => assert_eq!(stream.next().await.unwrap()["type"], "user.tool_result"),
            _ => assert!(stream.next().await.is_none()),
        }
    }
}

#[tokio::test]
async fn random_faults_hit_at_their_rate_and_spare_other_endpoints() {
    let sim = start("name: r\nrandom: {seed: 4, rates: {poll: {status_500: 0.3, drop_before: 0.2}}}\n").await;
    let client = Client::of(&sim);
    let path = format!("/v1/environments/{}/work/poll", client.environment);
    let (mut failed, mut dropped) = (0, 0);
    for _ in 0..100 {
        match client.try_call("GET", &path, "").await {
            Ok(reply) => failed += usize::from(reply.status == 500),
            Err(_) => dropped += 1,
        }
        assert_eq!(client.work("GET", "/stats", "").await.status, 200);
    }
    assert!(
        (15..45).contains(&failed) && (5..30).contains(&dropped),
        "{failed} {dropped}"
    );
    assert_eq!(
        sim.report()
            .requests
            .iter()
            .filter(|r| r.endpoint == Some(Endpoint::Poll))
            .count(),
        100
    );
}

#[test]
fn shipped_scenarios_load_and_bad_ones_name_their_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        Scenario::load(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        count += 1;
    }
    assert!(count >= 2);
    for (yaml, part) in [
        ("name: x\nsesions: []\n", "line 2"),
        (
            "name: x\nsessions:\n  - name: a\n    steps:\n      - cal: {tool: b}\n",
            "line 5",
        ),
        ("name: x\nfaults:\n  - {endpoint: pol}\n", "line 3"),
        (
            "name: x\nsessions: [{name: a, steps: []}, {name: a, steps: []}]\n",
            "two sessions",
        ),
        ("name: x\nclock_scale: 0\n", "clock_scale"),
        ("name: x\nclock_scale: 1e-300\n", "clock_scale"),
        (
            "name: x\nqueue: {ttl_seconds: 18446744073709551615}\n",
            "ttl_seconds",
        ),
        (
            "name: x\nsessions: [{name: a, steps: [{wait: 9999999999y}]}]\n",
            "more than a year",
        ),
        (
            "name: x\nsessions:\n  - {name: a, steps: [{call: {tool: b, expect: {regex: '('}}}]}\n",
            "pattern",
        ),
        ("name: x\nfaults: [{statuses: [200]}]\n", "from 400"),
    ] {
        let error = Scenario::parse(yaml).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.lines().count() == 1,
            "{yaml}: {error}"
        );
    }
}

#[test]
fn the_documented_examples_load() {
    let text = include_str!("../../../../docs/simulator.md");
    let blocks: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .map(|b| b.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 2);
    Scenario::parse(blocks[0]).unwrap();
    Scenario::parse(&format!("name: faults\n{}", blocks[1])).unwrap();
}
