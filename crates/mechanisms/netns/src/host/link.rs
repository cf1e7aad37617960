//! The pair of links between a sandbox's namespace and the host's.
//!
//! ```text
//!   namespace                                 host
//!   up0 198.18.a.b/32  ===================  omr<N>  (no address)
//!   default by 198.18.0.1, which is fixed     198.18.a.b is there, fixed
//!   to the other end's hardware address       likewise; so nobody asks for addresses
//! ```
//!
//! N is unique in the host's namespace, since the kernel makes no two links of one name; so several owners take numbers
//! without agreeing on them, and the address, which follows from N, is unique too. 198.18.0.0/15 is for benchmarks of
//! network devices (RFC 2544) and routed nowhere.

use std::{io, net::Ipv4Addr, os::fd::BorrowedFd};

use omnirun_guest_net::UPLINK;

use super::Host;
use crate::{
    NetError,
    netlink::{
        Netlink,
        links::{Change, Mac, strict},
    },
};

/// What the names of the host's ends begin with.
pub(crate) const PREFIX: &str = "omr";
/// The addresses of the namespaces' ends.
pub(crate) const NET: &str = "198.18.0.0/15";
/// Gateway of the namespaces. No link has this address: packets to anywhere are given to its hardware address.
pub(crate) const HOST_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Hardware address of the host's ends. Each pair is a network of its own, so they may all have the same.
pub(crate) const HOST_MAC: Mac = [0x02, 0x4f, 0x52, 0x00, 0x01, 0x01];
/// Hardware address of the namespaces' ends.
const UPLINK_MAC: Mac = [0x02, 0x4f, 0x52, 0x00, 0x01, 0x02];
/// Number 0's address.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// How many numbers there are: the net without its first two addresses and the last.
const NUMBERS: u32 = (1 << 17) - 3;
/// How many are tried, each after one that is taken.
const TRIES: u32 = 4096;

/// A pair that was made.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Name of the host's end.
    pub(crate) name: String,
    /// Address for the other end.
    pub(crate) address: Ipv4Addr,
}

/// What the host's ends are labelled with, so that a later owner knows whose they were.
pub(crate) fn alias(tag: &str) -> String {
    format!("omnirun {tag}")
}

/// Whose link it is, by its label.
pub(crate) fn owner(alias: &str) -> Option<&str> {
    alias.strip_prefix("omnirun ")
}

/// Makes a pair whose other end, [`UPLINK`], is in `namespace` and not yet set up.
pub(crate) fn pair(host: &Host, namespace: BorrowedFd<'_>) -> Result<Pair, NetError> {
    let mut route = host.route();
    let (name, number) = numbered(&mut route, namespace, host.mtu())?;
    let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
    let index = route
        .index(&name)
        .map_err(NetError::step(format!("finding {name}")))?;
    let alias = alias(host.tag());
    let conf = strict(true, 8);
    let mut change = Change {
        alias: Some(&alias),
        conf: &conf,
        no_ipv6: true,
        up: true,
        ..Change::default()
    };
    let changed = route.change(index, &change).or_else(|e| {
        // A kernel without IPv6.
        if e.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
            return Err(e);
        }
        change.no_ipv6 = false;
        route.change(index, &change)
    });
    changed.map_err(NetError::step(format!("setting up {name}")))?;
    route
        .neighbour(index, address, UPLINK_MAC)
        .map_err(NetError::step(format!("fixing the neighbour entry of {name}")))?;
    route
        .route_to(address, index)
        .map_err(NetError::step(format!("routing {address} to {name}")))?;
    Ok(Pair { name, address })
}

/// Makes a pair with a free number, from a random one on.
fn numbered(route: &mut Netlink, namespace: BorrowedFd<'_>, mtu: u32) -> Result<(String, u32), NetError> {
    let start = fastrand::u32(..NUMBERS);
    for number in (0..TRIES).map(|offset| (start + offset) % NUMBERS) {
        let name = format!("{PREFIX}{number}");
        match route.pair((&name, HOST_MAC), (UPLINK, UPLINK_MAC), namespace, mtu) {
            Ok(()) => return Ok((name, number)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(NetError::step(format!("making the pair {name} and {UPLINK}"))(e)),
        }
    }
    Err(NetError::NoNumber { tried: TRIES })
}
