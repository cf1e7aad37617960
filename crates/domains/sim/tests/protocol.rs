//! The protocol as a client sees it: queue, leases, sessions, events, credentials.

// Helpers outside of test functions panic as test functions do.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use omnirun_sim::Rule;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ONE: &str = "
name: one
queue: {ttl_seconds: 2}
sessions:
  - name: a
    steps:
      - user: go
      - call: {name: x, tool: bash, input: {command: id}, expect: {contains: [uid], lacks: [gid]}}
";

fn ids_of(history: &[Value], kind: &str) -> Vec<String> {
    history
        .iter()
        .filter(|e| e["type"] == kind)
        .map(|e| e["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn an_empty_poll_is_null_and_held_no_longer_than_asked() {
    let sim = start("name: empty\nsessions: []\n").await;
    let client = Client::of(&sim);
    let begun = Instant::now();
    let reply = client.work("GET", "/poll?block_ms=300", "").await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((reply.status, &reply.body), (200, &Value::Null));
    assert!(
        reply.head.contains("content-type: application/json") && reply.head.contains("content-length: 4")
    );
    assert_eq!(client.work("GET", "/poll", "").await.body, Value::Null);
    for bad in ["0", "1000", "-1", "x"] {
        assert_eq!(
            client
                .work("GET", &format!("/poll?block_ms={bad}"), "")
                .await
                .status,
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn credentials_are_told_apart_by_value() {
    let sim = start(ONE).await;
    let client = Client::of(&sim);
    let organization = client.with(&sim.organization_key());
    let none = client.with("").work("GET", "/poll", "").await;
    assert_eq!(
        (none.status, &none.body["error"]["type"]),
        (401, &json!("authentication_error"))
    );
    assert!(none.head.contains("request-id: req_"));
    assert_eq!(none.body["type"], "error");
    assert_eq!(
        client
            .with("sk-ant-oat01-other")
            .work("GET", "/poll", "")
            .await
            .status,
        401
    );
    assert_eq!(organization.work("GET", "/poll", "").await.status, 403);
    assert_eq!(
        organization.work("GET", "", "").await.status,
        403,
        "list rejects the organization's key"
    );
    let (id, session, item) = client.hold().await;
    assert_eq!(organization.work("GET", &format!("/{id}"), "").await.status, 200);
    assert_eq!(client.work("GET", &format!("/{id}"), "").await.status, 403);
    for holder in [&client, &item, &organization] {
        assert_eq!(
            holder
                .call("GET", &format!("/v1/sessions/{session}"), "")
                .await
                .status,
            200
        );
    }
    assert_eq!(item.work("GET", "/poll", "").await.status, 403);
    assert_eq!(item.call("GET", "/v1/sessions/sesn_other", "").await.status, 403);
    assert_eq!(
        client.call("GET", "/v1/sessions/sesn_other", "").await.status,
        404
    );
    assert!(
        sim.report()
            .violations
            .iter()
            .any(|v| v.rule == Rule::OrganizationKeyUsed)
    );
    let report = serde_json::to_string(&sim.report()).unwrap();
    for secret in sim.secrets() {
        assert!(!report.contains(&secret), "a credential is in the report");
    }
}

#[tokio::test]
async fn a_session_from_claim_to_end() {
    let sim = start(ONE).await;
    let client = Client::of(&sim);
    let (id, session, item) = client.hold().await;
    let mut stream = item.stream(&session).await;
    let first = item.beat(&id, "NO_HEARTBEAT").await;
    assert_eq!(first.body["state"], "active");
    assert_eq!(first.body["ttl_seconds"], 2);
    let last = first.body["last_heartbeat"].as_str().unwrap().to_owned();
    assert_eq!(item.beat(&id, "NO_HEARTBEAT").await.status, 412);
    let second = item.beat(&id, &last).await;
    assert_ne!(second.body["last_heartbeat"], first.body["last_heartbeat"]);
    let moved = item.beat(&id, &last).await;
    assert_eq!(moved.status, 412);
    let details = &moved.body["error"]["details"];
    assert_eq!(details["error_code"], "heartbeat_precondition_failed");
    assert_eq!(
        details["current_state"]["last_heartbeat"],
        second.body["last_heartbeat"]
    );

    let calls = loop {
        let calls = ids_of(&item.history(&session).await, "agent.tool_use");
        if !calls.is_empty() {
            break calls;
        }
        stream.until("agent.tool_use").await;
    };
    assert_eq!(item.result(&session, "sevt_nope", "x").await.status, 400);
    assert_eq!(item.result(&session, &calls[0], "uid=0").await.status, 200);
    assert_eq!(
        item.result(&session, &calls[0], "uid=0").await.status,
        200,
        "a repeat is accepted"
    );
    assert_eq!(stream.until("user.tool_result").await["tool_use_id"], calls[0]);
    let end = loop {
        let idle = stream.until("session.status_idle").await;
        if idle["stop_reason"]["type"] == "end_turn" {
            break idle;
        }
    };
    assert!(end["processed_at"].is_string());
    let history = item.history(&session).await;
    let kinds: Vec<&str> = history.iter().map(|e| e["type"].as_str().unwrap()).collect();
    let expected = [
        "user.message",
        "session.status_running",
        "agent.tool_use",
        "session.status_idle",
        "user.tool_result",
        "session.status_running",
        "session.status_idle",
    ];
    assert_eq!(kinds, expected);
    let times: Vec<&str> = history
        .iter()
        .map(|e| e["processed_at"].as_str().unwrap())
        .collect();
    assert!(times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
    assert_eq!(history[3]["stop_reason"]["event_ids"], json!(calls));

    assert_eq!(
        item.work("POST", &format!("/{id}/stop"), "{}").await.body["state"],
        "stopping"
    );
    let stopping = item.beat(&id, "whatever").await;
    assert_eq!(
        (stopping.status, &stopping.body["state"]),
        (200, &json!("stopping"))
    );
    assert_eq!(
        item.work("POST", &format!("/{id}/stop"), r#"{"force":true}"#)
            .await
            .body["state"],
        "stopped"
    );
    let again = item
        .work("POST", &format!("/{id}/stop"), r#"{"force":true}"#)
        .await;
    assert_eq!(again.status, 409);
    assert!(again.head.contains("x-should-retry: false"));
    assert!(sim.wait_done(BOUND).await);
    let report = sim.stop().await;
    // The unknown id above is a violation, and nothing else is.
    assert_eq!(
        report.violations.iter().map(|v| v.rule).collect::<Vec<_>>(),
        [Rule::ResultForUnknownCall]
    );
    let call = &report.sessions[0].calls[0];
    assert_eq!((call.received, call.repeats, call.ok), (2, 1, true));
}

#[tokio::test]
async fn the_secret_is_in_the_poll_response_alone() {
    let sim = start(ONE).await;
    let client = Client::of(&sim);
    let item = client.claim().await;
    assert!(item["secret"].is_string());
    let id = item["id"].as_str().unwrap();
    for (who, method, path) in [
        (client.clone(), "GET", String::new()),
        (client.with(&sim.organization_key()), "GET", format!("/{id}")),
        (client.clone(), "POST", format!("/{id}/ack")),
    ] {
        let body = who.work(method, &path, "").await.body;
        let item = if body["data"].is_array() {
            &body["data"][0]
        } else {
            &body
        };
        assert!(
            item["id"].is_string() && item["secret"].is_null(),
            "{method} {path}: {body}"
        );
    }
}

#[tokio::test]
async fn an_unacknowledged_item_comes_back_and_an_expired_lease_moves() {
    let sim = start(ONE).await;
    let client = Client::of(&sim);
    let lost = client.claim().await;
    assert_eq!(client.work("GET", "/poll", "").await.body, Value::Null);
    let stats = client.work("GET", "/stats", "").await.body;
    assert_eq!(
        (&stats["depth"], &stats["pending"], &stats["workers_polling"]),
        (&json!(0), &json!(1), &json!(1))
    );
    // Held until the reclaim time, then handed out within the same poll.
    let again = client
        .work("GET", "/poll?block_ms=999&reclaim_older_than_ms=200", "")
        .await
        .body;
    assert_eq!(again["id"], lost["id"]);
    assert_ne!(again["secret"], lost["secret"]);
    let id = again["id"].as_str().unwrap().to_owned();
    assert_eq!(client.work("POST", &format!("/{id}/ack"), "").await.status, 200);
    assert_eq!(client.work("POST", &format!("/{id}/ack"), "").await.status, 409);
    let old = client.with(&token(&again));
    let beat = old.beat(&id, "NO_HEARTBEAT").await.body["last_heartbeat"]
        .as_str()
        .unwrap()
        .to_owned();
    // No further beat: the lease of 2 s ends by itself.
    let (next, session, new) = client.hold().await;
    assert_eq!(next, id);
    assert_eq!(old.beat(&id, &beat).await.status, 412);
    assert_eq!(
        old.beat(&id, "NO_HEARTBEAT").await.status,
        412,
        "not even before the new holder's first beat"
    );
    assert_eq!(new.beat(&id, "NO_HEARTBEAT").await.status, 200);
    // What was under way when the 412 came is forgiven; later requests are not.
    let rules = || sim.report().violations.iter().map(|v| v.rule).collect::<Vec<_>>();
    let call = ids_of(&new.history(&session).await, "agent.tool_use");
    let told = Instant::now();
    while rules().is_empty() {
        assert!(told.elapsed() < BOUND);
        old.result(&session, &call[0], "uid").await;
    }
    assert!(
        told.elapsed() > Duration::from_millis(300),
        "{:?}",
        told.elapsed()
    );
    old.work("POST", &format!("/{id}/stop"), r#"{"force":true}"#)
        .await;
    assert_eq!(rules(), [Rule::PostAfterLostLease, Rule::StopAfterLostLease]);
}

#[tokio::test]
async fn the_control_plane_makes_environments_and_sessions() {
    let sim = start("name: api\nsessions:\n  - {name: coder, on_create: true, steps: [{user: hi}, {call: {tool: bash}}]}\n").await;
    let client = Client::of(&sim);
    let organization = client.with(&sim.organization_key());
    let made = organization
        .call(
            "POST",
            "/v1/environments",
            r#"{"name":"e2","config":{"type":"self_hosted"}}"#,
        )
        .await;
    assert_eq!(
        (made.status, &made.body["config"]["type"]),
        (200, &json!("self_hosted"))
    );
    assert_eq!(
        organization
            .call("POST", "/v1/environments", r#"{"name":"e2"}"#)
            .await
            .status,
        409
    );
    let listed = organization.call("GET", "/v1/environments", "").await.body;
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let path = format!("/v1/environments/{}", made.body["id"].as_str().unwrap());
    let updated = organization
        .call("POST", &path, r#"{"metadata":{"team":"x"}}"#)
        .await
        .body;
    assert_eq!(updated["metadata"]["team"], "x");
    assert!(
        organization
            .call("POST", &format!("{path}/archive"), "")
            .await
            .body["archived_at"]
            .is_string()
    );
    assert_eq!(
        organization.call("DELETE", &path, "").await.body["type"],
        "environment_deleted"
    );

    let body =
        json!({"agent": "coder", "environment_id": client.environment, "metadata": {"k": "v"}}).to_string();
    let session = organization.call("POST", "/v1/sessions", &body).await.body;
    assert_eq!(session["metadata"]["k"], "v");
    let file =
        json!({"agent": "coder", "environment_id": client.environment, "resources": [{"type": "file"}]});
    assert_eq!(
        organization
            .call("POST", "/v1/sessions", &file.to_string())
            .await
            .status,
        400
    );
    let (id, claimed, item) = client.hold().await;
    assert_eq!(session["id"], claimed.as_str());
    let patched = organization
        .work("POST", &format!("/{id}"), r#"{"metadata":{"a":"b","c":null}}"#)
        .await
        .body;
    assert_eq!(patched["metadata"], json!({"a": "b"}));
    assert!(
        sim.wait_until(BOUND, |r| r.sessions.iter().any(|s| s.calls.len() == 1))
            .await
    );
    let call = ids_of(&item.history(&claimed).await, "agent.tool_use");
    assert_eq!(item.result(&claimed, &call[0], "done").await.status, 200);
}
