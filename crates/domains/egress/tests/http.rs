//! HTTP by the host of each request.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{EXPLICIT, SOON, answer, ask, at, file, run, servers};
use omnirun_egress_policy::{Protocol, Reason, Verdict};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[test]
fn every_request_of_a_connection_is_decided_on() {
    run(async |lab| {
        let seen = servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        lab.zone.set("c.example", &[[9, 9, 9, 3]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example", "b.example"]"#).await;
        // All at once, to one address.
        let requests = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n\
                        GET /2 HTTP/1.1\r\nHost: c.example\r\n\r\n\
                        POST /3 HTTP/1.1\r\nHost: b.example\r\nContent-Length: 5\r\n\r\nhello\
                        GET http://a.example/chunked?q HTTP/1.1\r\nHost: a.example\r\n\r\n\
                        POST /5 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
        let mut stream = sandbox.connect(at("9.9.9.9:80")).await;
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        for expected in [
            (200, "9.9.9.1:80 GET /1 HTTP/1.1 0"),
            (403, "egress policy: c.example is not listed\n"),
            (200, "9.9.9.2:80 POST /3 HTTP/1.1 5"),
            (200, "9.9.9.1:80 GET /chunked?q HTTP/1.1 0"),
            (200, "9.9.9.1:80 POST /5 HTTP/1.1 7"),
        ] {
            let (status, body) = answer(&mut stream, &mut bytes).await;
            assert_eq!((status, &*body), expected);
        }
        drop(stream);
        let line = lab
            .owner
            .line("of c", |line| line.name.as_deref() == Some("c.example"))
            .await;
        assert_eq!(
            (line.verdict, line.reason, line.port),
            (Verdict::Deny, Reason::NotListed, 80)
        );
        let line = lab
            .owner
            .line("of b", |line| line.name.as_deref() == Some("b.example"))
            .await;
        assert_eq!((line.verdict, line.protocol), (Verdict::Allow, Protocol::Http));
        assert_eq!(line.dialled, Some(at("9.9.9.2:80")));
        assert!(line.bytes_up > 5 && line.bytes_down > 20, "{line:?}");
        for _ in 0..3 {
            lab.owner
                .line("of a", |line| line.name.as_deref() == Some("a.example"))
                .await;
        }
        // The server sees what was decided on.
        for head in seen.lock().unwrap().iter() {
            assert!(!head.contains("http://"), "{head}");
            assert_eq!(head.to_ascii_lowercase().matches("host:").count(), 1, "{head}");
        }
    });
}

#[test]
fn what_has_two_readings_is_refused() {
    run(async |lab| {
        let seen = servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        for request in [
            "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example@b.example\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example:81\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
            "\x16\x03\x01\x00\x05hello\r\n\r\n",
        ] {
            let mut stream = sandbox.connect(at("9.9.9.1:80")).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            // Answered with a refusal or with nothing, and closed.
            let _ = timeout(SOON, stream.read_to_end(&mut all)).await.expect("an end");
            let text = String::from_utf8_lossy(&all);
            assert!(
                all.is_empty() || text.starts_with("HTTP/1.1 4"),
                "{request}: {text}"
            );
            let line = lab
                .owner
                .line("of a refusal", |line| line.verdict == Verdict::Deny)
                .await;
            assert_eq!(line.reason, Reason::Malformed, "{request}");
        }
        // An address in place of a name.
        let (status, body) = ask(
            &sandbox,
            at("9.9.9.1:80"),
            "GET / HTTP/1.1\r\nHost: 9.9.9.1\r\n\r\n",
        )
        .await;
        assert_eq!(
            (status, &*body),
            (
                403,
                "egress policy: 9.9.9.1 is an address, and it is not listed\n"
            )
        );
        assert_eq!(seen.lock().unwrap().len(), 0);
        // Two lengths: hyper takes the one that RFC 9112 says, passes on that one alone, and takes no further request.
        let smuggled = "POST /1 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
                        0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let mut stream = sandbox.connect(at("9.9.9.1:80")).await;
        stream.write_all(smuggled.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut all)).await.expect("an end");
        assert_eq!(String::from_utf8_lossy(&all).matches("HTTP/1.1 200").count(), 1);
        let heads = seen.lock().unwrap().clone();
        assert_eq!(heads.len(), 1);
        assert!(
            !heads[0].to_ascii_lowercase().contains("content-length"),
            "{heads:?}"
        );
    });
}

#[test]
fn servers_that_cannot_be_reached_are_told_apart() {
    run(async |lab| {
        lab.zone.set("closed.example", &[[9, 9, 9, 1]]);
        lab.zone.set("private.example", &[[10, 0, 0, 5]]);
        lab.zone.set("metadata.example", &[[169, 254, 169, 254]]);
        let sandbox = lab.sandbox(r#"allow = ["*.example"]"#).await;
        for (name, status, words) in [
            ("closed.example", 502, "does not answer"),
            ("missing.example", 502, "has no address"),
            ("private.example", 403, "has no address that may be reached"),
            ("metadata.example", 403, "has no address that may be reached"),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
            let (code, body) = ask(&sandbox, at("9.9.9.9:80"), &request).await;
            assert_eq!(code, status, "{body}");
            assert!(body.contains(words), "{body}");
        }
    });
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let change = lab::caps(|caps| {
        caps.dial_seconds = 1;
        caps.idle_seconds = 1;
    });
    lab::run_with(change, async |lab| {
        // It takes the request, and that is all.
        let silent = lab.listen(80);
        lab.zone.set("silent.example", &[[9, 9, 9, 1]]);
        // Nobody is there, so not even a refusal comes back.
        lab.zone.set("away.example", &[[9, 9, 9, 200]]);
        let sandbox = lab.sandbox(r#"allow = ["*.example"]"#).await;
        for name in ["silent.example", "away.example"] {
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
            let (status, body) = ask(&sandbox, at("9.9.9.9:80"), &request).await;
            assert_eq!(status, 504, "{body}");
            let line = lab.owner.line("of the failure", |line| line.name.is_some()).await;
            assert_eq!(line.reason, Reason::TimedOut);
        }
        drop(silent);
    });
}

#[test]
fn a_changed_policy_ends_a_request_and_the_next_is_refused() {
    run(async |lab| {
        servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let get = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let mut idle = sandbox.connect(at("9.9.9.1:80")).await;
        idle.write_all(get).await.unwrap();
        assert_eq!(answer(&mut idle, &mut Vec::new()).await.0, 200);
        // One that is in the middle of its body.
        let mut busy = sandbox.connect(at("9.9.9.1:80")).await;
        busy.write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\nx")
            .await
            .unwrap();
        // A byte of its body has gone: it was let through.
        let before = sandbox.attachment.metrics().await.unwrap().bytes_up;
        busy.write_all(b"x").await.unwrap();
        while sandbox.attachment.metrics().await.unwrap().bytes_up == before {}
        sandbox
            .attachment
            .update(&file(r#"allow = ["b.example"]"#))
            .await
            .unwrap();
        let _ = busy.write_all(&[b'x'; 999]).await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, busy.read_to_end(&mut rest)).await.expect("an end");
        assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 200"));
        idle.write_all(get).await.unwrap();
        assert_eq!(answer(&mut idle, &mut Vec::new()).await.0, 403);
    });
}

#[test]
fn an_upgrade_is_a_tunnel() {
    run(async |lab| {
        servers::http(lab.listen(80));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let upgrade = "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let connect = "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n";
        for explicit in [false, true] {
            let mut bytes = Vec::new();
            let mut stream = match explicit {
                false => sandbox.connect(at("9.9.9.1:80")).await,
                true => {
                    let mut stream = sandbox.connect(EXPLICIT).await;
                    stream.write_all(connect.as_bytes()).await.unwrap();
                    assert_eq!(answer(&mut stream, &mut bytes).await.0, 200);
                    stream
                }
            };
            stream.write_all(upgrade.as_bytes()).await.unwrap();
            let (head, _) = timeout(SOON, servers::read_message(&mut stream, &mut bytes))
                .await
                .unwrap()
                .unwrap();
            assert!(head.starts_with("HTTP/1.1 101"), "{head}");
            assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
            stream.write_all(b"there").await.unwrap();
            while bytes.len() < "hello there".len() {
                assert_ne!(
                    timeout(SOON, stream.read_buf(&mut bytes)).await.unwrap().unwrap(),
                    0
                );
            }
            assert_eq!(bytes, b"hello there");
            drop(stream);
            let line = lab.owner.line("of the tunnel", |line| line.bytes_up > 0).await;
            assert_eq!(line.name.as_deref(), Some("a.example"));
        }
    });
}
