//! Where a host may be named, and how.

use crate::{TRANSPARENT, explicit, ok, read, transparent};
use omnirun_egress_wire::{
    Host,
    http::{BadTarget, Carrier, Form, Head, head},
};

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
