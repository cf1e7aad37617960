//! What there is to aim at in this host's own network: read from the kernel's tables and the resolver's configuration.
//!
//! Only a few packets are ever sent for an attempt, and those that are blocked go nowhere. The site that is listed
//! is the user's choice; the other one is a public resolver.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
};

use omnirun_egress_policy::Mode;

use super::{METADATA, RESOLVERS, Site, World, special};

/// One that it does not list, and its address.
const UNLISTED: (&str, Ipv4Addr) = ("dns.quad9.net", Ipv4Addr::new(9, 9, 9, 9));
/// No such names exist, so no server of anybody's would read what is asked for.
const ATTACKER: &str = "escape-test.invalid";
/// Addresses that many networks have.
const PRIVATE: [[u8; 4]; 4] = [[10, 0, 0, 1], [172, 16, 0, 1], [192, 168, 1, 1], [100, 64, 0, 1]];
/// How many ports, and how many machines nearby, are tried.
const MOST: usize = 6;

/// This host's tables, as text.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// `/proc/net/fib_trie`.
    pub fib_trie: String,
    /// `/proc/net/route`.
    pub route: String,
    /// `/proc/net/arp`.
    pub arp: String,
    /// `/proc/net/tcp`.
    pub tcp: String,
    /// `/proc/net/tcp6`.
    pub tcp6: String,
    /// `/etc/resolv.conf`, and what the resolver that it may name asks itself.
    pub resolv: String,
}

impl Tables {
    /// Reads them. What is not there is empty.
    #[must_use]
    pub fn read() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        Self {
            fib_trie: read("/proc/net/fib_trie"),
            route: read("/proc/net/route"),
            arp: read("/proc/net/arp"),
            tcp: read("/proc/net/tcp"),
            tcp6: read("/proc/net/tcp6"),
            resolv: read("/etc/resolv.conf") + "\n" + &read("/run/systemd/resolve/resolv.conf"),
        }
    }

    /// The host's own IPv4 addresses.
    fn addresses(&self) -> Vec<Ipv4Addr> {
        // Two lines: "|-- ADDRESS", and below it what it is.
        let lines: Vec<&str> = self.fib_trie.lines().map(str::trim).collect();
        let own = lines.windows(2).filter_map(|pair| {
            let address = pair[0].strip_prefix("|-- ")?.parse().ok()?;
            pair[1].contains("/32 host LOCAL").then_some(address)
        });
        own.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Ports on which somebody listens.
    fn ports(&self) -> Vec<u16> {
        let listening = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // The second is the address and port, the fourth the state: 0A is listening.
            let port = columns.get(1)?.rsplit_once(':')?.1;
            (columns.get(3) == Some(&"0A"))
                .then(|| u16::from_str_radix(port, 16).ok())
                .flatten()
        };
        let all = self.tcp.lines().chain(self.tcp6.lines()).filter_map(listening);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Routers and other machines that the host knows.
    fn neighbours(&self) -> Vec<Ipv4Addr> {
        let routers = self.route.lines().filter_map(|line| {
            let gateway = line.split_whitespace().nth(2)?;
            let gateway = u32::from_str_radix(gateway, 16)
                .ok()
                .filter(|gateway| *gateway != 0)?;
            // As it is in memory, whatever this machine's order.
            Some(Ipv4Addr::from(gateway.to_ne_bytes()))
        });
        let known = self.arp.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let [address, .., link] = columns[..] else {
                return None;
            };
            // Not those of our own sandboxes' links.
            if link.starts_with("omr") {
                None
            } else {
                address.parse().ok()
            }
        });
        routers
            .chain(known)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Whom the host asks for names.
    fn resolvers(&self) -> Vec<IpAddr> {
        let named = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
        self.resolv.lines().filter_map(named).collect()
    }
}

impl World {
    /// This host's own network, with a `site` that answers on ports 80 and 443, whose address is asked for.
    ///
    /// # Errors
    /// That name has no address here: there is no internet, or no resolver.
    pub fn real(site: &str) -> io::Result<Self> {
        let addresses = (site, 443).to_socket_addrs()?;
        let addresses: Vec<Ipv4Addr> = addresses
            .filter_map(|address| match address {
                SocketAddr::V4(address) => Some(*address.ip()),
                SocketAddr::V6(_) => None,
            })
            .collect();
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{site} has no IPv4 address"),
            ));
        }
        let listed = Site {
            name: site.to_owned(),
            addresses,
        };
        Ok(Self::of(&Tables::read(), listed))
    }

    /// What the tables tell.
    #[must_use]
    pub fn of(tables: &Tables, listed: Site) -> Self {
        let host = tables.addresses();
        let mut ports = tables.ports();
        ports.truncate(MOST);
        if ports.is_empty() {
            ports.push(22);
        }
        let mut neighbours = tables.neighbours();
        neighbours.retain(|address| !host.contains(address));
        neighbours.truncate(MOST);
        let private = PRIVATE
            .map(Ipv4Addr::from)
            .into_iter()
            .filter(|address| !host.contains(address) && !neighbours.contains(address));
        Self {
            lab: false,
            machine: true,
            proxies_web: false,
            listed,
            second: None,
            bare: None,
            wild: None,
            unlisted: UNLISTED.into(),
            cohost: None,
            denied: None,
            denied_address: None,
            permitted: None,
            permitted_private: None,
            early: None,
            attacker: ATTACKER.to_owned(),
            resolvers: RESOLVERS.to_vec(),
            host_resolvers: tables.resolvers(),
            uplink: None,
            private: private.collect(),
            metadata: METADATA.to_vec(),
            host: host
                .into_iter()
                .filter(|address| !address.is_loopback())
                .map(IpAddr::V4)
                .collect(),
            host_ports: ports,
            neighbours,
            sandboxes: vec![Ipv4Addr::new(198, 18, 0, 2)],
            special: special(),
            rebinding: Vec::new(),
            flip: None,
        }
    }

    /// The policy that the attempts in the host's own network are about, as a policy file; none: no network.
    #[must_use]
    pub fn real_policy(mode: Mode, site: &str) -> Option<String> {
        match mode {
            Mode::None => None,
            Mode::Allow => Some(format!("allow = [{site:?}]\n")),
            Mode::Open => Some("internet = true\n".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use omnirun_egress_policy::{NoPresets, Policy};

    use super::*;
    use crate::attempts::attempts;

    fn site() -> Site {
        ("example.com", Ipv4Addr::new(192, 0, 43, 8)).into()
    }

    fn tables() -> Tables {
        Tables {
            fib_trie: "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                Local:\n        |-- 10.0.2.0\n           /24 link UNICAST\n        |-- 10.0.2.15\n           \
                /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n        |-- 10.0.2.15\n           \
                /32 host LOCAL\n        |-- 10.0.2.255\n           /32 link BROADCAST\n"
                .to_owned(),
            route: format!(
                "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t{:08X}\t0003\neth0\t0002000A\t00000000\t0001\n",
                u32::from_ne_bytes([10, 0, 2, 2])
            ),
            arp: "IP address  HW type  Flags  HW address  Mask  Device\n\
                10.0.2.3   0x1   0x2   52:55:0a:00:02:03   *   eth0\n\
                198.18.3.4 0x1   0x6   02:4f:52:00:01:02   *   omr77\n"
                .to_owned(),
            tcp: "  sl  local_address rem_address   st\n   0: 00000000:0016 00000000:0000 0A\n\
                   1: 0100007F:1F90 00000000:0000 01\n"
                .to_owned(),
            tcp6: "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A\n".to_owned(),
            resolv: "# by hand\nnameserver 127.0.0.53\noptions edns0\nnameserver 10.0.2.3\n".to_owned(),
        }
    }

    #[test]
    fn the_kernels_tables_are_understood() {
        let world = World::of(&tables(), site());
        assert_eq!(world.host, [IpAddr::from([10, 0, 2, 15])]);
        assert_eq!(world.host_ports, [22, 80]);
        assert_eq!(
            world
                .neighbours
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["10.0.2.2", "10.0.2.3"]
        );
        assert_eq!(
            world.host_resolvers,
            [IpAddr::from([127, 0, 0, 53]), IpAddr::from([10, 0, 2, 3])]
        );
        let empty = World::of(&Tables::default(), site());
        assert_eq!((empty.host.len(), empty.host_ports), (0, vec![22]));
    }

    #[test]
    fn in_a_real_network_too_there_is_much_to_try_and_the_policies_are_policies() {
        let world = World::of(&tables(), site());
        for (mode, least) in [(Mode::None, 5), (Mode::Allow, 120), (Mode::Open, 70)] {
            let count = attempts(mode, &world).len();
            assert!(count >= least, "{mode:?}: {count}");
            let policy = World::real_policy(mode, "example.com")
                .map(|text| Policy::from_toml(&text, &NoPresets).unwrap());
            assert_eq!(policy.map_or(Mode::None, |policy| policy.mode()), mode);
        }
    }

    #[test]
    fn this_machine_has_addresses() {
        assert!(Tables::read().addresses().contains(&Ipv4Addr::LOCALHOST));
    }
}
