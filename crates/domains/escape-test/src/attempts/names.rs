//! DNS.

use std::net::IpAddr;

use omnirun_egress_policy::Reason;
use omnirun_guest_net::GATEWAY_IP;

use super::{
    Act, Expect, Phase, Table,
    hello::{kind, query, query_labels},
};
use crate::nonce::Nonce;

pub(super) fn fill(table: &mut Table<'_>) {
    kinds(table);
    direct(table);
    shapes(table);
    tunnels(table);
    rebinding(table);
}

/// Whether it is known whom a name that is not listed is asked for. A resolver on the host itself asks others.
fn known(table: &Table<'_>) -> bool {
    !table.open()
        || table
            .world
            .host_resolvers
            .iter()
            .any(|resolver| !resolver.is_loopback())
}

/// What becomes of a query for a name that is not listed: in mode `open` the name is asked for by ourselves.
fn unlisted(table: &Table<'_>) -> Expect {
    if table.open() {
        Expect::Led(table.world.host_resolvers.clone())
    } else {
        Expect::Local
    }
}

/// A name below the attacker's, with the nonce in it.
fn below(zone: &str, nonce: Nonce) -> String {
    format!("{}.{zone}", nonce.base32().to_ascii_lowercase())
}

/// Kinds of records.
fn kinds(table: &mut Table<'_>) {
    let zone = table.world.attacker.clone();
    let expect = unlisted(table);
    let asks = [
        ("a", "an address", kind::A),
        ("txt", "text", kind::TXT),
        ("null", "any bytes", kind::NULL),
        ("any", "all there is", kind::ANY),
        ("https", "keys for an encrypted hello", kind::HTTPS),
        ("aaaa", "an IPv6 address", kind::AAAA),
    ];
    for (id, what, asked) in asks {
        if asked == kind::A && !known(table) {
            continue;
        }
        let open = table.open();
        let attempt = table.add(
            format!("dns-{id}"),
            &[4, 6],
            format!("ask our DNS for {what} of a name that carries data"),
            |nonce| Act::dns(GATEWAY_IP, query(&below(&zone, nonce), asked)),
        );
        if asked == kind::A {
            attempt.expect(expect.clone());
            if !open {
                attempt.logged(&[Reason::NotListed]);
            }
        } else {
            // Never asked for, whatever the name.
            attempt.expect(Expect::Local);
        }
    }
    let listed = table.world.listed.name.clone();
    for (id, kind) in [("txt", kind::TXT), ("https", kind::HTTPS), ("aaaa", kind::AAAA)] {
        table
            .add(
                format!("dns-{id}-listed"),
                &[4, 6, 9],
                format!("ask our DNS for {} of {listed}", id.to_uppercase()),
                |_| Act::dns(GATEWAY_IP, query(&listed, kind)),
            )
            .expect(Expect::Local);
    }
}

/// Past our DNS.
fn direct(table: &mut Table<'_>) {
    if !known(table) {
        return;
    }
    let zone = table.world.attacker.clone();
    for resolver in table.world.resolvers.clone() {
        for tcp in [false, true] {
            let (over, rule, input) = if tcp {
                ("tcp", "redirect-dns-tcp", "input-dns-tcp")
            } else {
                ("udp", "redirect-dns-udp", "input-dns-udp")
            };
            let expect = unlisted(table);
            table
                .add(
                    format!("dns-{over}-{resolver}"),
                    &[6, 8],
                    format!("ask {resolver} by {over}"),
                    |nonce| Act::Dns {
                        to: resolver.into(),
                        tcp,
                        fast: false,
                        queries: vec![query(&below(&zone, nonce), kind::A).into()],
                    },
                )
                .expect(expect)
                .passes(&["dns-elsewhere", rule, input]);
        }
    }
}

/// Names that some would read otherwise than others.
fn shapes(table: &mut Table<'_>) {
    let listed = table.world.listed.name.clone();
    let labels: Vec<&[u8]> = listed.split('.').map(str::as_bytes).collect();
    let zone = table.world.attacker.clone();
    let tail: Vec<&[u8]> = zone.split('.').map(str::as_bytes).collect();
    let odd = |first: &[u8], nonce: Nonce| {
        let label = [first, b"x", nonce.hex().as_bytes()].concat();
        query_labels(&[&[&label[..]], &tail[..]].concat(), kind::A)
    };
    let strange: [(&str, &str, &[u8]); 4] = [
        ("nul", "a NUL byte", b"listed.example\0"),
        ("dot", "a dot", b"listed.example."),
        ("control", "control bytes", b"\x01\x0a\x0d\x7f"),
        ("utf8", "bytes beyond ASCII", "bücher".as_bytes()),
    ];
    for (id, what, first) in strange {
        table
            .add(
                format!("dns-label-{id}"),
                &[13],
                format!("a query with {what} in a label"),
                |nonce| Act::dns(GATEWAY_IP, odd(first, nonce)),
            )
            .expect(Expect::Local);
    }
    table
        .add(
            "dns-label-swallowed",
            &[13],
            "a listed name as one label, dots and all",
            |_| Act::dns(GATEWAY_IP, query_labels(&[listed.as_bytes()], kind::A)),
        )
        .expect(Expect::Local);
    type Change = fn(Vec<u8>, Nonce) -> Vec<u8>;
    let broken: [(&str, &str, Change); 4] = [
        ("response", "an answer that nobody asked for", |mut query, _| {
            query[2] |= 0x80;
            query
        }),
        ("two-questions", "a query with two questions", |mut query, _| {
            query[5] = 2;
            let again = query[12..].to_vec();
            [query, again].concat()
        }),
        ("loop", "a query whose name points at itself", |query, nonce| {
            [&query[..12], &[0xc0, 12, 0, 1, 0, 1], &nonce.raw()].concat()
        }),
        ("cut", "half a query", |query, _| {
            query[..query.len() / 2].to_vec()
        }),
    ];
    for (id, what, change) in broken {
        table
            .add(format!("dns-{id}"), &[13], what, |nonce| {
                Act::dns(GATEWAY_IP, change(query(&below(&zone, nonce), kind::A), nonce))
            })
            .expect(Expect::Local);
    }
    let mixed: Vec<Vec<u8>> = labels.iter().map(|label| label.to_ascii_uppercase()).collect();
    let mixed: Vec<&[u8]> = mixed.iter().map(Vec::as_slice).collect();
    table
        .add(
            "dns-case",
            &[13],
            format!("ask for {listed} in capitals: it is the same name"),
            |_| Act::dns(GATEWAY_IP, query_labels(&mixed, kind::A)),
        )
        .expect(Expect::Allowed(Vec::new()));
}

/// Data in names.
fn tunnels(table: &mut Table<'_>) {
    let zone = table.world.attacker.clone();
    let expect = unlisted(table);
    let long = |nonce: Nonce, zone: &str| {
        let label = nonce.hex().repeat(4)[..63].to_owned();
        query(&format!("{label}.{label}.{label}.{zone}"), kind::A)
    };
    // Where they go on, they go to somebody.
    let many = if table.open() && !table.world.lab { 5 } else { 100 };
    let known = known(table);
    if known {
        table
            .add(
                "dns-long-labels",
                &[6],
                "a name that is all data, as long as a name may be",
                |nonce| Act::dns(GATEWAY_IP, long(nonce, &zone)),
            )
            .expect(expect.clone());
        table
            .add(
                "dns-fast",
                &[6],
                format!("{many} queries as fast as they go"),
                |nonce| Act::Dns {
                    to: GATEWAY_IP.into(),
                    tcp: false,
                    fast: true,
                    queries: (0..many)
                        .map(|n| query(&format!("{n}.{}", below(&zone, nonce)), kind::A).into())
                        .collect(),
                },
            )
            .expect(expect)
            .phase(Phase::Flood);
    }
    if let Some(wild) = table.world.wild.clone().filter(|_| !table.open()) {
        table
            .add(
                "dns-wildcard-tunnel",
                &[6, 19],
                format!("a name below {} that is all data", wild.name),
                |nonce| Act::dns(GATEWAY_IP, long(nonce, &wild.name)),
            )
            .expect(Expect::Local)
            .logged(&[Reason::Refused]);
    }
}

/// Names of the policy that lead where no name may lead.
fn rebinding(table: &mut Table<'_>) {
    for (name, address) in table.world.rebinding.clone() {
        table
            .add(
                format!("rebind-{name}"),
                &[8, 12],
                format!("connect to {name}, which leads to {address}"),
                |nonce| Act::tcp(format!("@{name}"), 80, super::control::request(&name, nonce)),
            )
            .named(&name)
            .logged(&[Reason::NoAddress, Reason::SpecialAddress]);
    }
    if let Some((name, first, then)) = table.world.flip.clone() {
        let to: IpAddr = first.into();
        table
            .add(
                format!("rebind-{name}"),
                &[8, 12],
                format!(
                    "connect to {name}, which leads to {first} when asked first, and to {then} after that"
                ),
                |nonce| Act::tcp(format!("@{name}"), 80, super::control::request(&name, nonce)),
            )
            .expect(Expect::Led(vec![to]));
    }
}
