//! Names on their way through the proxy: what TLS and HTTP have in common, and what mode `open` denies.

use omnirun_egress_policy::Reason;
use omnirun_guest_net::GATEWAY_IP;

use super::{
    Act, Expect, Table,
    act::Bytes,
    control::request,
    hello::{Hello, kind, query},
};
use crate::{capture::Protocol, nonce::Nonce};

/// What a proxy says of something that says nothing of use.
pub(super) const NAMELESS: [Reason; 3] = [Reason::NoName, Reason::Malformed, Reason::NotListed];

pub(super) fn fill(table: &mut Table<'_>) {
    if !table.open() {
        super::tls::fill(table);
        super::http::fill(table);
        super::explicit::fill(table);
    } else if table.world.proxies_web {
        denied(table);
    }
}

/// Connects, and sends these one by one.
pub(super) fn in_pieces<'a>(
    to: impl ToString,
    port: u16,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    gap: u32,
) -> Act {
    Act::Tcp {
        to: to.to_string(),
        port,
        send: pieces.into_iter().map(|piece| Bytes(piece.to_vec())).collect(),
        gap,
        again: 0,
    }
}

/// A name of the attacker's, with the nonce in it.
pub(super) fn evil(attacker: &str, nonce: Nonce) -> String {
    format!("x{}.{attacker}", nonce.hex())
}

/// What mode `open` still denies.
fn denied(table: &mut Table<'_>) {
    let Some(site) = &table.world.denied else { return };
    let (name, to) = (site.name.as_str(), site.address());
    table
        .add(
            "sni-denied",
            &[1, 3],
            format!("a hello for {name}, which the policy denies"),
            |nonce| Act::tcp(to, 443, Hello::new(nonce).name(name).record()),
        )
        .expect(Expect::Local)
        .logged(&[Reason::Denied])
        .alone_at(Protocol::Tcp, (to, 443).into());
    table
        .add(
            "http-denied",
            &[1, 3],
            format!("a request for {name}, which the policy denies"),
            |nonce| Act::tcp(to, 80, request(name, nonce)),
        )
        .expect(Expect::Local)
        .logged(&[Reason::Denied])
        .alone_at(Protocol::Tcp, (to, 80).into());
    table
        .add(
            "quic-denied",
            &[5],
            format!("QUIC to {to}, the address of {name}, which the policy denies"),
            |nonce| Act::Udp {
                to: to.into(),
                port: 443,
                send: vec![
                    [&[0xc0, 0, 0, 0, 1, 8][..], &nonce.raw(), &[0; 1180]]
                        .concat()
                        .into(),
                ],
            },
        )
        .meets("quic-past-proxy")
        .passes(&["refusal-icmp"]);
    table
        .add("dns-denied", &[6], format!("ask our DNS for {name}"), |_| {
            Act::dns(GATEWAY_IP, query(name, kind::A))
        })
        .expect(Expect::Local)
        .named(name)
        .logged(&[Reason::Denied]);
    let hidden = [Reason::NoName, Reason::EncryptedName];
    table.proxied(
        "no-sni",
        &[3],
        "a hello without a server name, where names are denied",
        443,
        &hidden,
        |nonce, to| Act::tcp(to, 443, Hello::new(nonce).record()),
    );
    table.proxied(
        "ech-nameless",
        &[4],
        "an encrypted hello without an outer name, where names are denied",
        443,
        &hidden,
        |nonce, to| Act::tcp(to, 443, Hello::new(nonce).encrypted().record()),
    );
    table.proxied(
        "garbage",
        &[3, 13],
        "bytes that are neither TLS nor HTTP, to port 443",
        443,
        &NAMELESS,
        |nonce, to| Act::tcp(to, 443, format!("SSH-2.0-{}\r\n", nonce.hex())),
    );
}
