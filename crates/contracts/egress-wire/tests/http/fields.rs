//! Fields that say how a connection goes on and how long a body is; and what goes on.

use crate::{TRANSPARENT, transparent};
use http::{HeaderMap, HeaderName, HeaderValue};
use omnirun_egress_wire::http::{BadTarget, Carrier, Head, MAX_HEAD, MAX_HEADERS, head, strip_hop_by_hop};

#[test]
fn http2_by_no_way() {
    for fields in [
        "Upgrade: h2c",
        "Upgrade: websocket, H2C",
        "Upgrade: websocket\r\nUpgrade: h2c/1",
        "Upgrade: h2",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}");
        assert_eq!(transparent(&text), Err(BadTarget::Http2), "{fields}");
    }
    assert!(transparent("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket").is_ok());
    assert!(matches!(
        head(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", TRANSPARENT),
        Head::Bad(BadTarget::Head)
    ));
    assert_eq!(transparent("PRI * HTTP/1.1\r\nHost: a"), Err(BadTarget::Http2));
}

#[test]
fn bodies_have_one_length() {
    let with = |fields: &str| transparent(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"));
    for fine in [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
    ] {
        assert!(with(fine).is_ok(), "{fine}");
    }
    for wrong in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length:",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
    ] {
        assert_eq!(with(wrong), Err(BadTarget::Framing), "{wrong}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked";
    assert_eq!(transparent(old), Err(BadTarget::Framing));
}

#[test]
fn heads_are_bounded() {
    let many = |count| format!("GET / HTTP/1.1\r\nHost: a{}", "\r\nX: y".repeat(count - 1));
    assert!(transparent(&many(MAX_HEADERS)).is_ok());
    assert_eq!(transparent(&many(MAX_HEADERS + 1)), Err(BadTarget::Head));
    let long = |count: usize| [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &vec![b'y'; count]].concat();
    assert_eq!(head(&long(1000), TRANSPARENT), Head::NeedMore);
    assert_eq!(head(&long(MAX_HEAD), TRANSPARENT), Head::Bad(BadTarget::TooLong));
}

#[test]
fn what_is_the_proxys_alone_is_taken_out() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, X-Secret ,,host, content-length"),
        ("connection", "x-Other"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "websocket"),
        ("x-secret", "1"),
        ("x-secret", "2"),
        ("x-other", "3"),
        ("host", "a"),
        ("content-length", "1"),
        ("authorization", "Bearer x"),
        ("x-kept", "4"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    strip_hop_by_hop(&mut headers);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["authorization", "content-length", "host", "x-kept"]);
}

#[test]
fn the_host_that_goes_on() {
    for (carrier, text, value) in [
        (
            TRANSPARENT,
            "GET / HTTP/1.1\r\nHost: EXAMPLE.com.:80",
            "example.com",
        ),
        (
            Carrier::Transparent { port: 81 },
            "GET / HTTP/1.1\r\nHost: a",
            "a:81",
        ),
        (
            Carrier::Explicit,
            "GET http://[2001:DB8::1]:81/ HTTP/1.0",
            "[2001:db8::1]:81",
        ),
    ] {
        let Head::Found { target, .. } = head(format!("{text}\r\n\r\n").as_bytes(), carrier) else {
            panic!("{text}");
        };
        assert_eq!(target.host_value(), value);
    }
}
