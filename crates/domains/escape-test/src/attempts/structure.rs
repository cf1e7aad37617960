//! What is not there at all.

use std::net::{IpAddr, Ipv4Addr};

use omnirun_egress_policy::Mode;
use omnirun_guest_net::GATEWAY_IP;

use super::{Act, Expect, Table, hello, packet};

/// Ports on which a host's vsock services are usually found.
const PORTS: [u32; 8] = [22, 53, 80, 1024, 1234, 3128, 5000, 10_000];
/// Whom there may be.
const CIDS: [(u32, &str); 3] = [(0, "the hypervisor"), (2, "the host"), (3, "another guest")];

pub(super) fn fill(table: &mut Table<'_>) {
    if table.world.machine {
        for (cid, whom) in CIDS {
            table.add(
                format!("vsock-{cid}"),
                &[17, 20],
                format!("connect to {whom} by vsock, on ports that services like"),
                |_| Act::Vsock {
                    cid,
                    ports: PORTS.to_vec(),
                },
            );
        }
    }
    if table.mode != Mode::None {
        return;
    }
    let public = Ipv4Addr::new(1, 1, 1, 1);
    let ways: Vec<IpAddr> = vec![
        public.into(),
        GATEWAY_IP.into(),
        Ipv4Addr::new(169, 254, 169, 254).into(),
        [0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111].into(),
    ];
    table.add(
        "no-card",
        &[9, 17],
        "look for a network card, or a way to anywhere",
        |_| Act::Links { ways },
    );
    table.add(
        "no-frame",
        &[18],
        "send a frame, as if there were a card",
        |nonce| Act::Frames {
            frames: vec![
                packet::to_gateway(&packet::from_guest(
                    public,
                    17,
                    &packet::udp((omnirun_guest_net::GUEST_IP, 5000), (public, 443), &nonce.raw()),
                ))
                .into(),
            ],
            times: 1,
            nonce: nonce.raw().to_vec().into(),
            wait: 1,
        },
    );
    table.add("no-tcp", &[3], "connect to an address", |nonce| {
        Act::tcp(public, 443, nonce.hex())
    });
    table.add("no-packet", &[18], "send a packet by a raw socket", |nonce| {
        Act::Packets {
            to: public,
            packets: vec![
                packet::from_guest(public, 1, &packet::icmp(8, 0, [0, 1, 0, 1], &nonce.raw())).into(),
            ],
            nonce: nonce.raw().to_vec().into(),
            wait: 1,
        }
    });
    table
        .add("no-dns", &[6], "ask for a name that carries data", |nonce| {
            Act::dns(
                public,
                hello::query(&format!("{}.example.com", nonce.base32()), hello::kind::A),
            )
        })
        .expect(Expect::Blocked);
    // Without a card, that is how it should be.
    for attempt in &mut table.list {
        attempt.may_be_unsent();
    }
}
