//! Decisions on heads: recorded ones, and those that somebody who wants to get through would write.

use http::{HeaderMap, HeaderName, HeaderValue};
use omnirun_egress_wire::{
    Host,
    http::{BadTarget, Carrier, Form, Head, MAX_HEAD, MAX_HEADERS, Target, head, strip_hop_by_hop},
};
use std::{fs, path::Path};

const TRANSPARENT: Carrier = Carrier::Transparent { port: 80 };

type Read = Result<(String, u16, Form), BadTarget>;

fn read(carrier: Carrier, text: &str) -> Read {
    match head(format!("{text}\r\n\r\n").as_bytes(), carrier) {
        Head::Found {
            target: Target { host, port, form },
            ..
        } => Ok((host.to_string(), port, form)),
        Head::Bad(bad) => Err(bad),
        Head::NeedMore => panic!("not whole: {text}"),
    }
}

fn transparent(text: &str) -> Read {
    read(TRANSPARENT, text)
}

fn explicit(text: &str) -> Read {
    read(Carrier::Explicit, text)
}

fn ok(host: &str, port: u16, form: Form) -> Read {
    Ok((host.to_owned(), port, form))
}

#[test]
fn recorded_heads_and_each_of_their_prefixes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/http");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let (file, bytes) = (
            path.file_stem().unwrap().to_str().unwrap().to_owned(),
            fs::read(&path).unwrap(),
        );
        let (way, client) = file.split_once('-').unwrap();
        let client = client.split('-').next().unwrap();
        let (carrier, form, port) = match way {
            "transparent" => (TRANSPARENT, Form::Origin, 80),
            "explicit" if file.ends_with("port") => (Carrier::Explicit, Form::Absolute, 8080),
            "explicit" => (Carrier::Explicit, Form::Absolute, 80),
            _ => (Carrier::Explicit, Form::Authority, 443),
        };
        let client = if client == "pip" { "pypi" } else { client };
        let Head::Found { target, length } = head(&bytes, carrier) else {
            panic!("{file}: {:?}", head(&bytes, carrier));
        };
        assert_eq!(target.host.to_string(), format!("{client}.example.com"), "{file}");
        assert_eq!(
            (target.port, target.form, length),
            (port, form, bytes.len()),
            "{file}"
        );
        for at in 0..bytes.len() {
            assert_eq!(head(&bytes[..at], carrier), Head::NeedMore, "{file}, {at}");
        }
        // A changed byte may name another host, but then in every place that names one.
        for at in 0..bytes.len() {
            for mask in [1, 2, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                if let Head::Found { target, .. } = head(&changed, carrier) {
                    let text = String::from_utf8_lossy(&changed).to_ascii_lowercase();
                    let named = text.matches(&target.host.to_string()).count();
                    let before = String::from_utf8_lossy(&bytes)
                        .matches(&format!("{client}.example.com"))
                        .count();
                    assert!(
                        named >= before.min(2) || named == 1 && !text.contains("\r\nhost:"),
                        "{file}: {text}"
                    );
                }
            }
        }
        count += 1;
    }
    assert_eq!(count, 22);
}

#[test]
fn origin_form_goes_by_host() {
    let found = ok("example.com", 80, Form::Origin);
    assert_eq!(transparent("GET / HTTP/1.1\r\nHost: example.com"), found);
    assert_eq!(transparent("GET / HTTP/1.1\r\nhOST:   EXAMPLE.com:80  "), found);
    assert_eq!(transparent("OPTIONS * HTTP/1.1\r\nHost: example.com"), found);
    assert_eq!(transparent("GET / HTTP/1.0\r\nHost: example.com"), found);
    assert_eq!(
        transparent("GET //other.example/ HTTP/1.1\r\nHost: example.com"),
        found
    );
    assert_eq!(
        transparent("GET /?http://other.example/ HTTP/1.1\r\nHost: example.com"),
        found
    );
    assert_eq!(transparent("GET / HTTP/1.1"), Err(BadTarget::NoHost));
    assert_eq!(transparent("GET / HTTP/1.0"), Err(BadTarget::NoHost));
    assert_eq!(transparent("GET * HTTP/1.1\r\nHost: a"), Err(BadTarget::Form));
    assert_eq!(
        transparent("GET example.com HTTP/1.1\r\nHost: example.com"),
        Err(BadTarget::Form)
    );
    assert_eq!(
        transparent("GET example.com:80 HTTP/1.1\r\nHost: example.com"),
        Err(BadTarget::Form)
    );
    assert_eq!(
        explicit("GET / HTTP/1.1\r\nHost: example.com"),
        Err(BadTarget::Form)
    );
}

#[test]
fn the_port_is_the_connections() {
    let at = |port, host: &str| {
        read(
            Carrier::Transparent { port },
            &format!("GET / HTTP/1.1\r\nHost: {host}"),
        )
    };
    assert_eq!(
        at(8080, "example.com:8080"),
        ok("example.com", 8080, Form::Origin)
    );
    assert_eq!(at(8080, "example.com"), ok("example.com", 8080, Form::Origin));
    assert_eq!(at(8080, "example.com:80"), Err(BadTarget::Disagree));
    assert_eq!(at(80, "example.com:8080"), Err(BadTarget::Disagree));
    let absolute = "GET http://example.com:8080/ HTTP/1.1\r\nHost: example.com:8080";
    assert_eq!(transparent(absolute), Err(BadTarget::Disagree));
    assert_eq!(
        read(Carrier::Transparent { port: 8080 }, absolute),
        ok("example.com", 8080, Form::Absolute)
    );
}

#[test]
fn one_host() {
    let two = |a: &str, b: &str| transparent(&format!("GET / HTTP/1.1\r\n{a}\r\nX: y\r\n{b}"));
    assert_eq!(
        two("Host: listed.example", "Host: other.example"),
        Err(BadTarget::Hosts)
    );
    assert_eq!(
        two("Host: listed.example", "HOST: listed.example"),
        Err(BadTarget::Hosts)
    );
    assert_eq!(
        two("Host: listed.example", "Host :other.example"),
        Err(BadTarget::Head)
    );
    assert_eq!(two("Host: listed.example,", "X: y"), Err(BadTarget::Host));
    assert_eq!(
        two("Host: listed.example", " other.example"),
        Err(BadTarget::Head)
    );
    assert_eq!(two("Host:", "X: y"), Err(BadTarget::Host));
}

#[test]
fn hosts_have_one_reading() {
    let at = |host: &str| transparent(&format!("GET / HTTP/1.1\r\nHost: {host}"));
    for wrong in [
        "a b",
        "a,b",
        "a/b",
        "a\\b",
        "a#b",
        "a?b",
        "a..b",
        ".a",
        "a%2eb",
        "*.a",
        "http://a",
        "a:",
        "a:0",
        "a:080",
        "a:+80",
        "a:80:80",
        "a:65616",
        "a: 80",
        "a:0x50",
        "0x7f.1",
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "1.2.3.4.5",
        "1.2.3.999",
        "[::1",
        "::1",
        "[::1]80",
        "[fe80::1%25eth0]",
        "[1.2.3.4]",
        "[a]",
        "l\u{131}sted.example",
    ] {
        assert_eq!(at(wrong), Err(BadTarget::Host), "{wrong}");
    }
    for wrong in ["a@b", "listed.example:80@other.example", "@a"] {
        assert_eq!(at(wrong), Err(BadTarget::UserInfo), "{wrong}");
    }
    for (written, read) in [
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]:80", "[2001:db8::1]"),
        ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
        ("example.com.", "example.com"),
    ] {
        assert_eq!(at(written), ok(read, 80, Form::Origin));
    }
    let Head::Found { target, .. } = head(b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", TRANSPARENT) else {
        panic!();
    };
    assert!(matches!(target.host, Host::Address(_)));
}

#[test]
fn absolute_form_agrees_with_host() {
    let found = ok("example.com", 80, Form::Absolute);
    for at in [transparent, explicit] {
        assert_eq!(at("GET http://example.com/ HTTP/1.1\r\nHost: example.com"), found);
        assert_eq!(
            at("GET http://example.com HTTP/1.1\r\nHost: EXAMPLE.COM:80"),
            found
        );
        assert_eq!(
            at("GET http://example.com:80/ HTTP/1.1\r\nHost: example.com"),
            found
        );
        assert_eq!(at("GET http://example.com/ HTTP/1.0"), found);
        assert_eq!(at("GET http://example.com/ HTTP/1.1"), Err(BadTarget::NoHost));
        assert_eq!(
            at("GET http://listed.example/ HTTP/1.1\r\nHost: other.example"),
            Err(BadTarget::Disagree)
        );
        assert_eq!(
            at("GET http://a/ HTTP/1.1\r\nHost: a:81"),
            Err(BadTarget::Disagree)
        );
        assert_eq!(at("GET https://a/ HTTP/1.1\r\nHost: a"), Err(BadTarget::Scheme));
        assert_eq!(at("GET ftp://a/ HTTP/1.1\r\nHost: a"), Err(BadTarget::Scheme));
        assert_eq!(
            at("GET http://a@b/ HTTP/1.1\r\nHost: b"),
            Err(BadTarget::UserInfo)
        );
        assert_eq!(
            at("GET http://listed.example:80@b/ HTTP/1.1\r\nHost: b"),
            Err(BadTarget::UserInfo)
        );
        assert_eq!(
            at("GET http://a/ HTTP/1.1\r\nHost: a@b"),
            Err(BadTarget::UserInfo)
        );
        for odd in [
            "http://a\\@b/",
            "http:///x",
            "http:/a/",
            "http:a",
            "//a/",
            "http://a:x/",
            "http://a:/",
            "a/b",
        ] {
            let read = at(&format!("GET {odd} HTTP/1.1\r\nHost: a"));
            assert!(
                read.is_err() || odd == "//a/" && read == ok("a", 80, Form::Origin),
                "{odd}: {read:?}"
            );
        }
    }
}

#[test]
fn connect_only_where_a_tunnel_is_offered() {
    let found = ok("example.com", 443, Form::Authority);
    assert_eq!(
        explicit("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443"),
        found
    );
    assert_eq!(
        explicit("CONNECT example.com:443 HTTP/1.1\r\nHost: Example.com"),
        found
    );
    assert_eq!(explicit("CONNECT example.com:443 HTTP/1.0"), found);
    assert_eq!(
        explicit("CONNECT 192.0.2.1:22 HTTP/1.0"),
        ok("192.0.2.1", 22, Form::Authority)
    );
    assert_eq!(
        explicit("CONNECT example.com:443 HTTP/1.1"),
        Err(BadTarget::NoHost)
    );
    assert_eq!(explicit("CONNECT example.com HTTP/1.0"), Err(BadTarget::Host));
    assert_eq!(explicit("CONNECT example.com:0 HTTP/1.0"), Err(BadTarget::Host));
    assert_eq!(
        explicit("CONNECT a@example.com:443 HTTP/1.0"),
        Err(BadTarget::UserInfo)
    );
    for host in ["other.example:443", "other.example", "example.com:80"] {
        let text = format!("CONNECT example.com:443 HTTP/1.1\r\nHost: {host}");
        assert_eq!(explicit(&text), Err(BadTarget::Disagree));
    }
    assert_eq!(explicit("CONNECT / HTTP/1.0"), Err(BadTarget::Form));
    assert_eq!(explicit("CONNECT http://a:80/ HTTP/1.0"), Err(BadTarget::Form));
    assert_eq!(explicit("GET example.com:443 HTTP/1.0"), Err(BadTarget::Form));
    assert_eq!(
        transparent("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443"),
        Err(BadTarget::Connect)
    );
    assert_eq!(
        transparent("CONNECT / HTTP/1.1\r\nHost: a"),
        Err(BadTarget::Connect)
    );
}

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
