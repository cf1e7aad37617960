//! Whom the child asks for addresses, read from the host's files.

use crate::channel::Resolution;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// How names are resolved. The child has no files, so it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resolvers {
    /// As `/etc/resolv.conf` and `/etc/hosts` say, also when they change.
    #[default]
    System,
    /// By these servers and this table.
    Given {
        /// Asked in this order.
        servers: Vec<SocketAddr>,
        /// Looked into first.
        hosts: BTreeMap<String, Vec<Ipv4Addr>>,
    },
}

/// At most so many lines of a hosts file are taken over: blockers have some 100,000, all to 0.0.0.0.
const MAX_HOSTS: usize = 10_000;

impl Resolvers {
    /// What the child is told.
    pub(super) fn resolution(&self) -> Resolution {
        match self {
            Self::System => Files::default().read(),
            Self::Given { servers, hosts } => Resolution {
                servers: servers.iter().map(|at| (at.ip(), at.port())).collect(),
                hosts: hosts
                    .iter()
                    .map(|(name, at)| (name.to_ascii_lowercase(), at.clone()))
                    .collect(),
            },
        }
    }
}

/// The files that say how the host resolves names.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

impl Files {
    pub(super) fn paths(&self) -> [&Path; 2] {
        [&self.resolv_conf, &self.hosts]
    }

    /// What they say. One that cannot be read says nothing.
    pub(super) fn read(&self) -> Resolution {
        Resolution {
            servers: servers(&fs::read_to_string(&self.resolv_conf).unwrap_or_default()),
            hosts: hosts(&fs::read_to_string(&self.hosts).unwrap_or_default()),
        }
    }
}

/// `nameserver` lines; without any the host itself is asked, as resolv.conf(5) says.
fn servers(text: &str) -> Vec<(IpAddr, u16)> {
    let mut found: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // An IPv6 address with a scope is none that could be dialled without the interface's number.
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .map(|ip: IpAddr| (ip, 53))
        .collect();
    if found.is_empty() {
        found.push((Ipv4Addr::LOCALHOST.into(), 53));
    }
    // The C library looks at three.
    found.truncate(3);
    found
}

fn hosts(text: &str) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let mut table: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        for name in words {
            if table.len() >= MAX_HOSTS {
                return table;
            }
            table
                .entry(name.trim_end_matches('.').to_ascii_lowercase())
                .or_default()
                .push(address);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_are_read() {
        let text = "# a comment\nnameserver 9.9.9.9\nsearch example.net\nnameserver  2620:fe::fe \n\
                    nameserver fe80::1%eth0\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let all: Vec<String> = servers(text).iter().map(|(ip, _)| ip.to_string()).collect();
        assert_eq!(all, ["9.9.9.9", "2620:fe::fe", "1.1.1.1"]);
        assert_eq!(servers("options edns0"), [(IpAddr::from([127, 0, 0, 1]), 53)]);
        let table = hosts(
            "127.0.0.1 localhost\n::1 localhost\n10.0.0.1 a.example A.example # x\n10.0.0.2 a.example.\n",
        );
        assert_eq!(
            table["a.example"],
            [
                [10, 0, 0, 1].into(),
                [10, 0, 0, 1].into(),
                Ipv4Addr::from([10, 0, 0, 2])
            ]
        );
        assert_eq!(table["localhost"], [Ipv4Addr::LOCALHOST]);
    }
}
