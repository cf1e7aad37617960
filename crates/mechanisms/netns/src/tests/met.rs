//! Every rule is there for something: each is met by a packet made for it. A rule that is not in these lists fails.

use std::{cell::Cell, collections::BTreeSet, net::Ipv4Addr};

use super::*;
use crate::testing::{
    Wire,
    frame::{Arp, Frame, raw},
};

const PERMITTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const ANSWERED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 6);
const DENIED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
const GATEWAY: Ipv4Addr = omnirun_guest_net::GATEWAY_IP;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Frames that meet rules which both kinds have; each may meet others before or after it.
fn frames() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let udp = || Frame::udp(5000, OTHER, 443, b"x");
    let changed = |change: fn(&mut Frame)| {
        let mut frame = udp();
        change(&mut frame);
        vec![frame.bytes()]
    };
    // Each from a port of its own, or it would belong to the connection of one before.
    let port = Cell::new(5100);
    let syn = |to, number| {
        port.set(port.get() + 1);
        vec![Frame::tcp(port.get(), to, number, SYN).bytes()]
    };
    let special = |to: [u8; 4]| syn(to.into(), 80);
    let broken = || {
        let mut frame = Frame::udp(5002, GATEWAY, 53, b"x");
        frame.payload[6] ^= 1;
        vec![frame.bytes()]
    };
    vec![
        ("spoofed-mac", changed(|frame| frame.from_mac[5] = 9)),
        (
            "vlan",
            [
                changed(|frame| frame.vlan = Some(5)),
                changed(|frame| frame.vlan = Some(0)),
            ]
            .concat(),
        ),
        ("ipv6", vec![raw(0x86dd, &[0x60; 40])]),
        (
            "other-ethertype",
            vec![raw(0x8847, &[0; 40]), raw(0x88cc, &[0; 40])],
        ),
        (
            "arp-operation",
            vec![
                Arp {
                    operation: 3,
                    ..Arp::default()
                }
                .bytes(),
            ],
        ),
        (
            "arp-spoofed-mac",
            vec![
                Arp {
                    from_mac: [2; 6],
                    ..Arp::default()
                }
                .bytes(),
            ],
        ),
        (
            "arp-spoofed-ip",
            vec![
                Arp {
                    from: OTHER,
                    operation: 2,
                    ..Arp::default()
                }
                .bytes(),
            ],
        ),
        (
            "arp-other-target",
            vec![
                Arp {
                    to: OTHER,
                    ..Arp::default()
                }
                .bytes(),
            ],
        ),
        ("arp-flood", vec![Arp::default().bytes(); 40]),
        ("link-broadcast", changed(|frame| frame.to_mac = [0xff; 6])),
        ("spoofed-ip", changed(|frame| frame.from = OTHER)),
        ("ip-options", changed(|frame| frame.options = vec![1, 1, 1, 0])),
        (
            "fragment",
            [
                changed(|frame| frame.fragment = 0x2000),
                changed(|frame| frame.fragment = 7),
            ]
            .concat(),
        ),
        ("special-metadata", special([168, 63, 129, 16])),
        ("special-link-local", special([169, 254, 169, 254])),
        ("denied", syn(DENIED, 80)),
        ("dns-at-gateway", syn(GATEWAY, 53)),
        ("proxy-at-gateway", syn(GATEWAY, 3128)),
        ("gateway-port", syn(GATEWAY, 3129)),
        ("special-loopback", special([127, 0, 0, 1])),
        ("special-private", special([10, 0, 0, 1])),
        ("special-shared", special([100, 64, 0, 1])),
        ("special-protocol", special([192, 0, 0, 2])),
        ("special-benchmark", special([198, 18, 0, 3])),
        ("special-multicast", special([224, 0, 0, 251])),
        ("special-reserved", special([255, 255, 255, 255])),
        ("dns-elsewhere", vec![Frame::udp(5003, OTHER, 53, b"x").bytes()]),
        (
            "other-protocol",
            [4, 41, 47, 132]
                .map(|number| Frame::ip(OTHER, number, vec![0; 40]).bytes())
                .to_vec(),
        ),
        ("stale-tcp", vec![Frame::tcp(5004, PERMITTED, 80, ACK).bytes()]),
        ("invalid", broken()),
        (
            "redirect-dns-udp",
            vec![Frame::udp(5005, OTHER, 53, b"x").bytes()],
        ),
        ("redirect-dns-tcp", syn(OTHER, 53)),
        ("to-gateway", syn(GATEWAY, 3128)),
        ("input-dns-udp", vec![Frame::udp(5006, GATEWAY, 53, b"x").bytes()]),
        ("input-dns-tcp", syn(GATEWAY, 53)),
        ("input-proxy", syn(GATEWAY, 3128)),
        ("answer", syn(GATEWAY, 3128)),
        (
            "dns-flood",
            vec![Frame::udp(5007, GATEWAY, 53, b"x").bytes(); 1200],
        ),
        ("refusal-tcp", vec![Frame::tcp(5008, PERMITTED, 80, ACK).bytes()]),
    ]
}

/// Sends each, and sees that the rule counts what it is to count; returns the rules that there are besides.
async fn meet(namespace: &Namespace, wire: &Wire, frames: Vec<(&str, Vec<Vec<u8>>)>) -> BTreeSet<String> {
    let mut rules: BTreeSet<String> = namespace
        .rules()
        .await
        .unwrap()
        .into_iter()
        .map(|rule| rule.name)
        .collect();
    for (name, frames) in frames {
        let before = met(namespace, name).await;
        for frame in &frames {
            wire.send(frame).unwrap();
        }
        let count = met(namespace, name).await - before;
        let flood = name.ends_with("-flood") || name.ends_with("-cap") || name.ends_with("-rate");
        assert!(
            if flood {
                count > 0
            } else {
                count >= frames.len() as u64
            },
            "{name}: {count}"
        );
        rules.remove(name);
    }
    rules
}

/// More new connections than one guest may have, and more than it may make at once.
fn flood() -> Vec<Vec<u8>> {
    (10_000..16_000)
        .map(|port| Frame::tcp(port, PERMITTED, 80, SYN).bytes())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_of_a_restricted_network_is_met() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let wire = Wire::plug(namespace.descriptor()).unwrap();
    namespace
        .apply(
            &[net(PERMITTED), "0.0.0.0/32".parse().unwrap()],
            &[net(DENIED)],
            false,
        )
        .await
        .unwrap();
    namespace.answered(&[ANSWERED], LONG * 100).await.unwrap();
    let syn = |source, to| vec![Frame::tcp(source, to, 80, SYN).bytes()];
    let mut all = frames();
    all.extend([
        ("permitted", syn(6000, PERMITTED)),
        ("answered", syn(6001, ANSWERED)),
        ("unlisted-tcp", syn(6002, OTHER)),
        ("udp", vec![Frame::udp(6003, PERMITTED, 443, b"quic").bytes()]),
        (
            "refusal-icmp",
            vec![Frame::udp(6004, OTHER, 443, b"quic").bytes()],
        ),
        ("icmp", vec![Frame::icmp(PERMITTED, 8).bytes()]),
        ("redirect-permitted", syn(6005, PERMITTED)),
        ("redirect-answered", syn(6006, ANSWERED)),
        ("input-transparent", syn(6007, PERMITTED)),
        ("connection-cap", flood()),
        ("connection-rate", flood()),
    ]);
    assert_eq!(meet(&namespace, &wire, all).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_of_an_open_network_is_met() {
    if !may() {
        return;
    }
    let lab = super::lab::Lab::new();
    let networks = networks("met", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let wire = Wire::plug(namespace.descriptor()).unwrap();
    let private = Ipv4Addr::new(10, 1, 2, 3);
    namespace
        .apply(&[net(PERMITTED), net(private)], &[net(DENIED)], true)
        .await
        .unwrap();
    let mut all = frames();
    let syn = |source, port| vec![Frame::tcp(source, OTHER, port, SYN).bytes()];
    all.extend([
        ("icmp-other", vec![Frame::icmp(OTHER, 13).bytes()]),
        (
            "quic-past-proxy",
            vec![Frame::udp(6007, OTHER, 443, b"quic").bytes()],
        ),
        (
            "redirect-permitted",
            vec![Frame::tcp(6000, private, 22, SYN).bytes()],
        ),
        ("redirect-web", [syn(6001, 80), syn(6001, 443)].concat()),
        ("input-transparent", syn(6002, 443)),
        (
            "forward-special",
            vec![Frame::udp(6003, private, 9, b"x").bytes()],
        ),
        (
            "outward",
            [vec![Frame::udp(6004, OTHER, 9, b"x").bytes()], syn(6004, 22)].concat(),
        ),
        ("masquerade", syn(6005, 22)),
        ("refusal-icmp", vec![low_ttl()]),
        ("connection-cap", flood()),
        ("connection-rate", flood()),
    ]);
    let left = meet(&namespace, &wire, all).await;
    // These are met by answers, and by flows that a policy comes after: `open`.
    let answers = [
        "denied-flow",
        "inward",
        "inward-special",
        "inward-too-big",
        "inward-unreachable",
        "web-past-proxy",
    ];
    assert_eq!(left, answers.map(str::to_owned).into());
    drop((wire, namespace));
    networks.shutdown().await.unwrap();
}

/// One that the sandbox's own kernel has to refuse.
fn low_ttl() -> Vec<u8> {
    let mut frame = Frame::udp(6006, OTHER, 9, b"x").bytes();
    // The checksum's high byte goes with the time to live.
    let sum = u16::from_be_bytes([frame[24], frame[25]]);
    let sum = u32::from(sum) + (63 << 8);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[22] = 1;
    frame[24..26].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
    frame
}

fn net(address: Ipv4Addr) -> ipnet::IpNet {
    ipnet::IpNet::from(std::net::IpAddr::V4(address))
}
