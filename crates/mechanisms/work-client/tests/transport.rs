//! What one request does about servers that fail, stall, ramble or send it elsewhere. The server here answers each
//! connection with the next of the bytes that it was given.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use omnirun_work_client::{Client, ClientConfig, ClientError, Incoming, Limits, Stopped};
use omnirun_work_proto::{Beat, Event, WorkItem};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

struct Server {
    client: Client,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Serves one reply to each connection, and keeps the requests' heads.
async fn serve(replies: Vec<Vec<u8>>, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heads = asked.clone();
    tokio::spawn(async move {
        for reply in replies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            let mut byte = [0u8; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.unwrap() == 1 {
                head.push(byte[0]);
            }
            heads
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(&head).into_owned());
            if reply.is_empty() {
                // Never answers.
                tokio::spawn(async move {
                    let mut sink = Vec::new();
                    let _ = stream.read_to_end(&mut sink).await;
                });
                continue;
            }
            let _ = stream.write_all(&reply).await;
            let _ = stream.shutdown().await;
        }
    });
    let client = Client::new(ClientConfig {
        base: url.parse().unwrap(),
        user_agent: "omnirun/test".into(),
        limits,
    });
    Server {
        client: client.unwrap(),
        asked,
    }
}

impl Server {
    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn poll(&self) -> Result<Option<WorkItem>, ClientError> {
        self.client.poll(&id("e"), &key(), "w", 999).await
    }

    async fn beat(&self, expected: &str, limit: Duration) -> (Beat, Option<ClientError>) {
        self.client
            .heartbeat(&id("e"), &key(), &id("w"), expected, limit)
            .await
    }

    async fn stop(&self) -> Stopped {
        self.client.force_stop(&id("e"), &key(), &id("w")).await.unwrap()
    }
}

fn fast() -> Limits {
    Limits {
        pace: 0.05,
        ..Limits::default()
    }
}

fn reply(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn id(text: &str) -> ApiId {
    text.parse().unwrap()
}

fn key() -> Secret {
    Secret::new("sk-ant-oat01-hush")
}

#[tokio::test]
async fn two_more_tries_unless_the_server_says_otherwise() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"the content was rm -rf"},"request_id":"req_7"}"#;
    let server = serve(
        vec![reply(529, "", error), reply(503, "", ""), reply(200, "", "null")],
        fast(),
    )
    .await;
    assert!(server.poll().await.unwrap().is_none());
    assert_eq!(server.count(), 3);

    let server = serve(vec![reply(529, "", error); 4], fast()).await;
    let failed = server.poll().await.unwrap_err();
    assert_eq!(
        (server.count(), failed.status(), failed.is_permanent()),
        (3, Some(529), false)
    );
    let said = failed.to_string();
    assert!(
        said.contains("529") && said.contains("overloaded_error") && said.contains("req_7"),
        "{said}"
    );
    assert!(!said.contains("rm -rf") && !said.contains("hush"), "{said}");

    let server = serve(vec![reply(500, "x-should-retry: false\r\n", "")], fast()).await;
    assert!(server.poll().await.is_err());
    let server = serve(
        vec![reply(400, "x-should-retry: true\r\n", ""), reply(204, "", "")],
        fast(),
    )
    .await;
    assert!(server.poll().await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_says_how_long_to_wait() {
    let limits = Limits {
        pace: 1.0,
        ..Limits::default()
    };
    for header in [
        "retry-after-ms: 30\r\nretry-after: 50\r\n",
        "retry-after: 0.03\r\n",
    ] {
        let server = serve(vec![reply(429, header, ""), reply(200, "", "null")], limits).await;
        let start = Instant::now();
        server.poll().await.unwrap();
        assert!(
            start.elapsed() < Duration::from_millis(350),
            "{header}: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test]
async fn a_server_that_stalls_is_given_up_in_time() {
    let limits = Limits {
        short: Duration::from_millis(100),
        ..fast()
    };
    let server = serve(vec![vec![]; 3], limits).await;
    let failed = server.poll().await.unwrap_err();
    assert!(matches!(failed, ClientError::Timeout { .. }), "{failed}");
    assert_eq!(server.count(), 3);

    // A heartbeat is bounded as a whole, its tries included.
    let server = serve(vec![vec![]; 3], fast()).await;
    let start = Instant::now();
    let limit = Duration::from_millis(150);
    let (beat, _) = server.beat("NO_HEARTBEAT", limit).await;
    assert_eq!(beat, Beat::Transient);
    assert!(
        start.elapsed() < Duration::from_millis(600),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn answers_are_bounded_and_broken_ones_say_nothing_of_their_content() {
    let limits = Limits {
        answer: 1000,
        ..fast()
    };
    let long = format!("\"{}\"", "x".repeat(5000));
    let endless = format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n1389\r\n{long:<5001}\r\n");
    for replies in [vec![reply(200, "", &long); 3], vec![endless.into_bytes(); 3]] {
        let server = serve(replies, limits).await;
        let failed = server.client.session(&id("s"), &key()).await.unwrap_err();
        assert!(
            matches!(failed, ClientError::TooLarge { limit: 1000, .. }),
            "{failed}"
        );
    }
    let server = serve(vec![reply(200, "", r#"{"id": 5, "hidden": "word"}"#)], fast()).await;
    let failed = server.client.session(&id("s"), &key()).await.unwrap_err();
    let said = format!("{failed} {failed:?}");
    assert!(
        matches!(failed, ClientError::Unreadable { .. }) && !said.contains("word"),
        "{said}"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = serve(
        vec![reply(307, "location: http://127.0.0.1:9/elsewhere\r\n", "")],
        fast(),
    )
    .await;
    let failed = server.poll().await.unwrap_err();
    assert_eq!((failed.status(), server.count()), (Some(307), 1));
}

#[tokio::test]
async fn a_stop_that_comes_too_late_is_no_failure_and_asked_once() {
    let server = serve(vec![reply(409, "", "{}")], fast()).await;
    assert_eq!(server.stop().await, Stopped::Before);
    for body in [reply(204, "", ""), reply(200, "", "{}")] {
        let server = serve(vec![body], fast()).await;
        assert_eq!(server.stop().await, Stopped::Now);
    }
}

#[tokio::test]
async fn a_heartbeat_says_what_it_expects_byte_for_byte() {
    let good = r#"{"type":"work_heartbeat","last_heartbeat":"x","lease_extended":true,"state":"active","ttl_seconds":300}"#;
    let server = serve(vec![reply(200, "", good)], fast()).await;
    let second = Duration::from_secs(1);
    let (beat, error) = server.beat("2026-11-02T09:00:32.1+01:00 &", second).await;
    assert!(matches!(beat, Beat::Answered(_)) && error.is_none());
    let head = server.asked.lock().unwrap()[0].clone();
    let query = "/heartbeat?expected_last_heartbeat=2026-11-02T09%3A00%3A32.1%2B01%3A00+%26 HTTP";
    assert!(
        head.contains(query) || head.contains(&query.replace('+', "%20")),
        "{head}"
    );
    for (status, expected) in [
        (412, Beat::Precondition),
        (404, Beat::Refused),
        (409, Beat::Transient),
    ] {
        let server = serve(vec![reply(status, "x-should-retry: false\r\n", "")], fast()).await;
        let (beat, _) = server.beat("v", second).await;
        assert_eq!(beat, expected, "{status}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_gives_what_came_and_then_the_error() {
    let body = "b9\r\n: hello\r\n\r\nevent: ping\r\ndata: {}\r\n\r\nevent: x\r\ndata: {\"type\":\"session.status_terminated\"}\r\n\r\ndata: no";
    let server = serve(
        vec![format!("HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{body}").into_bytes()],
        fast(),
    )
    .await;
    let mut stream = server.client.stream(&id("s"), &key()).await.unwrap();
    assert_eq!(
        stream.next().await.unwrap(),
        Some(Incoming::Event(Event::Terminated))
    );
    assert!(matches!(stream.next().await, Err(ClientError::Transport { .. })));
    let head = server.asked.lock().unwrap()[0].to_lowercase();
    assert!(
        head.contains("accept: text/event-stream")
            && head.contains("authorization: bearer sk-ant-oat01-hush")
    );
}

#[tokio::test]
async fn nobody_listening_is_a_transport_error_without_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(ClientConfig {
        base: url.parse().unwrap(),
        user_agent: "x".into(),
        limits: fast(),
    });
    let failed = client
        .unwrap()
        .session(&id("sesn_hidden"), &key())
        .await
        .unwrap_err();
    assert!(matches!(failed, ClientError::Transport { .. }) && !failed.is_permanent());
    assert!(!format!("{failed:?}").contains("sesn_hidden"));
}
