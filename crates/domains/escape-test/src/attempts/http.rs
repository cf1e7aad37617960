//! Plain HTTP: hosts, and requests within requests.

use omnirun_egress_policy::Reason;

use super::{
    Act, Expect, Table,
    hello::Hello,
    web::{NAMELESS, evil, in_pieces},
};
use crate::nonce::Nonce;

/// The port of HTTP.
const HTTP: u16 = 80;

pub(super) fn fill(table: &mut Table<'_>) {
    hosts(table);
    protocols(table);
    smuggling(table);
}

/// Who is asked for.
fn hosts(table: &mut Table<'_>) {
    let world = table.world;
    let (l, a) = (&world.listed.name, &world.attacker);
    let to = format!("@{l}");
    table
        .add(
            "http-host-unlisted",
            &[1, 2],
            "a request for another host than the one it is sent to",
            |nonce| {
                Act::tcp(
                    &to,
                    HTTP,
                    format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", evil(a, nonce)),
                )
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    // @ stands for the nonce.
    let heads: [(&str, &'static [u8], &str, String); 7] = [
        (
            "missing",
            &[3],
            "no host",
            "GET /@ HTTP/1.1\r\nUser-Agent: x\r\n\r\n".to_owned(),
        ),
        (
            "twice",
            &[13, 14],
            "two hosts",
            format!("GET /@ HTTP/1.1\r\nHost: {l}\r\nHost: {a}\r\n\r\n"),
        ),
        (
            "and-uri",
            &[14],
            "one host in the address and another in the head",
            format!("GET http://{a}/@ HTTP/1.1\r\nHost: {l}\r\n\r\n"),
        ),
        (
            "or-uri",
            &[14],
            "a listed host in the address and another in the head",
            format!("GET http://{l}/@ HTTP/1.1\r\nHost: {a}\r\n\r\n"),
        ),
        (
            "nul",
            &[13],
            "a NUL byte in the host",
            format!("GET /@ HTTP/1.1\r\nHost: {l}\0.{a}\r\n\r\n"),
        ),
        (
            "folded",
            &[13, 14],
            "a host on two lines",
            format!("GET /@ HTTP/1.1\r\nHost: {l}\r\n {a}\r\n\r\n"),
        ),
        (
            "address",
            &[3],
            "an address for a host",
            format!("GET /@ HTTP/1.1\r\nHost: {}\r\n\r\n", world.unlisted.address()),
        ),
    ];
    for (id, bypass, what, head) in heads {
        table.proxied(
            format!("http-host-{id}"),
            bypass,
            format!("a request with {what}"),
            HTTP,
            &NAMELESS,
            |nonce, to| Act::tcp(to, HTTP, head.replace('@', &nonce.hex())),
        );
    }
    table.proxied(
        "http-host-user",
        &[13, 14],
        "a request with a listed host as the user of another",
        HTTP,
        &NAMELESS,
        |nonce, to| {
            let path = nonce.hex();
            Act::tcp(
                to,
                HTTP,
                format!("GET http://{l}@{a}/{path} HTTP/1.1\r\nHost: {l}@{a}\r\n\r\n"),
            )
        },
    );
}

/// What else is spoken on the port.
fn protocols(table: &mut Table<'_>) {
    let world = table.world;
    let name = &world.listed.name;
    table.proxied(
        "http2-plain",
        &[14],
        "HTTP/2 without TLS",
        HTTP,
        &NAMELESS,
        |nonce, to| {
            Act::tcp(
                to,
                HTTP,
                format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}", nonce.hex()),
            )
        },
    );
    table
        .add(
            "http2-upgrade",
            &[14],
            "an upgrade to HTTP/2 without TLS: it stays with the listed host",
            |nonce| {
                let head = format!(
                    "GET /{} HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                     HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
                    nonce.hex()
                );
                Act::tcp(format!("@{name}"), HTTP, head)
            },
        )
        .expect(Expect::Led(world.listed.all()));
    table.proxied(
        "tls-on-80",
        &[13],
        "a hello for an attacker's name, to port 80",
        HTTP,
        &NAMELESS,
        |nonce, to| Act::tcp(to, HTTP, Hello::new(nonce).name(&world.attacker).record()),
    );
}

/// A request within a request.
fn smuggling(table: &mut Table<'_>) {
    let world = table.world;
    let (l, a) = (&world.listed.name, &world.attacker);
    let to = format!("@{l}");
    let hidden = |nonce: Nonce| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: {}\r\n\r\n",
            nonce.hex(),
            evil(a, nonce)
        )
        .into_bytes()
    };
    let first = format!("GET / HTTP/1.1\r\nHost: {l}\r\n\r\n").into_bytes();
    table
        .add(
            "http-second-request",
            &[14],
            "a request for a listed host, and one for another on the same connection",
            |nonce| in_pieces(&to, HTTP, [&first[..], &hidden(nonce)], 500),
        )
        .expect(Expect::Led(Vec::new()))
        .logged(&[Reason::NotListed]);
    table
        .add("http-pipelined", &[14], "the same at once", |nonce| {
            Act::tcp(&to, HTTP, [&first[..], &hidden(nonce)].concat())
        })
        .expect(Expect::Led(Vec::new()))
        .logged(&[Reason::NotListed]);
    let refused: &[Reason] = &[Reason::Malformed, Reason::NotListed];
    let ambiguous: [(&str, &str, &str, &[Reason]); 4] = [
        (
            "cl-te",
            "a length and a transfer encoding, of which the latter counts (RFC 9112, 6.3)",
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            &[],
        ),
        (
            "cl-cl",
            "two lengths",
            "Content-Length: 0\r\nContent-Length: 90\r\n",
            refused,
        ),
        (
            "te-odd",
            "an encoding that is spelt oddly",
            "Transfer-Encoding: xchunked\r\nTransfer-Encoding : chunked\r\n",
            refused,
        ),
        (
            "cl-sign",
            "a length with a sign",
            "Content-Length: +0\r\n",
            refused,
        ),
    ];
    for (id, what, head, reasons) in ambiguous {
        let id = format!("http-{id}");
        let what = format!("a request hidden behind one with {what}");
        table
            .proxied(id, &[14], what, HTTP, reasons, |nonce, to| {
                let outer = format!("POST / HTTP/1.1\r\nHost: {l}\r\n{head}\r\n0\r\n\r\n");
                Act::tcp(to, HTTP, [outer.as_bytes(), &hidden(nonce)].concat())
            })
            .expect(Expect::Led(Vec::new()));
    }
}
