//! A host and an internet, each a namespace.
//!
//! ```text
//!   sandboxes === host  uplink 203.0.113.2 --- wan 203.0.113.1  internet  near --- far
//!                       spare  203.0.114.2 --- wan2             (5.5.5.5, 10.1.2.3,    (6.6.6.6, behind
//!                                                                169.254.169.254)       a narrow link)
//! ```
//!
//! The internet knows no way to any sandbox's addresses, so what comes back was masqueraded. What it says of itself as a
//! router, it says from 10.255.0.1.

use std::{
    io,
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::Arc,
};

use omnirun_sys::host::net;

use crate::{Namespace, netlink::Netlink, nft::Nft};

pub(super) struct Lab {
    pub(super) host: Arc<OwnedFd>,
    pub(super) internet: Arc<OwnedFd>,
    pub(super) far: Arc<OwnedFd>,
}

impl Lab {
    pub(super) fn new() -> Self {
        let [host, internet, far] =
            [(); 3].map(|()| Arc::new(net::in_new_namespace(net::namespace).unwrap()));
        pair(&host, "uplink", &internet, "wan");
        pair(&host, "spare", &internet, "wan2");
        pair(&internet, "near", &far, "eth0");
        ip(
            &host,
            &[
                "addr add 203.0.113.2/24 dev uplink",
                "addr add 203.0.114.2/24 dev spare",
            ],
        );
        ip(
            &host,
            &["addr add 10.0.0.1/32 dev lo", "route add default via 203.0.113.1"],
        );
        let addresses = [
            "addr add 203.0.113.1/24 dev wan",
            "addr add 203.0.114.1/24 dev wan2",
            "addr add 5.5.5.5/32 dev lo",
            "addr add 10.1.2.3/32 dev lo",
            "addr add 10.255.0.1/32 dev lo",
            "addr add 169.254.169.254/32 dev lo",
            "link set near mtu 1200",
            "addr add 203.0.115.1/24 dev near",
            "route add 6.6.6.6/32 dev near",
            "route replace 203.0.113.0/24 dev wan src 10.255.0.1",
        ];
        ip(&internet, &addresses);
        ip(
            &far,
            &[
                "addr add 6.6.6.6/32 dev lo",
                "addr add 203.0.115.2/24 dev eth0",
                "route add default via 203.0.115.1",
            ],
        );
        write(&internet, "ipv4/ip_forward", "1");
        write(&host, "ipv4/ip_forward", "0");
        Self { host, internet, far }
    }

    /// Whether packets that come in by a link of the host's may be forwarded.
    pub(super) fn forwarding(&self, link: &str) -> bool {
        let file = format!("/proc/sys/net/ipv4/conf/{link}/forwarding");
        within(&self.host, || std::fs::read_to_string(&file))
            .unwrap()
            .trim()
            == "1"
    }

    pub(super) fn tables(&self) -> Vec<String> {
        let listing = within(&self.host, || {
            Nft::find()
                .and_then(|nft| nft.list("list the tables", &["list", "tables"]))
                .map_err(io::Error::other)
        });
        listing
            .unwrap()
            .into_iter()
            .filter_map(|entry| Some(entry.table?.name))
            .collect()
    }

    /// How often a rule of an owner's table was met.
    pub(super) fn met(&self, name: &str) -> u64 {
        let listing = within(&self.host, || {
            Nft::find()
                .and_then(|nft| nft.list("list the rules", &["list", "ruleset"]))
                .map_err(io::Error::other)
        });
        let rules = listing.unwrap().into_iter().filter_map(|entry| entry.rule);
        rules
            .filter(|rule| rule.comment.as_deref() == Some(name))
            .filter_map(|rule| rule.packets())
            .sum()
    }

    /// Waits until a rule of an owner's table has been met so often.
    pub(super) fn until_met(&self, name: &str, often: u64) {
        let deadline = std::time::Instant::now() + super::LONG;
        while self.met(name) < often {
            assert!(
                std::time::Instant::now() < deadline,
                "{name} was not met {often} times"
            );
        }
    }

    /// What the sandboxes' links are labelled with.
    pub(super) fn aliases(&self) -> Vec<String> {
        let links = within(&self.host, || Netlink::route()?.links()).unwrap();
        links
            .into_iter()
            .filter(|link| link.name.starts_with("omr"))
            .filter_map(|link| link.alias)
            .collect()
    }

    /// Names of the sandboxes' links.
    pub(super) fn links(&self) -> Vec<String> {
        let links = within(&self.host, || Netlink::route()?.links()).unwrap();
        links
            .into_iter()
            .map(|link| link.name)
            .filter(|name| name.starts_with("omr"))
            .collect()
    }
}

fn pair(here: &OwnedFd, name: &str, there: &OwnedFd, peer: &str) {
    within(here, || {
        let mac = |last| [2, 0, 0, 0, 0, last];
        Netlink::route()?.pair((name, mac(1)), (peer, mac(2)), there.as_fd(), 1500)
    })
    .unwrap();
    ip(here, &[&format!("link set {name} up"), "link set lo up"]);
    ip(there, &[&format!("link set {peer} up"), "link set lo up"]);
}

/// Runs `work` in a namespace.
pub(super) fn within<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    net::in_namespace(namespace.as_fd(), work)
}

/// Runs `ip` in a namespace, once for each line.
pub(super) fn ip(namespace: &OwnedFd, lines: &[&str]) {
    for line in lines {
        shell(namespace, &format!("ip {line}"));
    }
}

pub(super) fn nft(namespace: &OwnedFd, script: &str) {
    within(namespace, || {
        Nft::find()
            .and_then(|nft| nft.run("test", script))
            .map_err(io::Error::other)
    })
    .unwrap();
}

pub(super) fn shell(namespace: &OwnedFd, line: &str) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = within(namespace, || {
        Command::new("sh").args(["-c", line]).env("PATH", path).output()
    })
    .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(super) fn write(namespace: &OwnedFd, file: &str, value: &str) {
    within(namespace, || {
        std::fs::write(format!("/proc/sys/net/{file}"), value)
    })
    .unwrap();
}

/// A server in a namespace.
pub(super) fn listen(namespace: &OwnedFd, address: &str) -> OwnedFd {
    within(namespace, || TcpListener::bind(address)).unwrap().into()
}

/// The address of a sandbox's uplink.
pub(super) fn uplink_address(sandbox: &Namespace) -> std::net::Ipv4Addr {
    let number: u32 = sandbox
        .host_link()
        .unwrap()
        .strip_prefix("omr")
        .unwrap()
        .parse()
        .unwrap();
    std::net::Ipv4Addr::from_bits(std::net::Ipv4Addr::new(198, 18, 0, 2).to_bits() + number)
}
