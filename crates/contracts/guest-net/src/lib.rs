//! What every guest with a network card has in common: its address, its hardware address, its gateway.
//!
//! They are the same in all of them, so that the clones of one snapshot need no configuration. That is possible since
//! each card ends in a network namespace of its own: two guests never share a link. The addresses are of 192.0.0.0/29
//! (RFC 7335), which is reserved for such inner links and is routed nowhere, so it hides nothing that a guest may want to
//! reach.

#![no_std]

use core::net::Ipv4Addr;

/// The guest's address.
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The namespace's end of the link: the guest's gateway, its DNS server, and its HTTP proxy.
pub const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// Length of the prefix that both are in.
pub const PREFIX: u8 = 29;
/// The guest's hardware address: locally administered, unicast.
pub const GUEST_MAC: [u8; 6] = [0x02, 0x4f, 0x52, 0x00, 0x00, 0x02];
/// The tap's own hardware address, so that a neighbour entry in a snapshot holds in every clone.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x4f, 0x52, 0x00, 0x00, 0x01];
/// Name of the tap in a sandbox's namespace.
pub const TAP: &str = "tap0";
/// Name of the namespace's end of the pair that leads to the host, where there is one.
pub const UPLINK: &str = "up0";
/// Largest packet on the link.
pub const MTU: u32 = 1500;
/// Where the explicit HTTP proxy listens, on the gateway's address.
pub const PROXY_PORT: u16 = 3128;
