//! Links, addresses, routes, neighbours.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::Netlink;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A setting of IPv4 on one link: `IPV4_DEVCONF_*` of `linux/ip.h`, which is what the files of
/// `/proc/sys/net/ipv4/conf` change too; here all of a link's go in one message, and `/proc/sys` may be read-only.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Conf {
    /// Packets that come in here may be forwarded.
    Forwarding = 1,
    /// A redirect is believed.
    AcceptRedirects = 4,
    /// A redirect is believed if it names a known gateway.
    SecureRedirects = 5,
    /// Redirects are sent.
    SendRedirects = 6,
    /// Whether a source address must have its route where it comes from (1).
    RpFilter = 8,
    /// Routes that a packet prescribes are followed.
    AcceptSourceRoute = 9,
    /// Which questions for a hardware address are answered.
    ArpIgnore = 19,
    /// Hardware addresses are learnt from those who were not asked.
    ArpAccept = 21,
    /// Source addresses of our own are accepted from outside.
    AcceptLocal = 23,
    /// 127.0.0.0/8 is routed.
    RouteLocalnet = 26,
}

/// Settings of every link of ours, inside or on the host, beside [`Conf::Forwarding`] and [`Conf::ArpIgnore`].
const STRICT: [(Conf, u32); 8] = [
    (Conf::RpFilter, 1),
    (Conf::AcceptLocal, 0),
    (Conf::AcceptRedirects, 0),
    (Conf::SecureRedirects, 0),
    (Conf::SendRedirects, 0),
    (Conf::AcceptSourceRoute, 0),
    (Conf::RouteLocalnet, 0),
    (Conf::ArpAccept, 0),
];

/// All settings of a link of ours. What is said of a link holds together with what is said of all (`inside::settings`).
/// `arp_ignore`: 1, questions for other addresses than the link's; 8, all questions (ip-sysctl.rst).
pub(crate) fn strict(forwarding: bool, arp_ignore: u32) -> Vec<(Conf, u32)> {
    let mut conf = STRICT.to_vec();
    conf.extend([
        (Conf::Forwarding, forwarding.into()),
        (Conf::ArpIgnore, arp_ignore),
    ]);
    conf
}

/// What is to change about a link.
#[derive(Debug, Default)]
pub(crate) struct Change<'a> {
    pub(crate) address: Option<Mac>,
    pub(crate) mtu: Option<u32>,
    pub(crate) alias: Option<&'a str>,
    pub(crate) conf: &'a [(Conf, u32)],
    /// The kernel is to give it no IPv6 address of its own accord.
    pub(crate) no_ipv6: bool,
    pub(crate) up: bool,
}

/// A link as a dump shows it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mtu: u32,
}

impl Netlink {
    /// Number of the link `name`.
    pub(crate) fn index(&mut self, name: &str) -> io::Result<u32> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut found = None;
        self.query(RouteNetlinkMessage::GetLink(message), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(link.header.index);
            }
        })?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Changes a link.
    pub(crate) fn change(&mut self, index: u32, change: &Change<'_>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if change.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.address.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        let mut families = Vec::new();
        if !change.conf.is_empty() {
            let settings: Vec<DefaultNla> = change
                .conf
                .iter()
                .map(|(conf, value)| DefaultNla::new(*conf as u16, value.to_ne_bytes().to_vec()))
                .collect();
            let mut bytes = vec![0; settings.as_slice().buffer_len()];
            settings.as_slice().emit(&mut bytes);
            families.push(AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(
                IFLA_INET_CONF,
                bytes,
            ))]));
        }
        if change.no_ipv6 {
            families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )]));
        }
        if !families.is_empty() {
            attributes.push(LinkAttribute::AfSpecUnspec(families));
        }
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Makes a pair: `name` here, with hardware address `mac`, and `peer` in `namespace`, with `peer_mac`. Fails with
    /// `EEXIST` if there is a link of this name here.
    pub(crate) fn pair(
        &mut self,
        (name, mac): (&str, Mac),
        (peer, peer_mac): (&str, Mac),
        namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> io::Result<()> {
        let end = |name: &str, mac: Mac| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Address(mac.to_vec()),
                LinkAttribute::Mtu(mtu),
            ];
            message
        };
        let mut there = end(peer, peer_mac);
        there
            .attributes
            .push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let mut here = end(name, mac);
        here.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(there))),
        ]));
        self.ask(RouteNetlinkMessage::NewLink(here), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a link of this namespace.
    pub(crate) fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.ask(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Gives a link an address.
    pub(crate) fn address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address)),
            AddressAttribute::Address(IpAddr::V4(address)),
        ];
        self.ask(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Fixes the hardware address that goes with `address` on a link.
    pub(crate) fn neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.ask(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Adds a route: one address, directly at `index`.
    pub(crate) fn route_to(&mut self, address: Ipv4Addr, index: u32) -> io::Result<()> {
        let mut message = route(RouteScope::Link, index);
        message.header.destination_prefix_length = 32;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(address)));
        self.ask(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Adds the route for everything else: by `gateway`, which is at the other end of the link `index` whatever the
    /// addresses say.
    pub(crate) fn default_route(&mut self, gateway: Ipv4Addr, index: u32) -> io::Result<()> {
        let mut message = route(RouteScope::Universe, index);
        message.header.flags = RouteFlags::Onlink;
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        self.ask(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// All links of this namespace.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.query(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            NLM_F_DUMP,
            |message| {
                let RouteNetlinkMessage::NewLink(message) = message else {
                    return;
                };
                let mut link = Link {
                    index: message.header.index,
                    name: String::new(),
                    alias: None,
                    mtu: 0,
                };
                for attribute in message.attributes {
                    match attribute {
                        LinkAttribute::IfName(name) => link.name = name,
                        LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                        LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                        _ => {}
                    }
                }
                links.push(link);
            },
        )?;
        Ok(links)
    }

    /// Numbers of the links by which packets to anywhere leave: those of default routes, and of routes to one half of
    /// all addresses (with which some tunnels shadow the default route), in whichever table.
    pub(crate) fn uplinks(&mut self) -> io::Result<Vec<u32>> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let mut found = Vec::new();
        self.query(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP, |message| {
            let RouteNetlinkMessage::NewRoute(message) = message else {
                return;
            };
            if message.header.destination_prefix_length > 1 || message.header.kind != RouteType::Unicast {
                return;
            }
            for attribute in message.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => found.push(index),
                    RouteAttribute::MultiPath(hops) => {
                        found.extend(hops.iter().map(|hop| hop.interface_index));
                    }
                    _ => {}
                }
            }
        })?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// `IFLA_INET_CONF`, with the flag of nested attributes.
const IFLA_INET_CONF: u16 = 1 | (1 << 15);

fn route(scope: RouteScope, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = MAIN_TABLE;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// `RT_TABLE_MAIN`.
const MAIN_TABLE: u8 = 254;
