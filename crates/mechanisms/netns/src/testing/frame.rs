//! Ethernet frames, field by field. Everything that a guest may claim can be claimed here.

use std::net::Ipv4Addr;

use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC};

/// A frame with IPv4 in it; the fields are what an honest guest would send.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Hardware address that it claims to be from.
    pub from_mac: [u8; 6],
    /// And is for.
    pub to_mac: [u8; 6],
    /// A VLAN tag, if there is to be one.
    pub vlan: Option<u16>,
    /// Address that it claims to be from.
    pub from: Ipv4Addr,
    /// And is for.
    pub to: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Flags and offset of a fragment.
    pub fragment: u16,
    /// Options of the IP header; a multiple of four bytes.
    pub options: Vec<u8>,
    /// What the IP header carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// With any protocol.
    #[must_use]
    pub fn ip(to: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        let (from_mac, to_mac, from) = (GUEST_MAC, GATEWAY_MAC, GUEST_IP);
        Self {
            from_mac,
            to_mac,
            vlan: None,
            from,
            to,
            protocol,
            fragment: 0,
            options: Vec::new(),
            payload,
        }
    }

    /// UDP from port `source` to port `port`.
    #[must_use]
    pub fn udp(source: u16, to: Ipv4Addr, port: u16, data: &[u8]) -> Self {
        let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
        let mut payload = [source, port, length, 0].map(u16::to_be_bytes).concat();
        payload.extend(data);
        Self::ip(to, 17, payload).summed(6)
    }

    /// A TCP segment without data; `flags`: FIN 1, SYN 2, RST 4, ACK 16.
    #[must_use]
    pub fn tcp(source: u16, to: Ipv4Addr, port: u16, flags: u8) -> Self {
        let mut payload = [source, port].map(u16::to_be_bytes).concat();
        payload.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Self::ip(to, 6, payload).summed(16)
    }

    /// An ICMP message of type `kind`, code 0.
    #[must_use]
    pub fn icmp(to: Ipv4Addr, kind: u8) -> Self {
        let mut payload = vec![kind, 0, 0, 0, 0, 1, 0, 1];
        payload.extend([0; 32]);
        let sum = checksum(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        Self::ip(to, 1, payload)
    }

    /// Puts the checksum of UDP or TCP into the payload at `offset`.
    fn summed(mut self, offset: usize) -> Self {
        let mut pseudo = [self.from.octets(), self.to.octets()].concat();
        pseudo.extend([0, self.protocol]);
        pseudo.extend(
            u16::try_from(self.payload.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        pseudo.extend(&self.payload);
        let sum = checksum(&pseudo);
        self.payload[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut ip = vec![0x40 | u8::try_from(header / 4).unwrap_or(5), 0];
        ip.extend(
            u16::try_from(header + self.payload.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        ip.extend([0, 1]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.from.octets());
        ip.extend(self.to.octets());
        ip.extend(&self.options);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(&self.payload);
        let mut frame = [self.to_mac, self.from_mac].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([8, 0]);
        frame.extend(ip);
        frame
    }
}

/// A frame of any type, from the guest to the gateway.
#[must_use]
pub fn raw(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [GATEWAY_MAC, GUEST_MAC].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ARP message; the fields are those of an honest question.
#[derive(Debug, Clone, Copy)]
pub struct Arp {
    /// 1: question, 2: answer.
    pub operation: u16,
    /// Hardware address of who asks.
    pub from_mac: [u8; 6],
    /// Address of who asks.
    pub from: Ipv4Addr,
    /// Address that is asked for.
    pub to: Ipv4Addr,
}

impl Default for Arp {
    fn default() -> Self {
        Self {
            operation: 1,
            from_mac: GUEST_MAC,
            from: GUEST_IP,
            to: GATEWAY_IP,
        }
    }
}

impl Arp {
    /// As it goes over the wire, to everybody.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![0, 1, 8, 0, 6, 4];
        message.extend(self.operation.to_be_bytes());
        message.extend(self.from_mac);
        message.extend(self.from.octets());
        message.extend([0; 6]);
        message.extend(self.to.octets());
        let mut frame = raw(0x0806, &message);
        frame[..6].fill(0xff);
        frame
    }
}

/// The Internet's checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
