//! How much.

use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC, PROXY_PORT};

use super::{Act, Expect, Phase, Table, packet};

pub(super) fn fill(table: &mut Table<'_>) {
    table
        .add(
            "arp-flood",
            &[18],
            "ask for the gateway by ARP, a thousand times",
            |nonce| Act::Frames {
                frames: vec![
                    packet::frame(
                        GUEST_MAC,
                        GATEWAY_MAC,
                        packet::ARP,
                        &[&packet::honest_arp()[..], &nonce.raw()].concat(),
                    )
                    .into(),
                ],
                times: 1000,
                nonce: nonce.raw().to_vec().into(),
                wait: 0,
            },
        )
        .passes(&["arp-flood"])
        .phase(Phase::Flood);
    table
        .add(
            "dns-flood",
            &[6, 18],
            "thousands of messages to our DNS, which it does not answer",
            |nonce| {
                // An answer, which no server answers: only the way to the socket is tried.
                let message = [&[0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &nonce.raw()].concat();
                let datagram = packet::udp((GUEST_IP, 5010), (GATEWAY_IP, 53), &message);
                Act::Frames {
                    frames: vec![packet::to_gateway(&packet::from_guest(GATEWAY_IP, 17, &datagram)).into()],
                    times: 5000,
                    nonce: nonce.raw().to_vec().into(),
                    wait: 0,
                }
            },
        )
        .passes(&["dns-flood"])
        .phase(Phase::Flood);
    table
        .add(
            "crowd",
            &[18, 20],
            "two hundred connections to the HTTP proxy at once",
            |_| Act::Crowd {
                to: GATEWAY_IP.to_string(),
                port: PROXY_PORT,
                count: 200,
                seconds: 10,
            },
        )
        .expect(Expect::Local)
        .phase(Phase::Flood);
    table
        .add(
            "connection-flood",
            &[18],
            "open thousands of connections, faster than anybody answers",
            |_| Act::Flood {
                to: GATEWAY_IP,
                port: PROXY_PORT,
                count: 9_000,
                seconds: 20,
                rate: 15_000,
                end: 5_000,
            },
        )
        .passes(&["connection-rate", "connection-cap"])
        .phase(Phase::Flood);
}
