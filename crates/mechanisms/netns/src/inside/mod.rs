//! The inside of a sandbox's namespace: made in one go, on a thread that is in it.
//!
//! ```text
//!   settings    IPv6 off, nothing forwarded, nobody believed          (before there is a link)
//!   tap0        persistent, the gateway's address, the guest's neighbour entry fixed
//!   rules       (rules.rs) before anything can come in or go out
//!   sockets     (sockets.rs) DNS twice, the transparent proxy, the explicit proxy
//!   up0         in mode open, last: the pair to the host, made by `host::link`
//! ```
//!
//! `lo` stays down: nothing in here has anything to say to itself.

pub(crate) mod rules;
mod settings;
mod sockets;

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC, MTU, PREFIX, TAP, UPLINK};
use omnirun_sys::host::net;

pub use self::sockets::Sockets;
use crate::{
    Kind, NetError,
    host::{Host, link},
    netlink::{
        Netlink,
        links::{Change, strict},
    },
    nft::Nft,
};

/// What a namespace consists of, seen from its owner.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) namespace: Arc<OwnedFd>,
    pub(crate) sockets: Sockets,
    /// To the packet filter inside.
    pub(crate) netlink: Netlink,
    /// Name of the host's end of the pair.
    pub(crate) link: Option<String>,
}

/// Makes a namespace of kind `kind` with these `rules`; `host` is there if it is to have an uplink.
pub(crate) fn build(nft: &Nft, kind: Kind, rules: &str, host: Option<&Host>) -> Result<Inside, NetError> {
    net::in_new_namespace(|| {
        settings::harden()?;
        tap(kind)?;
        nft.run("load the rules of a sandbox", rules)?;
        settings::tracking(kind)?;
        let sockets = Sockets::open()?;
        let netlink = Netlink::netfilter().map_err(NetError::step("opening a netlink socket"))?;
        let namespace = net::namespace().map_err(NetError::step("opening the namespace"))?;
        let link = host.map(|host| uplink(host, &namespace)).transpose()?;
        Ok(Inside {
            namespace: Arc::new(namespace),
            sockets,
            netlink,
            link,
        })
    })
}

fn tap(kind: Kind) -> Result<(), NetError> {
    net::create_tap(TAP).map_err(NetError::step("making a tap"))?;
    let mut route = Netlink::route().map_err(NetError::step("opening a netlink socket"))?;
    let index = route.index(TAP).map_err(NetError::step("finding the tap"))?;
    // ARP: only for the address of the link that was asked.
    let conf = strict(kind == Kind::Open, 1);
    let change = Change {
        address: Some(GATEWAY_MAC),
        mtu: Some(MTU),
        conf: &conf,
        up: true,
        ..Change::default()
    };
    route
        .change(index, &change)
        .map_err(NetError::step("setting up the tap"))?;
    route
        .address(index, GATEWAY_IP, PREFIX)
        .map_err(NetError::step("giving the tap its address"))?;
    route
        .neighbour(index, GUEST_IP, GUEST_MAC)
        .map_err(NetError::step("fixing the guest's neighbour entry"))
}

/// Makes the pair that leads to the host.
fn uplink(host: &Host, namespace: &OwnedFd) -> Result<String, NetError> {
    let link = link::pair(host, namespace.as_fd())?;
    let mut route = Netlink::route().map_err(NetError::step("opening a netlink socket"))?;
    let index = route
        .index(UPLINK)
        .map_err(NetError::step("finding the uplink"))?;
    let conf = strict(true, 8);
    route
        .change(
            index,
            &Change {
                conf: &conf,
                up: true,
                ..Change::default()
            },
        )
        .map_err(NetError::step("setting up the uplink"))?;
    route
        .address(index, link.address, 32)
        .map_err(NetError::step("giving the uplink its address"))?;
    route
        .neighbour(index, link::HOST_IP, link::HOST_MAC)
        .map_err(NetError::step("fixing the host's neighbour entry"))?;
    route
        .default_route(link::HOST_IP, index)
        .map_err(NetError::step("adding the default route"))?;
    Ok(link.name)
}
