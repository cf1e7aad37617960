//! Bounds of entries and of guests.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{EXPLICIT, SOON, Sandbox, at, caps, file, run, run_with, servers, tls, until};
use omnirun_egress_policy::{Reason, Verdict};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

async fn open(sandbox: &Sandbox, name: &str) -> (TcpStream, Option<String>) {
    let mut stream = sandbox.connect(at("9.9.9.9:443")).await;
    stream.write_all(&tls::hello(Some(name))).await.unwrap();
    let whom = tls::whom(&mut stream).await;
    (stream, whom)
}

#[test]
fn bytes_are_shared_by_all_connections_of_an_entry() {
    run(async |lab| {
        servers::echo(lab.listen(443));
        servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let bounded = "[[rule]]\nto = [\"a.example\"]\nbytes_up = \"10K\"\n";
        let sandbox = lab.sandbox(bounded).await;
        let (mut first, _) = open(&sandbox, "a.example").await;
        first.write_all(&[b'x'; 4000]).await.unwrap();
        let mut echoed = vec![0; 4000];
        timeout(SOON, first.read_exact(&mut echoed))
            .await
            .unwrap()
            .unwrap();
        let (mut second, _) = open(&sandbox, "a.example").await;
        let _ = second.write_all(&[b'x'; 20_000]).await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, second.read_to_end(&mut rest))
            .await
            .expect("an end");
        let line = lab
            .owner
            .line("of the end", |line| line.reason == Reason::Limit)
            .await;
        assert_eq!(line.verdict, Verdict::Allow);
        drop(first);
        let other = lab.owner.line("of the first", |line| line.bytes_up > 4000).await;
        assert_eq!(line.bytes_up + other.bytes_up, 10 << 10, "{line:?} {other:?}");
        // Neither another connection, nor the same policy again, nor HTTP gives more.
        sandbox.attachment.update(&file(bounded)).await.unwrap();
        assert_eq!(open(&sandbox, "a.example").await.1, None);
        let mut stream = sandbox.connect(EXPLICIT).await;
        stream
            .write_all(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await
            .unwrap();
        let (head, _) = timeout(SOON, servers::read_message(&mut stream, &mut Vec::new()))
            .await
            .unwrap()
            .unwrap();
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    });
}

#[test]
fn a_body_ends_where_its_bytes_do() {
    run(async |lab| {
        servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab
            .sandbox("[[rule]]\nto = [\"a.example\"]\nbytes_down = \"50K\"\n")
            .await;
        let mut stream = sandbox.connect(at("9.9.9.1:80")).await;
        stream
            .write_all(b"GET /bytes/100000 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await
            .unwrap();
        let mut all = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut all)).await.expect("an end");
        let body = all.iter().filter(|byte| **byte == b'x').count();
        // What was on its way when the end was found may be lost.
        assert!((1..=50 << 10).contains(&body), "{body}");
        let line = lab
            .owner
            .line("of the end", |line| line.reason == Reason::Limit)
            .await;
        assert_eq!(line.bytes_down, 50 << 10);
    });
}

#[test]
fn a_rate_is_kept_in_tunnels_and_bodies() {
    run(async |lab| {
        servers::echo(lab.listen(443));
        servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 1]]);
        let sandbox = lab
            .sandbox("[[rule]]\nto = [\"a.example\", \"b.example\"]\nrate = \"200K\"\n")
            .await;
        let (mut stream, _) = open(&sandbox, "a.example").await;
        let begun = Instant::now();
        let (mut reader, mut writer) = stream.split();
        let count = 200 << 10;
        let sent = async { writer.write_all(&vec![b'x'; count]).await.unwrap() };
        let mut echoed = vec![0; count];
        let got = async { reader.read_exact(&mut echoed).await.unwrap() };
        tokio::join!(sent, got);
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(700)..Duration::from_secs(3)).contains(&took),
            "{took:?}"
        );
        let mut stream = sandbox.connect(EXPLICIT).await;
        let begun = Instant::now();
        let request = b"GET http://b.example/bytes/204800 HTTP/1.1\r\nHost: b.example\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let (_, body) = servers::read_message(&mut stream, &mut Vec::new()).await.unwrap();
        assert_eq!(body.len(), 204_800);
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(500)..Duration::from_secs(3)).contains(&took),
            "{took:?}"
        );
    });
}

#[test]
fn connections_at_once_are_bounded_by_entry_and_by_guest() {
    run_with(caps(|caps| caps.connections = 10), async |lab| {
        servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        let sandbox = lab
            .sandbox("allow = [\"b.example\"]\n[[rule]]\nto = [\"a.example\"]\nconnections = 2\n")
            .await;
        let first = open(&sandbox, "a.example").await;
        let second = open(&sandbox, "a.example").await;
        assert!(first.1.is_some() && second.1.is_some());
        assert_eq!(open(&sandbox, "a.example").await.1, None);
        let line = lab
            .owner
            .line("of a refusal", |line| line.verdict == Verdict::Deny)
            .await;
        assert_eq!(line.reason, Reason::Limit);
        drop(first);
        lab.owner.line("of the first", |line| line.name.is_some()).await;
        let third = open(&sandbox, "a.example").await;
        assert!(third.1.is_some());
        // Two other listeners wait with a place each; what is beyond is not accepted until one is free.
        let mut open_ones = vec![second.0, third.0];
        for _ in 0..6 {
            open_ones.push(open(&sandbox, "b.example").await.0);
        }
        let mut waiting = sandbox.connect(at("9.9.9.9:443")).await;
        waiting.write_all(&tls::hello(Some("b.example"))).await.unwrap();
        assert!(
            timeout(Duration::from_millis(200), waiting.readable())
                .await
                .is_err()
        );
        open_ones.pop();
        assert!(tls::whom(&mut waiting).await.is_some());
        // Another guest has its own.
        let other = lab.sandbox(r#"allow = ["b.example"]"#).await;
        assert!(open(&other, "b.example").await.1.is_some());
    });
}

#[test]
fn whoever_is_slow_is_not_waited_for() {
    let change = caps(|caps| {
        caps.hello_seconds = 1;
        caps.idle_seconds = 1;
    });
    run_with(change, async |lab| {
        servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let mut slow = sandbox.connect(at("9.9.9.9:443")).await;
        slow.write_all(&tls::hello(Some("a.example"))[..20])
            .await
            .unwrap();
        assert_eq!(tls::whom(&mut slow).await, None);
        let line = lab
            .owner
            .line("of a refusal", |line| line.verdict == Verdict::Deny)
            .await;
        assert_eq!(line.reason, Reason::TimedOut);
        let (mut idle, whom) = open(&sandbox, "a.example").await;
        assert!(whom.is_some());
        let mut rest = Vec::new();
        assert!(timeout(SOON, idle.read_to_end(&mut rest)).await.unwrap().is_err());
        let line = lab
            .owner
            .line("of the end", |line| line.verdict == Verdict::Allow)
            .await;
        assert_eq!(line.reason, Reason::TimedOut);
    });
}

#[test]
fn no_line_is_lost() {
    run_with(caps(|caps| caps.connections = 64), async |lab| {
        servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let noisy = lab.sandbox(r#"allow = ["a.example"]"#).await;
        // More than a guest has places for lines.
        let count = 1500;
        for n in 0..count {
            let request = format!("GET http://n{n}.example/ HTTP/1.1\r\nHost: n{n}.example\r\n\r\n");
            let mut stream = noisy.connect(EXPLICIT).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = timeout(SOON, servers::read_message(&mut stream, &mut Vec::new())).await;
            assert!(answer.unwrap().unwrap().0.starts_with("HTTP/1.1 403"));
        }
        until("all lines have come", || lab.owner.lines().len() >= count).await;
    });
}
