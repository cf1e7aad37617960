//! Addresses that are not of the public internet, or not for a sandbox.
//!
//! From IANA's special-purpose registries (`iana.org/assignments/iana-ipv4-special-registry` and its like for IPv6; RFC
//! 6890 and its updates), with the addresses at which clouds serve metadata and credentials. What is in those registries
//! and globally reachable (AS112, AMT) is public. An IPv6 address that only carries an IPv4 one is that one (v4-mapped), or
//! not to be reached at all (compatible, translated, NAT64, 6to4, Teredo).

use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// In words.
    pub what: &'static str,
    /// Whether a policy may list it.
    pub listable: bool,
}

const fn never(what: &'static str) -> Special {
    Special {
        what,
        listable: false,
    }
}

const fn listable(what: &'static str) -> Special {
    Special { what, listable: true }
}

const fn net(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

/// The first that contains an address says what it is: single addresses come before the ranges that they are in.
const V4: [(Ipv4Net, &str, Special); 19] = [
    (
        net(100, 100, 100, 200, 32),
        "cloud-metadata",
        never("a metadata service, Alibaba's"),
    ),
    (
        net(168, 63, 129, 16, 32),
        "cloud-metadata",
        never("a metadata service, Azure's"),
    ),
    (
        net(192, 0, 0, 192, 32),
        "cloud-metadata",
        never("a metadata service, Oracle's"),
    ),
    (net(0, 0, 0, 0, 8), "this-network", never("this network, RFC 791")),
    (net(10, 0, 0, 0, 8), "private", listable("private, RFC 1918")),
    (
        net(100, 64, 0, 0, 10),
        "carrier-grade",
        listable("carrier-grade NAT, RFC 6598"),
    ),
    (net(127, 0, 0, 0, 8), "loopback", never("loopback, RFC 1122")),
    (
        net(169, 254, 0, 0, 16),
        "link-local",
        never("link-local and metadata, RFC 3927"),
    ),
    (net(172, 16, 0, 0, 12), "private", listable("private, RFC 1918")),
    (
        net(192, 0, 0, 0, 24),
        "protocol",
        never("protocol assignments, RFC 6890, and a sandbox's own link"),
    ),
    (
        net(192, 0, 2, 0, 24),
        "documentation",
        listable("documentation, RFC 5737"),
    ),
    (
        net(192, 88, 99, 0, 24),
        "relays",
        listable("6to4 relays, RFC 7526"),
    ),
    (net(192, 168, 0, 0, 16), "private", listable("private, RFC 1918")),
    (
        net(198, 18, 0, 0, 15),
        "benchmark",
        never("benchmarks, RFC 2544, and sandboxes' own links"),
    ),
    (
        net(198, 51, 100, 0, 24),
        "documentation",
        listable("documentation, RFC 5737"),
    ),
    (
        net(203, 0, 113, 0, 24),
        "documentation",
        listable("documentation, RFC 5737"),
    ),
    (net(224, 0, 0, 0, 4), "multicast", never("multicast, RFC 5771")),
    (
        net(255, 255, 255, 255, 32),
        "broadcast",
        never("broadcast, RFC 919"),
    ),
    (net(240, 0, 0, 0, 4), "reserved", never("reserved, RFC 1112")),
];

/// What kind of special address this is; none: it is of the public internet.
pub fn special(address: IpAddr) -> Option<Special> {
    match address {
        IpAddr::V4(v4) => of_v4(v4),
        IpAddr::V6(v6) => of_v6(v6),
    }
}

fn of_v4(address: Ipv4Addr) -> Option<Special> {
    V4.iter()
        .find(|(net, ..)| net.contains(&address))
        .map(|(_, _, what)| *what)
}

fn of_v6(address: Ipv6Addr) -> Option<Special> {
    let s = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(never("unspecified, RFC 4291")),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(never("loopback, RFC 4291")),
        // v4-mapped: the same as the address in it.
        [0, 0, 0, 0, 0, 0xffff, high, low] => of_v4(embedded(high, low)),
        [0x64, 0xff9b, ..] => Some(never("NAT64, RFC 6052")),
        [0x2001, 0xdb8, ..] => Some(listable("documentation, RFC 3849")),
        [0x2001, 0, ..] => Some(never("Teredo, RFC 4380")),
        [0x2001, low, ..] if low < 0x200 => Some(never("protocol assignments, RFC 2928")),
        [0x2002, ..] => Some(never("6to4, RFC 3056")),
        [0x3fff, low, ..] if low < 0x1000 => Some(listable("documentation, RFC 9637")),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some(never("a metadata service, AWS's")),
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Some(never("a metadata service, Google's")),
        [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => Some(never("a metadata service, Oracle's")),
        [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] => Some(never("a metadata service, Scaleway's")),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some(listable("private, RFC 4193")),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some(never("link-local, RFC 4291")),
        [first, ..] if first & 0xff00 == 0xff00 => Some(never("multicast, RFC 4291")),
        [first, ..] if first & 0xe000 == 0x2000 => None,
        _ => Some(never("not global unicast, RFC 4291")),
    }
}

/// The special-purpose networks of IPv4, by a stable name of each kind: what a namespace drops.
pub fn special_v4_nets() -> Vec<(&'static str, Vec<Ipv4Net>)> {
    let mut kinds: Vec<(&'static str, Vec<Ipv4Net>)> = Vec::new();
    for (net, name, _) in V4 {
        match kinds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, nets)) => nets.push(net),
            None => kinds.push((name, vec![net])),
        }
    }
    kinds
}

/// Those of them that no policy can list.
pub(crate) fn never_v4_nets() -> impl Iterator<Item = IpNet> {
    let never = V4.iter().filter(|(_, _, what)| !what.listable);
    never.map(|(net, ..)| IpNet::V4(*net))
}

/// Whether all of a network is of one special kind, and which; [`None`] also if only a part of it is.
pub(crate) fn special_net(net: IpNet) -> Option<Special> {
    let first = special(net.network())?;
    let last = special(net.broadcast())?;
    let whole = match net {
        IpNet::V4(net) => V4.iter().any(|(range, ..)| range.contains(&net)),
        IpNet::V6(_) => first.what == last.what,
    };
    whole.then_some(if first.listable { last } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_must_never_be_reached() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.0.1",
            "224.0.0.251",
            "255.255.255.255",
            "240.0.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "::ffff:0:10.0.0.1",
            "5f00::1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "fec0::1",
            "100::1",
        ] {
            let what = special(address.parse().unwrap());
            assert!(what.is_some_and(|w| !w.listable), "{address}: {what:?}");
        }
        for address in [
            "10.0.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(
                special(address.parse().unwrap()).is_some_and(|w| w.listable),
                "{address}"
            );
        }
        for address in [
            "9.9.9.9",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2606:4700::1111",
            "::ffff:9.9.9.9",
        ] {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_network_is_special_only_as_a_whole() {
        let of = |text: &str| special_net(text.parse().unwrap());
        assert!(of("10.1.0.0/16").unwrap().listable);
        assert!(!of("127.0.0.0/8").unwrap().listable);
        for text in ["0.0.0.0/0", "8.0.0.0/6", "9.9.9.0/24", "::/0"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_what_its_mapped_form_is(address: [u8; 4]) {
            let v4 = Ipv4Addr::from(address);
            prop_assert_eq!(special(v4.into()), special(v4.to_ipv6_mapped().into()));
        }

        #[test]
        fn what_the_namespaces_drop_is_what_is_special(address: [u8; 4]) {
            let v4 = Ipv4Addr::from(address);
            let dropped = special_v4_nets()
                .iter()
                .any(|(_, nets)| nets.iter().any(|net| net.contains(&v4)));
            prop_assert_eq!(dropped, special(v4.into()).is_some());
        }
    }
}
