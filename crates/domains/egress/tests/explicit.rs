//! The explicit proxy.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{EXPLICIT, SOON, answer, ask, at, run, servers, tls};
use omnirun_egress_policy::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[test]
fn the_explicit_proxy_follows_the_same_rules() {
    run(async |lab| {
        servers::http(lab.listen(80));
        servers::http(lab.listen(8080));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        let sandbox = lab
            .sandbox(r#"allow = ["a.example", "a.example:8080", "9.9.9.3:80"]"#)
            .await;
        for (request, status, words) in [
            (
                "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
                200,
                "9.9.9.1:80 GET /x",
            ),
            (
                "GET http://a.example:8080/x HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
                200,
                "9.9.9.1:8080 GET /x",
            ),
            (
                "GET http://9.9.9.3/x HTTP/1.1\r\nHost: 9.9.9.3\r\n\r\n",
                200,
                "9.9.9.3:80 GET /x",
            ),
            (
                "GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
                403,
                "b.example is not listed",
            ),
            (
                "GET http://a.example:81/ HTTP/1.1\r\nHost: a.example:81\r\n\r\n",
                403,
                "not listed for port 81",
            ),
            (
                "GET http://9.9.9.1/ HTTP/1.1\r\nHost: 9.9.9.1\r\n\r\n",
                403,
                "9.9.9.1 is an address",
            ),
            (
                "GET http://127.0.0.1:3128/ HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n",
                403,
                "special purpose",
            ),
            (
                "GET http://[::1]/ HTTP/1.1\r\nHost: [::1]\r\n\r\n",
                403,
                "[::1] is refused",
            ),
            ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "refused"),
            (
                "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
                400,
                "refused",
            ),
            (
                "CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n",
                403,
                "b.example is not listed",
            ),
            (
                "CONNECT a.example:22 HTTP/1.1\r\nHost: a.example:22\r\n\r\n",
                403,
                "not listed for port 22",
            ),
            (
                "CONNECT 9.9.9.1:443 HTTP/1.1\r\nHost: 9.9.9.1:443\r\n\r\n",
                403,
                "9.9.9.1 is an address",
            ),
            (
                "CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n",
                400,
                "refused",
            ),
            (
                "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
                502,
                "a.example does not answer",
            ),
        ] {
            let (code, body) = ask(&sandbox, EXPLICIT, request).await;
            assert_eq!(code, status, "{request}: {body}");
            assert!(body.contains(words), "{request}: {body}");
        }
    });
}

#[test]
fn a_tunnel_is_for_what_it_was_asked_for() {
    run(async |lab| {
        servers::echo(lab.listen(443));
        servers::echo(lab.listen(8443));
        servers::http(lab.listen(80));
        for (name, last) in [("a.example", 1), ("b.example", 2), ("c.example", 3)] {
            lab.zone.set(name, &[[9, 9, 9, last]]);
        }
        let sandbox = lab
            .sandbox(r#"allow = ["a.example", "a.example:8443", "b.example", "9.9.9.4"]"#)
            .await;
        let tunnel = async |to: &str| {
            let mut stream = sandbox.connect(EXPLICIT).await;
            let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            // Not a byte more than the head: what follows is the server's.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
            }
            assert!(
                head.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&head)
            );
            stream
        };
        for (to, said, reached) in [
            (
                "a.example:443",
                tls::hello(Some("a.example")),
                Some("9.9.9.1:443"),
            ),
            // Listed itself.
            (
                "a.example:443",
                tls::hello(Some("b.example")),
                Some("9.9.9.1:443"),
            ),
            ("a.example:443", tls::hello(Some("c.example")), None),
            ("a.example:443", tls::hello(None), None),
            ("a.example:443", b"SSH-2.0-x\r\n".to_vec(), None),
            (
                "a.example:8443",
                tls::hello(Some("a.example")),
                Some("9.9.9.1:8443"),
            ),
            ("a.example:8443", tls::hello(Some("c.example")), None),
            ("a.example:8443", b"anything".to_vec(), Some("9.9.9.1:8443")),
            ("9.9.9.4:443", b"anything".to_vec(), Some("9.9.9.4:443")),
        ] {
            let mut stream = tunnel(to).await;
            stream.write_all(&said).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await.as_deref(), reached, "{to} {said:?}");
        }
        let line = lab.owner.line("of an address", |line| line.to.is_some()).await;
        assert_eq!(
            (line.protocol, line.to),
            (Protocol::Connect, Some(at("9.9.9.4:443")))
        );
        // HTTP within: every request.
        let mut stream = tunnel("a.example:80").await;
        let requests = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\nGET /2 HTTP/1.1\r\nHost: c.example\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        assert_eq!(
            answer(&mut stream, &mut bytes).await,
            (200, "9.9.9.1:80 GET /1 HTTP/1.1 0".into())
        );
        assert_eq!(answer(&mut stream, &mut bytes).await.0, 403);
    });
}
