//! TLS: hellos that name nobody, or somebody else, or whom a parser might take for somebody else.

use std::net::IpAddr;

use omnirun_egress_policy::Reason;

use super::{
    Act, Expect, Table,
    control::request,
    hello::Hello,
    web::{NAMELESS, evil, pieces_to, to_listed},
};
use crate::capture::Protocol;

pub(super) fn fill(table: &mut Table<'_>) {
    forged(table);
    nameless(table);
    differentials(table);
    pieces(table);
}

/// Listed names, to other addresses; other names, to listed ones.
fn forged(table: &mut Table<'_>) {
    let world = table.world;
    let listed = world.listed.clone();
    let there: Vec<IpAddr> = listed.all();
    let (address, name) = (world.unlisted.address(), listed.name.clone());
    table
        .add(
            "sni-to-other-address",
            &[1],
            format!("a hello for {name} to {address}, which is not its address"),
            |nonce| Act::tcp(address, 4430, Hello::new(nonce).name(&name).record()),
        )
        .meets("unlisted-tcp")
        .alone_at(Protocol::Tcp, (address, 4430).into());
    if let Some(second) = &world.second {
        let what = format!(
            "a hello for {name} to the address of {}: it is led to {name}",
            second.name
        );
        table
            .add("sni-of-another-listed", &[1], what, |nonce| {
                pieces_to(
                    &format!("@{}", second.name),
                    443,
                    vec![Hello::new(nonce).name(&name).record()],
                    0,
                )
            })
            .expect(Expect::Led(there.clone()));
    }
    let nonce_name = |table: &Table<'_>, nonce| Hello::new(nonce).name(&evil(table, nonce)).record();
    let act = |table: &Table<'_>, nonce| to_listed(table, vec![nonce_name(table, nonce)], 0);
    let (world, mode) = (table.world, table.mode);
    let view = Table {
        mode,
        world,
        list: Vec::new(),
    };
    table
        .add(
            "sni-unlisted",
            &[1, 2],
            format!("a hello for an attacker's name to the address of {name}"),
            |nonce| act(&view, nonce),
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    if let Some(cohost) = &world.cohost {
        table
            .add(
                "sni-cohost",
                &[2],
                format!("a hello for {cohost}, which is on the address of {name}"),
                |nonce| to_listed(&view, vec![Hello::new(nonce).name(cohost).record()], 0),
            )
            .expect(Expect::Local)
            .named(cohost)
            .logged(&[Reason::NotListed]);
    }
    let fronted = world
        .cohost
        .clone()
        .unwrap_or_else(|| world.unlisted.name.clone());
    table
        .add(
            "host-behind-sni",
            &[2, 19],
            format!("within TLS for {name}, ask for {fronted}: no filter sees that; it must go to {name} all the same"),
            |nonce| Act::Https {
                to: format!("@{name}"),
                port: 443,
                before: Vec::new().into(),
                sni: Some(name.clone()),
                request: request(&fronted, nonce).into(),
                again: 0,
            },
        )
        .expect(Expect::Led(there));
}

/// Hellos that name nobody, or hide whom.
fn nameless(table: &mut Table<'_>) {
    let view = Table {
        mode: table.mode,
        world: table.world,
        list: Vec::new(),
    };
    let attacker = table.world.attacker.clone();
    let address = table.world.unlisted.address().to_string();
    type Make = fn(Hello, &str, &str) -> Vec<u8>;
    type Case<'a> = (&'a str, &'static [u8], &'a str, Make, &'a [Reason]);
    let hellos: [Case<'_>; 4] = [
        (
            "no-sni",
            &[3],
            "a hello without a server name",
            |hello, _, _| hello.record(),
            &NAMELESS,
        ),
        (
            "sni-address",
            &[3],
            "a hello whose server name is an address",
            |hello, _, address| hello.name(address).record(),
            &NAMELESS,
        ),
        (
            "sni-empty",
            &[3, 13],
            "a hello whose server name is empty",
            |hello, _, _| hello.name("").record(),
            &NAMELESS,
        ),
        (
            "ech",
            &[4],
            "an encrypted hello whose outer name is not listed",
            |hello, attacker, _| hello.name(attacker).encrypted().record(),
            &[Reason::EncryptedName, Reason::NotListed],
        ),
    ];
    for (id, bypass, what, make, reasons) in hellos {
        table
            .add(id, bypass, what, |nonce| {
                to_listed(&view, vec![make(Hello::new(nonce), &attacker, &address)], 0)
            })
            .expect(Expect::Local)
            .logged(reasons);
    }
    table
        .add(
            "ech-nameless",
            &[4],
            "an encrypted hello without an outer name",
            |nonce| to_listed(&view, vec![Hello::new(nonce).encrypted().record()], 0),
        )
        .expect(Expect::Local)
        .logged(&[Reason::EncryptedName, Reason::NoName]);
    table
        .add(
            "garbage",
            &[3, 13],
            "bytes that are neither TLS nor HTTP, to port 443",
            |nonce| {
                to_listed(
                    &view,
                    vec![[&b"\x00\x01SSH-2.0-"[..], nonce.hex().as_bytes(), b"\r\n"].concat()],
                    0,
                )
            },
        )
        .expect(Expect::Local)
        .logged(&NAMELESS);
    let name = table.world.listed.name.clone();
    table
        .add(
            "http-on-443",
            &[13],
            "plain HTTP for a listed host, to port 443",
            |nonce| to_listed(&view, vec![request(&name, nonce).into_bytes()], 0),
        )
        .expect(Expect::Local)
        .logged(&NAMELESS);
}

/// Names that one parser reads otherwise than another.
fn differentials(table: &mut Table<'_>) {
    let view = Table {
        mode: table.mode,
        world: table.world,
        list: Vec::new(),
    };
    let listed = table.world.listed.name.clone();
    let attacker = table.world.attacker.clone();
    let there = table.world.listed.all();
    let (l, a) = (listed.as_bytes(), attacker.as_bytes());
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
        (
            "long",
            "a server name of a thousand bytes",
            vec![[&b"a".repeat(1000)[..], b".", l].concat()],
        ),
    ];
    for (id, what, names) in odd {
        table
            .add(
                format!("sni-{id}"),
                &[13],
                format!("a hello with {what}"),
                |nonce| {
                    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
                    to_listed(&view, vec![Hello::new(nonce).names(&names).record()], 0)
                },
            )
            .expect(Expect::Local)
            .logged(&NAMELESS);
    }
    for (id, what, name) in [
        ("case", "in capitals", listed.to_ascii_uppercase()),
        ("trailing-dot", "with a dot at its end", format!("{listed}.")),
    ] {
        table
            .add(
                format!("sni-{id}"),
                &[13],
                format!("a hello for the listed name {what}: the same name, or none"),
                |nonce| to_listed(&view, vec![Hello::new(nonce).name(&name).record()], 0),
            )
            .expect(Expect::Led(there.clone()));
    }
}

/// Hellos in pieces, and such as do not end.
fn pieces(table: &mut Table<'_>) {
    let view = Table {
        mode: table.mode,
        world: table.world,
        list: Vec::new(),
    };
    let listed = table.world.listed.clone();
    let bytes = |record: Vec<u8>, size: usize| record.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>();
    table
        .add(
            "hello-in-segments",
            &[13],
            "a hello for a listed name, in segments of 40 bytes",
            |nonce| {
                to_listed(
                    &view,
                    bytes(Hello::new(nonce).name(&listed.name).record(), 40),
                    20,
                )
            },
        )
        .expect(Expect::Led(listed.all()));
    table
        .add(
            "hello-in-records",
            &[13],
            "a hello for a listed name, in records of 30 bytes",
            |nonce| {
                to_listed(
                    &view,
                    vec![Hello::new(nonce).name(&listed.name).records(30).concat()],
                    0,
                )
            },
        )
        .expect(Expect::Led(listed.all()));
    table
        .add(
            "hello-in-pieces-unlisted",
            &[13],
            "a hello for an attacker's name, in records of 7 bytes and segments of 9",
            |nonce| {
                let records = Hello::new(nonce).name(&evil(&view, nonce)).records(7).concat();
                to_listed(&view, bytes(records, 9), 10)
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    table
        .add(
            "hello-padded",
            &[13],
            "a hello for an attacker's name behind 12 kB of padding",
            |nonce| {
                to_listed(
                    &view,
                    vec![
                        Hello::new(nonce)
                            .padded(12_000)
                            .name(&evil(&view, nonce))
                            .record(),
                    ],
                    0,
                )
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed, Reason::Malformed]);
    table
        .add(
            "hello-oversized",
            &[13],
            "a hello of 60 kB for a listed name",
            |nonce| {
                to_listed(
                    &view,
                    vec![
                        Hello::new(nonce)
                            .padded(60_000)
                            .name(&listed.name)
                            .records(16_000)
                            .concat(),
                    ],
                    0,
                )
            },
        )
        .expect(Expect::Led(listed.all()));
    table
        .add("hello-unfinished", &[13], "half a hello, and silence", |nonce| {
            let record = Hello::new(nonce).name(&listed.name).record();
            to_listed(&view, vec![record[..record.len() - 20].to_vec()], 0)
        })
        .expect(Expect::Local);
}
