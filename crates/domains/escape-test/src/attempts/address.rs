//! Where packets go.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use omnirun_egress_policy::Reason;
use omnirun_guest_net::{GATEWAY_IP, GUEST_IP};

use super::{Act, Expect, Table, link::send, packet};
use crate::{capture::Protocol, nonce::Nonce};

pub(super) fn fill(table: &mut Table<'_>) {
    gateway(table);
    special(table);
    metadata(table);
    hosts(table);
    if let Some(address) = table.world.denied_address {
        table
            .add(
                "denied-address",
                &[3],
                format!("connect to {address}, which the policy denies"),
                |nonce| Act::tcp(address, 8083, nonce.hex()),
            )
            .meets("denied")
            .alone_at(Protocol::Tcp, (address, 8083).into());
    }
    protocols(table);
    if table.open() {
        let to = table.world.unlisted.address();
        table
            .add(
                "icmp-other",
                &[18],
                "ICMP that is no echo: a timestamp, an address mask, a redirect",
                |nonce| icmp(to, nonce, [13, 17, 5]),
            )
            .meets("icmp-other");
        table
            .add(
                "time-exceeded",
                &[18],
                "a datagram that has no hops left: the sandbox's own network says so",
                |nonce| {
                    let datagram = packet::udp((GUEST_IP, 5011), (to, 8092), &nonce.raw());
                    let packet = packet::ipv4(GUEST_IP, to, 17, &datagram, |header| header.time_to_live = 1);
                    send(nonce, [packet::to_gateway(&packet)])
                },
            )
            .passes(&["refusal-icmp"]);
        permitted_private(table);
    } else {
        super::unlisted::fill(table);
    }
    table
        .add(
            "stale-segments",
            &[18],
            "segments of TCP connections that were never opened",
            |nonce| {
                let segment = |from, change: fn(&mut etherparse::TcpHeader)| {
                    let to = (GATEWAY_IP, omnirun_guest_net::PROXY_PORT);
                    let segment = packet::tcp((GUEST_IP, from), to, &nonce.raw(), change);
                    packet::to_gateway(&packet::from_guest(GATEWAY_IP, 6, &segment))
                };
                send(
                    nonce,
                    [
                        segment(5003, |header| (header.syn, header.ack) = (false, true)),
                        segment(5004, |header| (header.syn, header.fin) = (false, true)),
                    ],
                )
            },
        )
        .meets("stale-tcp")
        .passes(&["refusal-tcp"]);
    table
        .add(
            "broken-checksum",
            &[18],
            "a datagram to our DNS whose checksum is wrong",
            |nonce| {
                let mut datagram = packet::udp((GUEST_IP, 5005), (GATEWAY_IP, 53), &nonce.raw());
                datagram[6] ^= 0xff;
                send(
                    nonce,
                    [packet::to_gateway(&packet::from_guest(GATEWAY_IP, 17, &datagram))],
                )
            },
        )
        .meets("invalid");
}

pub(super) fn icmp<const N: usize>(to: Ipv4Addr, nonce: Nonce, kinds: [u8; N]) -> Act {
    send(
        nonce,
        kinds.map(|kind| {
            packet::to_gateway(&packet::from_guest(
                to,
                1,
                &packet::icmp(kind, 0, [0x4f, 0x52, 0, 1], &nonce.raw()),
            ))
        }),
    )
}

/// What else the gateway's address might have.
fn gateway(table: &mut Table<'_>) {
    let ports = [22, 80, 443, 2375, 3129, 5355, 8080, 8300, 65535];
    table
        .add(
            "gateway-ports",
            &[11],
            "open connections to all sorts of ports of the gateway",
            |nonce| {
                send(
                    nonce,
                    ports.map(|port| {
                        let segment = packet::tcp((GUEST_IP, 5006), (GATEWAY_IP, port), &nonce.raw(), |_| {});
                        packet::to_gateway(&packet::from_guest(GATEWAY_IP, 6, &segment))
                    }),
                )
            },
        )
        .meets("gateway-port");
    table
        .add(
            "gateway-datagrams",
            &[11, 18],
            "datagrams to DHCP, NTP, SSDP, mDNS and the proxy's port of the gateway",
            |nonce| {
                send(
                    nonce,
                    [67, 123, 1900, 5353, 3128].map(|port| {
                        let datagram = packet::udp((GUEST_IP, 5007), (GATEWAY_IP, port), &nonce.raw());
                        packet::to_gateway(&packet::from_guest(GATEWAY_IP, 17, &datagram))
                    }),
                )
            },
        )
        .meets("gateway-port");
    table
        .add("gateway-ping", &[11, 18], "ping the gateway", |nonce| Act::Ping {
            to: GATEWAY_IP,
            payload: nonce.raw().to_vec().into(),
        })
        .meets("gateway-port");
}

/// One address of every special kind.
fn special(table: &mut Table<'_>) {
    let special = table.world.special.clone();
    for (index, (name, nets)) in special.into_iter().enumerate() {
        let samples: Vec<Ipv4Addr> = nets
            .iter()
            .map(|net| {
                let inside =
                    u32::from(net.network()).saturating_add(if net.prefix_len() > 29 { 0 } else { 5 });
                Ipv4Addr::from(inside)
            })
            // What another rule is for comes before.
            .filter(|address| table.world.special_rule(*address) == Some(format!("special-{name}")))
            .collect();
        if samples.is_empty() {
            continue;
        }
        let port = 20_000 + u16::try_from(index).unwrap_or_default();
        let list = samples
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let what = format!("datagrams and connections to special addresses: {list}");
        let attempt = table
            .add(format!("special-{name}"), &[9, 12], what, |nonce| {
                let datagram = |to: Ipv4Addr| {
                    let datagram = packet::udp((GUEST_IP, 5008), (to, port), &nonce.raw());
                    packet::to_gateway(&packet::from_guest(to, 17, &datagram))
                };
                let opening = |to: Ipv4Addr| {
                    let segment = packet::tcp((GUEST_IP, 5008), (to, port), &nonce.raw(), |_| {});
                    packet::to_gateway(&packet::from_guest(to, 6, &segment))
                };
                send(nonce, samples.iter().flat_map(|to| [datagram(*to), opening(*to)]))
            })
            .meets(format!("special-{name}"));
        for to in &samples {
            attempt.alone_at(Protocol::Tcp, SocketAddr::from((*to, port)));
            attempt.alone_at(Protocol::Udp, SocketAddr::from((*to, port)));
        }
    }
}

fn metadata(table: &mut Table<'_>) {
    for address in table.world.metadata.clone() {
        let Some(rule) = table.world.special_rule(address) else {
            continue;
        };
        table
            .add(format!("metadata-{address}"), &[10], format!("ask {address} for its metadata"), |nonce| {
                let request = format!(
                    "GET /latest/meta-data/?{} HTTP/1.1\r\nHost: {address}\r\nMetadata-Flavor: Google\r\n\r\n",
                    nonce.hex()
                );
                Act::tcp(address, 80, request)
            })
            .meets(rule)
            .alone_at(Protocol::Tcp, (address, 80).into());
    }
}

/// The host, its neighbours, other sandboxes: by the guest's own kernel.
fn hosts(table: &mut Table<'_>) {
    let world = table.world;
    let mut targets: Vec<(String, &'static [u8], Ipv4Addr, u16)> = Vec::new();
    for address in &world.host {
        if let IpAddr::V4(address) = address {
            targets.extend(
                world
                    .host_ports
                    .iter()
                    .map(|port| (format!("host-{address}-{port}"), &[11_u8][..], *address, *port)),
            );
        }
    }
    let list = |name: &str, bypass: &'static [u8], addresses: &[Ipv4Addr], port| {
        let one = |address: &Ipv4Addr| (format!("{name}-{address}"), bypass, *address, port);
        addresses.iter().map(one).collect::<Vec<_>>()
    };
    targets.extend(list("private", &[12], &world.private, 445));
    targets.extend(list("neighbour", &[12], &world.neighbours, 22));
    targets.extend(list("sandbox", &[12], &world.sandboxes, 22));
    let open = table.open();
    for (id, bypass, address, port) in targets {
        let rule = world.special_rule(address);
        let attempt = table.add(id, bypass, format!("connect to {address}:{port}"), |nonce| {
            Act::tcp(address, port, nonce.hex())
        });
        match rule {
            Some(rule) => attempt.meets(rule),
            // The host's public address: it is the host that knows it for its own.
            None if open => attempt.meets("host-address"),
            None => attempt.meets("unlisted-tcp"),
        };
    }
}

/// Protocols that carry others, and those that are none.
fn protocols(table: &mut Table<'_>) {
    let to = table.world.unlisted.address();
    let inner = move |nonce: Nonce| {
        let hidden = Ipv4Addr::new(8, 8, 8, 8);
        packet::from_guest(
            hidden,
            17,
            &packet::udp((GUEST_IP, 5009), (hidden, 53), &nonce.raw()),
        )
    };
    type Make = fn(Vec<u8>, Nonce) -> (u8, Vec<u8>);
    let tunnels: [(&str, &str, Make); 7] = [
        ("ip-in-ip", "a packet in a packet", |inner, _| (4, inner)),
        ("gre", "a packet in GRE", |inner, _| {
            (47, [&[0, 0, 8, 0][..], &inner].concat())
        }),
        ("6in4", "an IPv6 packet in a packet", |_, nonce| {
            let to = [0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111].into();
            (
                41,
                packet::icmpv6([0x2002, 0xc000, 2, 0, 0, 0, 0, 1].into(), to, 128, &nonce.raw()),
            )
        }),
        ("sctp", "the opening of an SCTP association", |_, nonce| {
            let mut chunk = vec![0x13, 0x88, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 28];
            chunk.extend(nonce.raw());
            chunk.resize(12 + 28, 0);
            (132, chunk)
        }),
        ("esp", "what looks like IPsec", |_, nonce| {
            (50, [&[0, 0, 0, 1, 0, 0, 0, 1][..], &nonce.raw()].concat())
        }),
        ("igmp", "a report to a multicast router", |_, nonce| {
            (2, [&[0x16, 0, 0, 0][..], &nonce.raw()].concat())
        }),
        ("unknown-protocol", "a protocol that there is not", |_, nonce| {
            (253, nonce.raw().to_vec())
        }),
    ];
    for (id, what, make) in tunnels {
        table
            .add(id, &[18], format!("{what}, to {to}"), |nonce| {
                let (protocol, payload) = make(inner(nonce), nonce);
                send(
                    nonce,
                    [packet::to_gateway(&packet::from_guest(to, protocol, &payload))],
                )
            })
            .meets("other-protocol");
    }
}

/// A private address that the namespace lets through to the proxy: by TCP, and to nobody else.
fn permitted_private(table: &mut Table<'_>) {
    let Some(to) = table.world.permitted_private else {
        table.stands("redirect-permitted", "the rules for special addresses");
        table.stands("forward-special", "the rules for special addresses");
        return;
    };
    let what = format!("a datagram to {to}, which only the proxy may reach");
    table
        .add("permitted-private-udp", &[12], what, |nonce| Act::Udp {
            to: to.into(),
            port: 8093,
            send: vec![nonce.raw().to_vec().into()],
        })
        .meets("forward-special");
    let what = format!("connect to {to}, which only the proxy may reach, if its policy says so");
    table
        .add("permitted-private-tcp", &[12], what, |nonce| {
            Act::tcp(to, 8094, nonce.hex())
        })
        .expect(Expect::Local)
        .passes(&["redirect-permitted"])
        .logged(&[Reason::SpecialAddress, Reason::NotListed])
        .alone_at(Protocol::Tcp, (to, 8094).into());
}
