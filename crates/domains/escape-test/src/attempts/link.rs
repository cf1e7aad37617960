//! What a frame is made of, and who it claims to be from.

use std::net::{Ipv4Addr, Ipv6Addr};

use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC};

use super::{
    Act, Table,
    packet::{self, ARP, BROADCAST, IPV4, IPV6, Mac},
};
use crate::nonce::Nonce;

/// Frames, sent once, and a second to see whether something answers.
pub(super) fn send(nonce: Nonce, frames: impl IntoIterator<Item = Vec<u8>>) -> Act {
    Act::Frames {
        frames: frames.into_iter().map(Into::into).collect(),
        times: 1,
        nonce: nonce.raw().to_vec().into(),
        wait: 1,
    }
}

/// An Ethernet address that is nobody's.
const OTHER_MAC: Mac = [0x02, 0x4f, 0x52, 0x00, 0x00, 0x99];
/// Neighbours of an IPv6 link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x4fff, 0xfe00, 2);
const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111);
const METADATA6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0xa9fe);
const SIX_TO_FOUR: Ipv6Addr = Ipv6Addr::new(0x2002, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1);
const TEREDO: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0x0808, 0x0808, 0, 0, 0, 1);

pub(super) fn fill(table: &mut Table<'_>) {
    let to = table.world.unlisted.address();
    let datagram = move |from: Ipv4Addr, nonce: Nonce| packet::udp((from, 5000), (to, 9), &nonce.raw());
    let packet_of =
        move |from: Ipv4Addr, nonce: Nonce| packet::ipv4(from, to, 17, &datagram(from, nonce), |_| {});
    identity(table, packet_of);
    let honest = move |nonce| packet_of(GUEST_IP, nonce);
    table
        .add(
            "vlan-tags",
            &[17, 18],
            "frames with a VLAN's tag, and with two",
            |nonce| {
                let tagged = |tags: &[u8]| [tags, &IPV4.to_be_bytes(), &honest(nonce)].concat();
                let frame = |kind, tags: &[u8]| packet::frame(GUEST_MAC, GATEWAY_MAC, kind, &tagged(tags));
                send(
                    nonce,
                    [frame(0x8100, &[0, 5]), frame(0x88a8, &[0, 1, 0x81, 0, 0, 2])],
                )
            },
        )
        .meets("vlan");
    table
        .add(
            "other-protocols-on-the-link",
            &[18],
            "frames of LLDP, EAPOL, MPLS, PPPoE and an unknown kind",
            |nonce| {
                let frame = |kind| packet::frame(GUEST_MAC, BROADCAST, kind, &nonce.raw());
                send(nonce, [0x88cc, 0x888e, 0x8847, 0x8863, 0x88b5].map(frame))
            },
        )
        .meets("other-ethertype");
    table
        .add(
            "broadcast",
            &[18],
            "DHCP to everybody on the link, and a packet to a stranger there",
            |nonce| {
                let from = Ipv4Addr::UNSPECIFIED;
                let request = packet::udp((from, 68), (Ipv4Addr::BROADCAST, 67), &dhcp(nonce));
                let dhcp = packet::ipv4(from, Ipv4Addr::BROADCAST, 17, &request, |_| {});
                send(
                    nonce,
                    [
                        packet::frame(GUEST_MAC, BROADCAST, IPV4, &dhcp),
                        packet::frame(GUEST_MAC, OTHER_MAC, IPV4, &honest(nonce)),
                        packet::frame(GUEST_MAC, [1, 0, 0x5e, 0, 0, 0xfb], IPV4, &honest(nonce)),
                    ],
                )
            },
        )
        .meets("link-broadcast");
    table
        .add(
            "ip-options",
            &[18],
            "packets with a source route, a recorded route and a router alert",
            |nonce| {
                let hop = GATEWAY_IP.octets();
                let options: [&[u8]; 3] = [
                    &[0x83, 7, 4, hop[0], hop[1], hop[2], hop[3], 0],
                    &[7, 7, 4, 0, 0, 0, 0, 0],
                    &[0x94, 4, 0, 0],
                ];
                send(
                    nonce,
                    options.map(|bytes| {
                        packet::to_gateway(&packet::ipv4(
                            GUEST_IP,
                            to,
                            17,
                            &datagram(GUEST_IP, nonce),
                            |header| {
                                header.options = packet::options(bytes);
                            },
                        ))
                    }),
                )
            },
        )
        .meets("ip-options");
    fragments(table, to);
    ipv6(table);
    arp(table);
}

/// Other people's addresses.
fn identity(table: &mut Table<'_>, packet_of: impl Fn(Ipv4Addr, Nonce) -> Vec<u8> + Copy) {
    table
        .add(
            "spoofed-mac",
            &[18],
            "frames from hardware addresses that are not the guest's",
            |nonce| {
                let frame = |from| packet::frame(from, GATEWAY_MAC, IPV4, &packet_of(GUEST_IP, nonce));
                send(nonce, [OTHER_MAC, GATEWAY_MAC, BROADCAST].map(frame))
            },
        )
        .meets("spoofed-mac");
    let private = table
        .world
        .private
        .first()
        .copied()
        .unwrap_or(Ipv4Addr::new(10, 0, 0, 1));
    let host = table.world.host.iter().find_map(|address| match address {
        std::net::IpAddr::V4(address) => Some(*address),
        std::net::IpAddr::V6(_) => None,
    });
    let sources = [
        Ipv4Addr::new(192, 0, 0, 3),
        GATEWAY_IP,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(8, 8, 8, 8),
        private,
        host.unwrap_or(private),
    ];
    table
        .add(
            "spoofed-ip",
            &[12, 18],
            "frames from addresses that are not the guest's",
            |nonce| {
                send(
                    nonce,
                    sources.map(|from| packet::to_gateway(&packet_of(from, nonce))),
                )
            },
        )
        .meets("spoofed-ip");
    let to = table.world.unlisted.address();
    table
        .add(
            "spoofed-ip-raw",
            &[12, 18],
            "the same by a raw IP socket, as a user of root's could",
            |nonce| Act::Packets {
                to,
                packets: sources.map(|from| packet_of(from, nonce).into()).to_vec(),
                nonce: nonce.raw().to_vec().into(),
                wait: 1,
            },
        )
        .meets("spoofed-ip");
}

/// Packets in pieces: in the smallest there are, and in such as lie over each other.
fn fragments(table: &mut Table<'_>, to: Ipv4Addr) {
    table
        .add(
            "fragments-tiny",
            &[13, 18],
            "a datagram in fragments of eight bytes",
            |nonce| {
                let datagram = packet::udp((GUEST_IP, 5001), (to, 443), &nonce.raw().repeat(4));
                send(
                    nonce,
                    packet::fragments(to, 17, &datagram, 8)
                        .iter()
                        .map(|part| packet::to_gateway(part)),
                )
            },
        )
        .meets("fragment");
    table
        .add(
            "fragments-overlapping",
            &[13, 18],
            "a TCP segment whose second piece rewrites its port",
            |nonce| {
                let segment =
                    |port| packet::tcp((GUEST_IP, 5002), (to, port), &nonce.raw().repeat(2), |_| {});
                let (first, second) = (segment(443), segment(22));
                let id = fastrand::u16(..);
                let part = |bytes: &[u8], at, more| packet::fragment(to, 6, bytes, id, at, more);
                send(
                    nonce,
                    [
                        packet::to_gateway(&part(&first[..24], 0, true)),
                        packet::to_gateway(&part(&second[..16], 0, true)),
                        packet::to_gateway(&part(&first[16..], 16, false)),
                        packet::to_gateway(&part(&second[24..], 24, false)),
                    ],
                )
            },
        )
        .meets("fragment");
}

/// There is no IPv6, so none of its tricks.
fn ipv6(table: &mut Table<'_>) {
    let frame = |packet: &[u8]| packet::frame(GUEST_MAC, [0x33, 0x33, 0, 0, 0, 1], IPV6, packet);
    table
        .add(
            "ipv6-neighbours",
            &[9, 18],
            "router and neighbour solicitations and advertisements",
            |nonce| {
                let raw = nonce.raw();
                let mut advert = vec![64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
                advert.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
                advert.extend(&Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0).octets());
                advert.extend(raw);
                let about = [
                    &[0x60, 0, 0, 0][..],
                    &METADATA6.octets(),
                    &[2, 1],
                    &GUEST_MAC,
                    &raw,
                ]
                .concat();
                send(
                    nonce,
                    [
                        frame(&packet::icmpv6(
                            LINK_LOCAL,
                            ALL_ROUTERS,
                            133,
                            &[&[0; 4][..], &raw].concat(),
                        )),
                        frame(&packet::icmpv6(LINK_LOCAL, ALL_NODES, 134, &advert)),
                        frame(&packet::icmpv6(LINK_LOCAL, ALL_NODES, 135, &about)),
                        frame(&packet::icmpv6(LINK_LOCAL, ALL_NODES, 136, &about)),
                    ],
                )
            },
        )
        .meets("ipv6");
    table
        .add(
            "ipv6-addresses",
            &[9, 10],
            "datagrams to metadata, NAT64, 6to4, Teredo and public addresses",
            |nonce| {
                let unicast = |to| {
                    let datagram = [&[0x13, 0x88, 0, 80, 0, 16, 0, 0][..], &nonce.raw()].concat();
                    let packet = packet::ipv6(LINK_LOCAL, to, 17, &datagram);
                    packet::frame(GUEST_MAC, GATEWAY_MAC, IPV6, &packet)
                };
                send(
                    nonce,
                    [METADATA6, NAT64, SIX_TO_FOUR, TEREDO, PUBLIC6, ALL_NODES].map(unicast),
                )
            },
        )
        .meets("ipv6");
}

fn arp(table: &mut Table<'_>) {
    let to = table.world.unlisted.address();
    let (me, gateway) = ((GUEST_MAC, GUEST_IP), ([0; 6], GATEWAY_IP));
    let tricks: [(&str, &str, &str, Vec<u8>); 4] = [
        (
            "arp-reverse",
            "arp-operation",
            "ask by ARP for what is no question",
            packet::arp(3, me, gateway),
        ),
        (
            "arp-spoofed-mac",
            "arp-spoofed-mac",
            "say by ARP that the guest's address is at other hardware",
            packet::arp(2, (OTHER_MAC, GUEST_IP), gateway),
        ),
        (
            "arp-spoofed-ip",
            "arp-spoofed-ip",
            "say by ARP that another's address is the guest's",
            packet::arp(2, (GUEST_MAC, to), gateway),
        ),
        (
            "arp-for-others",
            "arp-other-target",
            "ask by ARP for somebody else",
            packet::arp(1, me, ([0; 6], Ipv4Addr::new(169, 254, 169, 254))),
        ),
    ];
    for (id, rule, what, packet) in tricks {
        // There is room behind what ARP says.
        let frame = |nonce: Nonce| [&packet[..], &nonce.raw()].concat();
        let frame = |nonce| packet::frame(GUEST_MAC, BROADCAST, ARP, &frame(nonce));
        table
            .add(id, &[18], what, |nonce| send(nonce, [frame(nonce)]))
            .meets(rule);
    }
}

/// What a client would ask for an address, with the nonce as its number.
fn dhcp(nonce: Nonce) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(nonce.raw());
    bytes.resize(28, 0);
    bytes.extend(GUEST_MAC);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    bytes
}
