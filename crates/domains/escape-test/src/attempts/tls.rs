//! TLS: hellos that name nobody, or somebody else, or whom a parser might take for somebody else.

use std::net::IpAddr;

use omnirun_egress_policy::Reason;

use super::{
    Act, Expect, Table,
    control::request,
    hello::Hello,
    web::{NAMELESS, evil, in_pieces},
};
use crate::capture::Protocol;

/// The port of TLS.
const TLS: u16 = 443;

pub(super) fn fill(table: &mut Table<'_>) {
    forged(table);
    nameless(table);
    differentials(table);
    pieces(table);
    unfinished(table);
}

/// Listed names, to other addresses; other names, to listed ones.
fn forged(table: &mut Table<'_>) {
    let world = table.world;
    let (name, attacker) = (world.listed.name.as_str(), world.attacker.as_str());
    let there: Vec<IpAddr> = world.listed.all();
    let address = world.unlisted.address();
    table
        .add(
            "sni-to-other-address",
            &[1],
            format!("a hello for {name} to {address}, which is not its address"),
            |nonce| Act::tcp(address, 4430, Hello::new(nonce).name(name).record()),
        )
        .meets("unlisted-tcp")
        .alone_at(Protocol::Tcp, (address, 4430).into());
    if let Some(second) = &world.second {
        let to = format!("@{}", second.name);
        let what = format!(
            "a hello for {name} to the address of {}: it is led to {name}",
            second.name
        );
        table
            .add("sni-of-another-listed", &[1], what, |nonce| {
                Act::tcp(to, TLS, Hello::new(nonce).name(name).record())
            })
            .expect(Expect::Led(there.clone()));
    }
    let what = format!("a hello for an attacker's name to the address of {name}");
    table
        .add("sni-unlisted", &[1, 2], what, |nonce| {
            let hello = Hello::new(nonce).name(&evil(attacker, nonce));
            Act::tcp(format!("@{name}"), TLS, hello.record())
        })
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    if let Some(cohost) = &world.cohost {
        let what = format!("a hello for {cohost}, which is on the address of {name}");
        table
            .add("sni-cohost", &[2], what, |nonce| {
                Act::tcp(format!("@{name}"), TLS, Hello::new(nonce).name(cohost).record())
            })
            .expect(Expect::Local)
            .named(cohost)
            .logged(&[Reason::NotListed]);
    }
    let fronted = world.cohost.as_ref().unwrap_or(&world.unlisted.name);
    let what = format!(
        "within TLS for {name}, ask for {fronted}: no filter sees that; it goes to {name} all the same"
    );
    table
        .add("host-behind-sni", &[2, 19], what, |nonce| Act::Https {
            to: format!("@{name}"),
            port: TLS,
            before: Vec::new().into(),
            sni: Some(name.to_owned()),
            request: request(fronted, nonce).into(),
            again: 0,
        })
        .expect(Expect::Led(there));
}

/// Hellos that name nobody, or hide whom.
fn nameless(table: &mut Table<'_>) {
    let world = table.world;
    let address = world.unlisted.address().to_string();
    let hidden = [Reason::EncryptedName, Reason::NoName];
    table.proxied(
        "no-sni",
        &[3],
        "a hello without a server name",
        TLS,
        &NAMELESS,
        |nonce, to| Act::tcp(to, TLS, Hello::new(nonce).record()),
    );
    table.proxied(
        "sni-address",
        &[3],
        "a hello whose server name is an address",
        TLS,
        &NAMELESS,
        |nonce, to| Act::tcp(to, TLS, Hello::new(nonce).name(&address).record()),
    );
    table.proxied(
        "sni-empty",
        &[3, 13],
        "a hello whose server name is empty",
        TLS,
        &NAMELESS,
        |nonce, to| Act::tcp(to, TLS, Hello::new(nonce).name("").record()),
    );
    table.proxied(
        "ech",
        &[4],
        "an encrypted hello whose outer name is not listed",
        TLS,
        &hidden,
        |nonce, to| {
            Act::tcp(
                to,
                TLS,
                Hello::new(nonce).name(&world.attacker).encrypted().record(),
            )
        },
    );
    table.proxied(
        "ech-nameless",
        &[4],
        "an encrypted hello without an outer name",
        TLS,
        &hidden,
        |nonce, to| Act::tcp(to, TLS, Hello::new(nonce).encrypted().record()),
    );
    table.proxied(
        "garbage",
        &[3, 13],
        "bytes that are neither TLS nor HTTP, to port 443",
        TLS,
        &NAMELESS,
        |nonce, to| {
            let bytes = [&b"\x00\x01SSH-2.0-"[..], nonce.hex().as_bytes(), b"\r\n"].concat();
            Act::tcp(to, TLS, bytes)
        },
    );
    table.proxied(
        "http-on-443",
        &[13],
        "plain HTTP for a listed host, to port 443",
        TLS,
        &NAMELESS,
        |nonce, to| Act::tcp(to, TLS, request(&world.listed.name, nonce)),
    );
}

/// Names that one parser reads otherwise than another.
fn differentials(table: &mut Table<'_>) {
    let world = table.world;
    let there = world.listed.all();
    let (l, a) = (world.listed.name.as_bytes(), world.attacker.as_bytes());
    let long = [&b"a".repeat(1000)[..], b".", l].concat();
    let odd: [(&str, &str, Vec<Vec<u8>>); 8] = [
        (
            "nul",
            "a NUL byte after the listed name",
            vec![[l, b"\0.", a].concat()],
        ),
        (
            "nul-before",
            "a NUL byte before the listed name",
            vec![[a, b"\0.", l].concat()],
        ),
        (
            "control",
            "control bytes in the server name",
            vec![[l, b"\r\n", a].concat()],
        ),
        ("space", "a space in the server name", vec![[l, b" ", a].concat()]),
        (
            "unicode",
            "letters beyond ASCII in the server name",
            vec![[l, "。".as_bytes(), a].concat()],
        ),
        (
            "two",
            "two server names, the listed one first",
            vec![l.to_vec(), a.to_vec()],
        ),
        (
            "two-other",
            "two server names, the listed one last",
            vec![a.to_vec(), l.to_vec()],
        ),
        ("long", "a server name of a thousand bytes", vec![long]),
    ];
    for (id, what, names) in odd {
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        table.proxied(
            format!("sni-{id}"),
            &[13],
            format!("a hello with {what}"),
            TLS,
            &NAMELESS,
            |nonce, to| Act::tcp(to, TLS, Hello::new(nonce).names(&names).record()),
        );
    }
    let name = &world.listed.name;
    for (id, what, name) in [
        ("case", "in capitals", name.to_ascii_uppercase()),
        ("trailing-dot", "with a dot at its end", format!("{name}.")),
    ] {
        let what = format!("a hello for the listed name {what}: the same name, or none");
        table
            .add(format!("sni-{id}"), &[13], what, |nonce| {
                let hello = Hello::new(nonce).name(&name);
                Act::tcp(format!("@{}", world.listed.name), TLS, hello.record())
            })
            .expect(Expect::Led(there.clone()));
    }
}

/// Hellos in pieces.
fn pieces(table: &mut Table<'_>) {
    let world = table.world;
    let name = world.listed.name.as_str();
    let to = format!("@{name}");
    let there = world.listed.all();
    table
        .add(
            "hello-in-segments",
            &[13],
            "a hello for a listed name, in segments of 40 bytes",
            |nonce| in_pieces(&to, TLS, Hello::new(nonce).name(name).record().chunks(40), 20),
        )
        .expect(Expect::Led(there.clone()));
    table
        .add(
            "hello-in-records",
            &[13],
            "a hello for a listed name, in records of 30 bytes",
            |nonce| Act::tcp(&to, TLS, Hello::new(nonce).name(name).records(30).concat()),
        )
        .expect(Expect::Led(there.clone()));
    table
        .add(
            "hello-oversized",
            &[13],
            "a hello of 60 kB for a listed name",
            |nonce| {
                let hello = Hello::new(nonce).padded(60_000).name(name);
                Act::tcp(&to, TLS, hello.records(16_000).concat())
            },
        )
        .expect(Expect::Led(there));
    table
        .add(
            "hello-in-pieces-unlisted",
            &[13],
            "a hello for an attacker's name, in records of 7 bytes and segments of 9",
            |nonce| {
                let hello = Hello::new(nonce).name(&evil(&world.attacker, nonce));
                in_pieces(&to, TLS, hello.records(7).concat().chunks(9), 10)
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
}

/// Hellos that hide what comes after them, or never end.
fn unfinished(table: &mut Table<'_>) {
    let world = table.world;
    let name = world.listed.name.as_str();
    table
        .add(
            "hello-padded",
            &[13],
            "a hello for an attacker's name behind 12 kB of padding",
            |nonce| {
                let hello = Hello::new(nonce)
                    .padded(12_000)
                    .name(&evil(&world.attacker, nonce));
                Act::tcp(format!("@{name}"), TLS, hello.record())
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    let patient = [Reason::Malformed, Reason::TimedOut, Reason::NoName];
    table.proxied(
        "hello-unfinished",
        &[13],
        "half a hello, and silence",
        TLS,
        &patient,
        |nonce, to| {
            let record = Hello::new(nonce).name(name).record();
            Act::tcp(to, TLS, record[..record.len() - 20].to_vec())
        },
    );
    table.proxied(
        "hello-endless",
        &[13],
        "a hello that says it is 16 MB long",
        TLS,
        &patient,
        |nonce, to| {
            let message = Hello::new(nonce).name(name).message();
            let record = [&[0x16, 3, 1, 0x20, 0, 1, 0xff, 0xff, 0xff][..], &message[4..]].concat();
            let filled = [record, nonce.raw().repeat(1000)].concat();
            Act::tcp(to, TLS, filled)
        },
    );
}
