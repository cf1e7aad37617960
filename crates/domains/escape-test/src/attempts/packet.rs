//! Frames and packets, byte by byte: what no honest kernel would send.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader, UdpHeader, ether_type,
};
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC};

/// A hardware address.
pub type Mac = [u8; 6];

/// To everybody on a link.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherType of IPv4.
pub const IPV4: u16 = ether_type::IPV4.0;
/// EtherType of IPv6.
pub const IPV6: u16 = ether_type::IPV6.0;
/// EtherType of ARP.
pub const ARP: u16 = ether_type::ARP.0;

/// An Ethernet frame.
#[must_use]
pub fn frame(from: Mac, to: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &kind.to_be_bytes(), payload].concat();
    // The shortest that there is.
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// A frame as the guest's kernel would send it: from its card to its gateway.
#[must_use]
pub fn to_gateway(packet: &[u8]) -> Vec<u8> {
    frame(GUEST_MAC, GATEWAY_MAC, IPV4, packet)
}

/// An IPv4 packet, and what is to be changed in its header.
#[must_use]
pub fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header {
        time_to_live: 64,
        dont_fragment: true,
        identification: fastrand::u16(..),
        protocol: IpNumber(protocol),
        source: from.octets(),
        destination: to.octets(),
        ..Ipv4Header::default()
    };
    change(&mut header);
    header.total_len = u16::try_from(header.header_len() + payload.len()).unwrap_or(u16::MAX);
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

/// A packet of the guest's, as it should be.
#[must_use]
pub fn from_guest(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(GUEST_IP, to, protocol, payload, |_| {})
}

/// A datagram, with its checksum.
#[must_use]
pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UdpHeader::LEN + payload.len()).unwrap_or(u16::MAX);
    let mut header = UdpHeader {
        source_port: from.1,
        destination_port: to.1,
        length,
        checksum: 0,
    };
    header.checksum = header
        .calc_checksum_ipv4_raw(from.0.octets(), to.0.octets(), payload)
        .unwrap_or_default();
    [&header.to_bytes()[..], payload].concat()
}

/// The opening of a TCP connection (or what `change` makes of it), with its checksum.
#[must_use]
pub fn tcp(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    payload: &[u8],
    change: impl FnOnce(&mut TcpHeader),
) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, fastrand::u32(..), 0xffff);
    header.syn = true;
    change(&mut header);
    header.checksum = header
        .calc_checksum_ipv4_raw(from.0.octets(), to.0.octets(), payload)
        .unwrap_or_default();
    [&header.to_bytes()[..], payload].concat()
}

/// An ICMP message: type, code, the rest of the head, what follows.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0][..], &rest, payload].concat();
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An IPv6 packet.
#[must_use]
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap_or(u16::MAX),
        next_header: IpNumber(protocol),
        hop_limit: 255,
        source: from.octets(),
        destination: to.octets(),
        ..Ipv6Header::default()
    };
    [&header.to_bytes()[..], payload].concat()
}

/// An ICMPv6 message, with its checksum, in an IPv6 packet.
#[must_use]
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let length = u32::try_from(message.len()).unwrap_or_default();
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length.to_be_bytes(),
        &[0, 0, 0, 58],
    ]
    .concat();
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(from, to, 58, &message)
}

/// An ARP packet: operation, who says it, about whom.
#[must_use]
pub fn arp(operation: u16, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &from.0,
        &from.1.octets(),
        &to.0,
        &to.1.octets(),
    ]
    .concat()
}

/// The guest's own question for its gateway.
#[must_use]
pub fn honest_arp() -> Vec<u8> {
    arp(1, (GUEST_MAC, GUEST_IP), ([0; 6], GATEWAY_IP))
}

/// The pieces of `payload` as fragments of one packet, each of so many bytes (a multiple of eight).
#[must_use]
pub fn fragments(to: Ipv4Addr, protocol: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let identification = fastrand::u16(..);
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(index, part)| {
            fragment(
                to,
                protocol,
                part,
                identification,
                index * size,
                index + 1 < count,
            )
        })
        .collect()
}

/// One fragment: where it belongs, and whether there are more.
#[must_use]
pub fn fragment(
    to: Ipv4Addr,
    protocol: u8,
    part: &[u8],
    identification: u16,
    at: usize,
    more: bool,
) -> Vec<u8> {
    ipv4(GUEST_IP, to, protocol, part, |header| {
        header.identification = identification;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = u16::try_from(at / 8)
            .ok()
            .and_then(|at| IpFragOffset::try_new(at).ok())
            .unwrap_or_default();
    })
}

/// Options of an IPv4 header: these bytes, filled up.
#[must_use]
pub fn options(bytes: &[u8]) -> Ipv4Options {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ipv4Options::try_from(&bytes[..]).unwrap_or_default()
}

/// The checksum of the internet's protocols.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
