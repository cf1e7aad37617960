//! The addresses of a frame.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use serde::{Serialize, Serializer};

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// ARP.
    Arp,
    /// Another protocol over IP, or a part of a packet of one.
    Ip(u8),
    /// Another EtherType.
    Other(u16),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Arp => f.write_str("arp"),
            Self::Ip(number) => write!(f, "ip-protocol-{number}"),
            Self::Other(number) => write!(f, "ethertype-{number:04x}"),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is known of a frame. All of it may be a lie, and parts may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) hardware: [[u8; 6]; 2],
    pub(super) from: Option<IpAddr>,
    pub(super) to: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) protocol: Protocol,
}

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Reads as much as can be read.
pub(super) fn addresses(frame: &[u8]) -> Option<Addresses> {
    let (header, _) = frame.split_first_chunk::<ETHERNET>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let mut read = Addresses {
        hardware: [[d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]],
        from: None,
        to: None,
        port: None,
        protocol: Protocol::Other(u16::from_be_bytes([t0, t1])),
    };
    let Ok(parts) = LaxSlicedPacket::from_ethernet(frame) else {
        return Some(read);
    };
    match parts.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            read.from = Some(ip.header().source_addr().into());
            read.to = Some(ip.header().destination_addr().into());
            read.protocol = Protocol::Ip(ip.header().protocol().0);
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            read.from = Some(Ipv6Addr::from(ip.header().source()).into());
            read.to = Some(Ipv6Addr::from(ip.header().destination()).into());
            read.protocol = Protocol::Ip(ip.payload().ip_number.0);
        }
        Some(LaxNetSlice::Arp(arp)) => {
            let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(|a| Ipv4Addr::from(a).into());
            read.from = address(arp.sender_protocol_addr());
            read.to = address(arp.target_protocol_addr());
            read.protocol = Protocol::Arp;
        }
        None => {}
    }
    match parts.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            read.port = Some(tcp.destination_port());
            read.protocol = Protocol::Tcp;
        }
        Some(TransportSlice::Udp(udp)) => {
            read.port = Some(udp.destination_port());
            read.protocol = Protocol::Udp;
        }
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => read.protocol = Protocol::Icmp,
        _ => {}
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use omnirun_guest_net::{GATEWAY_IP, GUEST_IP, GUEST_MAC};
    use proptest::prelude::*;

    use super::*;
    use crate::attempts::packet;

    #[test]
    fn addresses_are_read_whatever_is_around_them() {
        let datagram = packet::udp((GUEST_IP, 5), ([9, 9, 9, 9].into(), 53), b"x");
        let whole = packet::to_gateway(&packet::from_guest([9, 9, 9, 9].into(), 17, &datagram));
        let read = addresses(&whole).unwrap();
        assert_eq!(
            (read.from, read.to, read.port, read.protocol),
            (
                Some(GUEST_IP.into()),
                Some([9, 9, 9, 9].into()),
                Some(53),
                Protocol::Udp
            )
        );
        let parts = packet::fragments([9, 9, 9, 9].into(), 17, &datagram.repeat(2), 8);
        let read = addresses(&packet::to_gateway(&parts[1])).unwrap();
        assert_eq!(
            (read.to, read.protocol),
            (Some([9, 9, 9, 9].into()), Protocol::Ip(17))
        );
        let arp = packet::frame(GUEST_MAC, packet::BROADCAST, packet::ARP, &packet::honest_arp());
        let read = addresses(&arp).unwrap();
        assert_eq!(
            (read.from, read.to),
            (Some(GUEST_IP.into()), Some(GATEWAY_IP.into()))
        );
        assert_eq!(read.hardware, [packet::BROADCAST, GUEST_MAC]);
        let other = addresses(&packet::frame(GUEST_MAC, GUEST_MAC, 0x88cc, b"")).unwrap();
        assert_eq!((other.protocol, other.to), (Protocol::Other(0x88cc), None));
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_usize..3) {
            let mut bytes = bytes;
            if bytes.len() > 13 {
                let kinds = [packet::IPV4, packet::IPV6, packet::ARP];
                bytes[12..14].copy_from_slice(&kinds[kind].to_be_bytes());
            }
            let read = addresses(&bytes);
            prop_assert_eq!(read.is_some(), bytes.len() >= ETHERNET);
        }
    }
}
