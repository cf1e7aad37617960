//! What the policy of mode `allow` does not list: addresses, ports, protocols.

use omnirun_egress_policy::Reason;

use super::{Act, Expect, Table, address::icmp};
use crate::capture::Protocol;

/// What the policy of mode `allow` does not list.
pub(super) fn fill(table: &mut Table<'_>) {
    let world = table.world;
    let to = world.unlisted.address();
    for port in [22, 80, 443, 8080] {
        table
            .add(
                format!("direct-tcp-{port}"),
                &[3],
                format!("connect to {to}:{port}, which no name led to"),
                |nonce| Act::tcp(to, port, nonce.hex()),
            )
            .meets("unlisted-tcp")
            .passes(&["refusal-tcp"])
            .alone_at(Protocol::Tcp, (to, port).into());
    }
    table
        .add(
            "mapped-address",
            &[9],
            format!("connect to ::ffff:{to}, an IPv4 address in an IPv6 socket"),
            |nonce| Act::tcp(format!("::ffff:{to}"), 8084, nonce.hex()),
        )
        .may_be_unsent()
        .alone_at(Protocol::Tcp, (to, 8084).into());
    for (id, port, what) in [
        ("quic", 443, "QUIC"),
        ("ntp", 123, "NTP"),
        ("datagram", 8085, "an unknown protocol"),
    ] {
        table
            .add(id, &[5, 18], format!("a datagram of {what} to {to}"), |nonce| {
                Act::Udp {
                    to: to.into(),
                    port,
                    send: vec![
                        [&[0xc0, 0, 0, 0, 1, 8][..], &nonce.raw(), &[0; 1180]]
                            .concat()
                            .into(),
                    ],
                }
            })
            .meets("udp")
            .passes(&["refusal-icmp"])
            .alone_at(Protocol::Udp, (to, port).into());
    }
    let listed = world.listed.address();
    table
        .add(
            "quic-listed",
            &[5],
            format!("QUIC to {listed}, whose name is listed"),
            |nonce| Act::Udp {
                to: listed.into(),
                port: 443,
                send: vec![
                    [&[0xc0, 0, 0, 0, 1, 8][..], &nonce.raw(), &[0; 1180]]
                        .concat()
                        .into(),
                ],
            },
        )
        .meets("udp")
        .alone_at(Protocol::Udp, (listed, 443).into());
    for resolver in world.resolvers.clone() {
        table
            .add(
                format!("doh-{resolver}"),
                &[7],
                format!("DNS over HTTPS at {resolver}"),
                |nonce| Act::Https {
                    to: resolver.to_string(),
                    port: 443,
                    before: Vec::new().into(),
                    sni: None,
                    request: format!(
                        "GET /dns-query?dns={} HTTP/1.1\r\nHost: {resolver}\r\n\r\n",
                        nonce.hex()
                    )
                    .into(),
                    again: 0,
                },
            )
            .meets("unlisted-tcp")
            .alone_at(Protocol::Tcp, (resolver, 443).into());
        table
            .add(
                format!("dot-{resolver}"),
                &[7],
                format!("DNS over TLS at {resolver}"),
                |nonce| Act::tcp(resolver, 853, nonce.raw().to_vec()),
            )
            .meets("unlisted-tcp")
            .alone_at(Protocol::Tcp, (resolver, 853).into());
        table
            .add(
                format!("doq-{resolver}"),
                &[5, 7],
                format!("DNS over QUIC at {resolver}"),
                |nonce| Act::Udp {
                    to: resolver.into(),
                    port: 853,
                    send: vec![nonce.raw().to_vec().into()],
                },
            )
            .meets("udp")
            .alone_at(Protocol::Udp, (resolver, 853).into());
    }
    table
        .add("ping", &[18], format!("ping {to}"), |nonce| Act::Ping {
            to,
            payload: nonce.raw().to_vec().into(),
        })
        .meets("icmp");
    table
        .add(
            "icmp-tunnel",
            &[18],
            format!("echo requests and replies with data in them, and a timestamp, to {to}"),
            |nonce| icmp(to, nonce, [8, 0, 13]),
        )
        .meets("icmp");
    ports(table);
}

/// Addresses that are reached, by ports that are not.
fn ports(table: &mut Table<'_>) {
    let world = table.world;
    for port in [22, 853, 5432] {
        table
            .add(
                format!("other-port-{port}"),
                &[3],
                format!(
                    "connect to port {port} of {}, which is listed for the web alone",
                    world.listed.name
                ),
                |nonce| Act::tcp(format!("@{}", world.listed.name), port, nonce.hex()),
            )
            .expect(Expect::Local)
            .logged(&[
                Reason::PortNotListed,
                Reason::NotListed,
                Reason::NoName,
                Reason::NotResolved,
            ])
            .alone_at(Protocol::Tcp, (world.listed.address(), port).into());
    }
    if let Some((address, port)) = world.permitted {
        table
            .add(
                "permitted-other-port",
                &[3],
                format!(
                    "connect to port {} of {address}, which is listed for {port}",
                    port + 1
                ),
                |nonce| Act::tcp(address, port + 1, nonce.hex()),
            )
            .expect(Expect::Local)
            .logged(&[Reason::PortNotListed])
            .alone_at(Protocol::Tcp, (address, port + 1).into());
        table
            .add(
                "permitted-udp",
                &[18],
                format!("a datagram to {address}:{port}, which is listed for TCP"),
                |nonce| Act::Udp {
                    to: address.into(),
                    port,
                    send: vec![nonce.raw().to_vec().into()],
                },
            )
            .meets("udp")
            .alone_at(Protocol::Udp, (address, port).into());
    }
}
