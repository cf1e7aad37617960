//! Names on their way through the proxy: what TLS and HTTP have in common, and what mode `open` denies.

use omnirun_egress_policy::Reason;
use omnirun_guest_net::GATEWAY_IP;

use super::{Act, Expect, Table, act::Bytes, control::request, hello::Hello};
use crate::nonce::Nonce;

/// What a proxy says of something that says nothing of use.
pub(super) const NAMELESS: [Reason; 3] = [Reason::NoName, Reason::Malformed, Reason::NotListed];

pub(super) fn fill(table: &mut Table<'_>) {
    if !table.open() {
        super::tls::fill(table);
        super::http::fill(table);
    } else if table.world.proxies_web {
        denied(table);
    }
}

/// Sends these to port 443 of the listed site.
pub(super) fn to_listed(table: &Table<'_>, send: Vec<Vec<u8>>, gap: u32) -> Act {
    pieces_to(&format!("@{}", table.world.listed.name), 443, send, gap)
}

pub(super) fn pieces_to(to: &str, port: u16, send: Vec<Vec<u8>>, gap: u32) -> Act {
    Act::Tcp {
        to: to.to_owned(),
        port,
        send: send.into_iter().map(Bytes::from).collect(),
        gap,
        again: 0,
    }
}

/// A name of the attacker's, with the nonce in it.
pub(super) fn evil(table: &Table<'_>, nonce: Nonce) -> String {
    format!("x{}.{}", nonce.hex(), table.world.attacker)
}

/// What mode `open` still denies.
fn denied(table: &mut Table<'_>) {
    let Some(site) = table.world.denied.clone() else {
        return;
    };
    let to = site.address().to_string();
    table
        .add(
            "sni-denied",
            &[1, 3],
            format!("a hello for {}, which the policy denies", site.name),
            |nonce| Act::tcp(&to, 443, Hello::new(nonce).name(&site.name).record()),
        )
        .expect(Expect::Local)
        .logged(&[Reason::Denied]);
    table
        .add(
            "http-denied",
            &[1, 3],
            format!("a request for {}, which the policy denies", site.name),
            |nonce| Act::tcp(&to, 80, request(&site.name, nonce)),
        )
        .expect(Expect::Local)
        .logged(&[Reason::Denied]);
    table
        .add(
            "dns-denied",
            &[6],
            format!("ask our DNS for {}", site.name),
            |_| Act::dns(GATEWAY_IP, super::hello::query(&site.name, super::hello::kind::A)),
        )
        .expect(Expect::Local)
        .logged(&[Reason::Denied]);
    for (id, what, hello) in [
        (
            "no-sni",
            "without a server name",
            Hello::new as fn(Nonce) -> Hello,
        ),
        ("ech", "encrypted", |nonce| Hello::new(nonce).encrypted()),
    ] {
        table
            .add(
                format!("{id}-denied"),
                &[3, 4],
                format!("a hello {what}, where names are denied"),
                |nonce| Act::tcp(&to, 443, hello(nonce).record()),
            )
            .expect(Expect::Local)
            .logged(&[Reason::NoName, Reason::EncryptedName]);
    }
}
