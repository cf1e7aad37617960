//! What there is to aim at in the network of this host.

use anyhow::Context;
use omnirun_escape_test::{
    Mode, World,
    capture::Place,
    world::{METADATA, RESOLVERS, Site, special},
};
use omnirun_sys::host::net;
use std::{
    net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket},
    sync::Arc,
};

/// A name that the policy does not list. It is reserved for examples (RFC 2606) and answers nobody anything.
const UNLISTED: &str = "www.example.org";
/// Below a name that nobody can have (RFC 2606), so that no server reads what is asked for.
const ATTACKER: &str = "attacker.invalid";
/// Private addresses of routers as people have them.
const PRIVATE: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(172, 16, 0, 1),
    Ipv4Addr::new(192, 168, 0, 1),
    Ipv4Addr::new(100, 64, 0, 1),
];
/// Where services listen on a host that a sandbox has no business with: remote login, a container engine, an API.
const HOST_PORTS: [u16; 3] = [22, 2375, 8300];

/// The world around this host; `site` answers on port 443.
pub(super) fn world(site: &str) -> anyhow::Result<World> {
    Ok(World {
        lab: false,
        machine: true,
        proxies_web: false,
        listed: Site {
            name: site.to_owned(),
            addresses: resolve(site)?,
        },
        second: None,
        bare: None,
        wild: None,
        unlisted: Site {
            name: UNLISTED.to_owned(),
            addresses: vec![RESOLVERS[2]],
        },
        cohost: None,
        denied: None,
        denied_address: None,
        permitted: None,
        attacker: ATTACKER.to_owned(),
        resolvers: RESOLVERS.to_vec(),
        host_resolvers: resolvers(),
        uplink: None,
        private: PRIVATE.to_vec(),
        metadata: METADATA.to_vec(),
        host: own_addresses(),
        host_ports: HOST_PORTS.to_vec(),
        neighbours: Vec::new(),
        sandboxes: vec![Ipv4Addr::new(198, 18, 1, 77)],
        special: special(),
        rebinding: Vec::new(),
        flip: None,
    })
}

/// The policy file that a mode is tried under.
pub(super) fn policy(mode: Mode, site: &str) -> String {
    match mode {
        Mode::Open => "internet = true\n".to_owned(),
        _ => format!("allow = [{site:?}]\n"),
    }
}

/// Where the capture looks: this host's namespace.
pub(super) fn places(threshold: &str) -> anyhow::Result<Vec<Place>> {
    Ok(vec![Place {
        name: "host".to_owned(),
        namespace: Arc::new(net::namespace().context("cannot open the host's network namespace")?),
        threshold: Some(threshold.to_owned()),
    }])
}

fn resolve(site: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
    let found = (site, 443).to_socket_addrs().with_context(|| {
        format!("{site} has no address here; name a host that answers on port 443 with --site, or take --lab")
    })?;
    let found: Vec<Ipv4Addr> = found
        .filter_map(|to| match to.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect();
    anyhow::ensure!(
        !found.is_empty(),
        "{site} has no IPv4 address; name another with --site, or take --lab"
    );
    Ok(found)
}

/// Whom the host asks for names.
fn resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers
        .filter_map(|address| address.trim().parse().ok())
        .collect()
}

/// The address by which the host reaches the internet, and loopback. Nothing is sent: the kernel is only asked.
fn own_addresses() -> Vec<IpAddr> {
    let outward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((RESOLVERS[0], 9))?;
        Ok(socket.local_addr()?.ip())
    });
    outward.into_iter().chain([Ipv4Addr::LOCALHOST.into()]).collect()
}
