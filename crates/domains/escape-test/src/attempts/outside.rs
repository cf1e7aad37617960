//! From where no guest is.
//!
//! The host's rules are a second wall: should a guest ever command its namespace, its frames still come by one link of
//! the host's. So these frames are sent from inside the namespace, past the first wall. And a sandbox is nobody's server,
//! and its host nobody's router: in a lab, somebody outside tries to come in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Act, Expect, From, Table,
    link::send,
    packet::{self, IPV4, IPV6, Mac},
};
use crate::{
    lab::{self, zone},
    nonce::Nonce,
    world::Uplink,
};

/// A hardware address of nobody's: whose a frame is, the host does not ask.
const SENDER: Mac = [0x02, 0x4f, 0x52, 0x00, 0x01, 0x09];
/// Somebody in the internet.
const STRANGER: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// Somebody there by IPv6.
const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111);

pub(super) fn fill(table: &mut Table<'_>) {
    let Some(uplink) = table.world.uplink.filter(|_| table.open()) else {
        return;
    };
    outwards(table, uplink);
    if table.world.lab {
        inwards(table, uplink);
    }
    if table.world.lab {
        answers(table);
    }
    table.stands("host-input", "host-address");
    table.stands("host-neighbours", "host-special");
    table.stands("host-forward-special", "host-special");
}

fn datagram(from: Ipv4Addr, to: Ipv4Addr, nonce: Nonce) -> Vec<u8> {
    packet::ipv4(
        from,
        to,
        17,
        &packet::udp((from, 5020), (to, 8090), &nonce.raw()),
        |_| {},
    )
}

fn outwards(table: &mut Table<'_>, uplink: Uplink) {
    let world = table.world;
    let frame = move |packet: &[u8]| packet::frame(SENDER, uplink.host, IPV4, packet);
    let host: Vec<Ipv4Addr> = world
        .host
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .collect();
    let special: Vec<Ipv4Addr> = [
        &world.private[..],
        &world.metadata,
        &world.neighbours,
        &world.sandboxes,
    ]
    .concat();
    table
        .add(
            "past-ipv6",
            &[9, 17],
            "IPv6 from inside the sandbox's namespace",
            |nonce| {
                let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
                let packet = packet::icmpv6(from, PUBLIC6, 128, &nonce.raw());
                send(nonce, [packet::frame(SENDER, uplink.host, IPV6, &packet)])
            },
        )
        .meets("host-ipv6")
        .by(From::Namespace);
    table
        .add(
            "past-spoofed-ip",
            &[12, 17],
            "others' addresses from inside the sandbox's namespace",
            |nonce| {
                let sources = [STRANGER, Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::LOCALHOST];
                send(
                    nonce,
                    sources.map(|from| frame(&datagram(from, world.unlisted.address(), nonce))),
                )
            },
        )
        .meets("host-spoofed-ip")
        .by(From::Namespace);
    table
        .add(
            "past-host",
            &[11, 17],
            "to the host, from inside the sandbox's namespace",
            |nonce| {
                send(
                    nonce,
                    host.iter().map(|to| frame(&datagram(uplink.address, *to, nonce))),
                )
            },
        )
        .meets("host-address")
        .by(From::Namespace);
    table
        .add(
            "past-special",
            &[10, 12, 17],
            "to special addresses, from inside the sandbox's namespace",
            |nonce| {
                send(
                    nonce,
                    special
                        .iter()
                        .map(|to| frame(&datagram(uplink.address, *to, nonce))),
                )
            },
        )
        .meets("host-special")
        .by(From::Namespace);
}

fn inwards(table: &mut Table<'_>, uplink: Uplink) {
    let frame = |packet: &[u8]| packet::frame(SENDER, lab::HOST_MAC, IPV4, packet);
    table
        .add(
            "inwards",
            &[21],
            "a datagram from the internet to the sandbox",
            |nonce| send(nonce, [frame(&datagram(STRANGER, uplink.address, nonce))]),
        )
        .meets("host-inward-new")
        .by(From::Internet);
    let inside = table.world.private.first().copied().unwrap_or(STRANGER);
    table
        .add(
            "through-the-host",
            &[12],
            format!("a datagram from the internet through the host to {inside}"),
            |nonce| send(nonce, [frame(&datagram(STRANGER, inside, nonce))]),
        )
        .meets("host-not-a-router")
        .by(From::Internet);
}

/// What routers and closed ports say: of it, what helps, and nothing by a router that has no business to be known.
fn answers(table: &mut Table<'_>) {
    let router = IpAddr::from(lab::ROUTER_IP);
    let send = |to: Ipv4Addr, size: usize| {
        move |nonce: Nonce| Act::Udp {
            to: to.into(),
            port: 8091,
            send: vec![[&nonce.raw()[..], &vec![0; size]].concat().into()],
        }
    };
    for (id, what, to, size, rule) in [
        (
            "closed-port",
            "a datagram to where nobody listens: the guest is told",
            zone::CLOSED_IP,
            0,
            "inward-unreachable",
        ),
        (
            "narrow-way",
            "a datagram that is too long for the way: the guest is told",
            zone::NARROW_IP,
            1400,
            "inward-too-big",
        ),
        (
            "private-router",
            "a datagram on whose way a router with a private address speaks up: the guest is not told",
            zone::UNREACHABLE_IP,
            0,
            "inward-special",
        ),
    ] {
        table
            .add(id, &[12], what, send(to, size))
            .expect(Expect::Led(vec![to.into(), router]))
            .passes(&[rule]);
    }
}
