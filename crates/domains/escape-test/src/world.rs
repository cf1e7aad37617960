//! What there is to aim at.

mod real;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::BorrowedFd,
};

use omnirun_egress_policy::{Ipv4Net, special_v4_nets};
use omnirun_sys::host::net;

pub use self::real::Tables;
use crate::lab::{self, zone};

/// A name and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
}

impl Site {
    /// Its first address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// All its addresses.
    #[must_use]
    pub fn all(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|address| (*address).into()).collect()
    }
}

impl From<(&str, Ipv4Addr)> for Site {
    fn from((name, address): (&str, Ipv4Addr)) -> Self {
        Self {
            name: name.to_owned(),
            addresses: vec![address],
        }
    }
}

/// The way from a sandbox's namespace to the host, seen from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// The namespace's address on it.
    pub address: Ipv4Addr,
    /// The hardware address of the host's end.
    pub host: [u8; 6],
}

impl Uplink {
    /// That of `namespace`; none if it has none.
    ///
    /// # Errors
    /// The namespace could not be entered, or the kernel's tables not be read.
    pub fn find(namespace: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        net::in_namespace(namespace, || {
            // Of the thread's own namespace. Columns: address, type, flags, hardware address, mask, link.
            let table = std::fs::read_to_string("/proc/thread-self/net/arp")?;
            let host = table.lines().find_map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                let [_, _, _, hardware, _, link] = columns[..] else {
                    return None;
                };
                let bytes: Vec<u8> = hardware
                    .split(':')
                    .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
                    .collect();
                (link == omnirun_guest_net::UPLINK)
                    .then(|| bytes.try_into().ok())
                    .flatten()
            });
            // Sends nothing: only asks from which address it would.
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let address = socket
                .connect((RESOLVERS[0], 9))
                .and_then(|()| socket.local_addr());
            Ok(match (host, address) {
                (Some(host), Ok(SocketAddr::V4(address))) => Some(Self {
                    address: *address.ip(),
                    host,
                }),
                _ => None,
            })
        })
    }
}

/// What a policy allows until it is tightened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Early {
    /// A site.
    pub site: Site,
    /// An address.
    pub address: Ipv4Addr,
    /// The port of that address that a policy of mode `allow` lists.
    pub port: u16,
}

/// What there is to aim at. What is not there is not tried.
#[derive(Debug, Clone)]
pub struct World {
    /// Whether it is a lab: more is tried there, also what would be a nuisance elsewhere.
    pub lab: bool,
    /// Whether the attacker has a machine of its own (a VM). Without, vsock is the host's own, and not touched.
    pub machine: bool,
    /// Whether names are denied in mode `open`, so that the proxy serves its web ports.
    pub proxies_web: bool,
    /// A site that the policy lists.
    pub listed: Site,
    /// Another.
    pub second: Option<Site>,
    /// A site that is listed for a port of its own.
    pub bare: Option<(Site, u16)>,
    /// What names below are listed by a wildcard.
    pub wild: Option<Site>,
    /// A site that it does not list.
    pub unlisted: Site,
    /// A name that it does not list, on the listed site's address.
    pub cohost: Option<String>,
    /// A site whose name it denies.
    pub denied: Option<Site>,
    /// An address that it denies.
    pub denied_address: Option<Ipv4Addr>,
    /// An address and port that it permits.
    pub permitted: Option<(Ipv4Addr, u16)>,
    /// A private address that the namespace lets through to the proxy, whatever the proxy says of it.
    pub permitted_private: Option<Ipv4Addr>,
    /// What is allowed at first, and no more once the policy has been tightened.
    pub early: Option<Early>,
    /// Below this name, an attacker's server would read what is asked for.
    pub attacker: String,
    /// Public resolvers.
    pub resolvers: Vec<Ipv4Addr>,
    /// The resolvers that the host asks.
    pub host_resolvers: Vec<IpAddr>,
    /// The sandbox's way to the host, in mode `open`, where its namespace can be entered.
    pub uplink: Option<Uplink>,
    /// Private hosts.
    pub private: Vec<Ipv4Addr>,
    /// Metadata services.
    pub metadata: Vec<Ipv4Addr>,
    /// The host's addresses.
    pub host: Vec<IpAddr>,
    /// Ports on which somebody listens there.
    pub host_ports: Vec<u16>,
    /// Other machines of the host's network.
    pub neighbours: Vec<Ipv4Addr>,
    /// Other sandboxes, as the host sees them.
    pub sandboxes: Vec<Ipv4Addr>,
    /// Kinds of special-purpose addresses: the end of the rule's name, and which.
    pub special: Vec<(String, Vec<Ipv4Net>)>,
    /// Listed names that lead where no name may lead.
    pub rebinding: Vec<(String, IpAddr)>,
    /// A listed name that leads to the first address once, and then to the other.
    pub flip: Option<(String, Ipv4Addr, Ipv4Addr)>,
}

impl World {
    /// The lab's.
    #[must_use]
    pub fn lab() -> Self {
        let mut rebinding: Vec<(String, IpAddr)> = zone::REBINDING
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        rebinding.push((zone::ALIAS.0.to_owned(), zone::ALIAS.2.into()));
        Self {
            lab: true,
            machine: true,
            proxies_web: true,
            listed: zone::LISTED.into(),
            second: Some(zone::SECOND.into()),
            bare: Some((zone::BARE.into(), zone::BARE_PORT)),
            wild: Some(zone::WILD.into()),
            unlisted: zone::UNLISTED.into(),
            cohost: Some(zone::COHOST.0.to_owned()),
            denied: Some(zone::DENIED.into()),
            denied_address: Some(zone::DENIED_IP),
            permitted: Some((zone::PERMITTED_IP, zone::PERMITTED_PORT)),
            permitted_private: None,
            early: Some(Early {
                site: zone::EARLY.into(),
                address: zone::EARLY_IP,
                port: zone::PERMITTED_PORT,
            }),
            attacker: zone::ATTACKER.to_owned(),
            resolvers: RESOLVERS.to_vec(),
            host_resolvers: vec![lab::ROUTER_IP.into()],
            uplink: None,
            private: [[10, 1, 2, 3], [172, 16, 9, 9], [192, 168, 77, 1], [100, 64, 3, 2]]
                .map(Ipv4Addr::from)
                .to_vec(),
            metadata: METADATA.to_vec(),
            host: vec![
                lab::HOST_IP.into(),
                lab::HOST_PUBLIC_IP.into(),
                lab::INNER_IP.into(),
                lab::HOST_IP6.into(),
            ],
            host_ports: lab::HOST_PORTS.to_vec(),
            neighbours: vec![lab::NEIGHBOUR_IP, lab::ROUTER_IP],
            sandboxes: vec![Ipv4Addr::new(198, 18, 1, 77)],
            special: special(),
            rebinding,
            flip: Some((zone::FLIP.0.to_owned(), zone::FLIP.1, zone::FLIP.2)),
        }
    }

    /// The policy that the lab's attempts are about, as a policy file.
    #[must_use]
    pub fn lab_policy(open: bool) -> String {
        if open {
            let (denied, early) = (zone::DENIED.0, zone::EARLY.0);
            let addresses = (zone::DENIED_IP, zone::EARLY_IP);
            return format!(
                "internet = true\ndeny = [\"{denied}\", \"{early}\", \"{}\", \"{}\"]\n",
                addresses.0, addresses.1
            );
        }
        lab_list(&[])
    }

    /// The policy that is in force before that one: less strict.
    #[must_use]
    pub fn lab_policy_at_first(open: bool) -> String {
        if open {
            return format!("internet = true\ndeny = [\"{}\"]\n", zone::DENIED_IP);
        }
        let address = format!("{}:{}", zone::EARLY_IP, zone::PERMITTED_PORT);
        lab_list(&[zone::EARLY.0, &address])
    }

    /// A listed site for one attempt alone, if there are such.
    #[must_use]
    pub fn own_site(&self, number: u8) -> Option<Site> {
        self.lab.then(|| {
            let (name, address) = zone::numbered(number);
            Site {
                name,
                addresses: vec![address],
            }
        })
    }

    /// The rule that drops what goes to this address because of its kind, if one does.
    #[must_use]
    pub fn special_rule(&self, address: Ipv4Addr) -> Option<String> {
        let kind = self
            .special
            .iter()
            .find(|(_, nets)| nets.iter().any(|net| net.contains(&address)));
        kind.map(|(name, _)| format!("special-{name}"))
    }
}

/// A policy of mode `allow` for the lab, with a few more entries.
fn lab_list(more: &[&str]) -> String {
    let wild = zone::WILD.0;
    let mut allow = vec![
        zone::LISTED.0.to_owned(),
        zone::SECOND.0.to_owned(),
        format!("*.{wild}"),
        "*.rebind.example".to_owned(),
        format!("{}:{}", zone::BARE.0, zone::BARE_PORT),
        format!("{}:{}", zone::PERMITTED_IP, zone::PERMITTED_PORT),
        zone::PERMITTED_PRIVATE.to_string(),
    ];
    allow.extend(more.iter().map(|entry| (*entry).to_owned()));
    format!(
        "allow = [\"{}\"]\ndeny = [\"denied.{wild}\", \"{}\"]\n",
        allow.join("\", \""),
        zone::DENIED_IP
    )
}

/// The kinds of special-purpose addresses, as a namespace has rules for them.
#[must_use]
pub fn special() -> Vec<(String, Vec<Ipv4Net>)> {
    special_v4_nets()
        .into_iter()
        .map(|(name, nets)| (name.to_owned(), nets))
        .collect()
}

/// Resolvers that anybody may ask, and attackers like to.
pub const RESOLVERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(8, 8, 8, 8),
    Ipv4Addr::new(1, 1, 1, 1),
    Ipv4Addr::new(9, 9, 9, 9),
];
/// Where clouds have their metadata.
pub const METADATA: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
