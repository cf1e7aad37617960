//! Whether networks can be had on this host, for `omnirun doctor`. Nothing outside of throw-away namespaces is changed.

use std::{io, os::fd::AsFd};

use omnirun_guest_net::{MTU, TAP, UPLINK};
use omnirun_sys::host::net;
use rustix::thread::{CapabilitySet, capabilities};

use crate::{
    Kind, NetError,
    host::{self, link, table},
    inside::rules::rules,
    netlink::Netlink,
    nft::Nft,
};

/// One thing that networks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// What is wrong with it, and what to do; `None`: it is there.
    pub problem: Option<String>,
}

/// Whether this process may do what is needed.
pub(crate) fn permitted() -> Result<(), NetError> {
    let effective = capabilities(None)
        .map(|sets| sets.effective)
        .map_err(NetError::step("reading this thread's capabilities"))?;
    let needed = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    ];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|(one, _)| !effective.contains(*one))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(NetError::NotPermitted {
        uid: rustix::process::getuid().as_raw(),
        missing: missing.join(" and "),
    })
}

/// Tries out what networks need. It waits for the kernel and for `nft`, some 50 ms.
#[must_use]
pub fn check() -> Vec<Check> {
    let mut checks = Checks(Vec::new());
    if !checks.note("privileges", permitted(), "") {
        return checks.0;
    }
    checks.note(
        "network namespaces",
        net::in_new_namespace(|| Ok::<_, NetError>(())),
        "CONFIG_NET_NS",
    );
    checks.note("taps", tap(), "the kernel module `tun` (modprobe tun)");
    checks.note(
        "pairs of links",
        pair(),
        "the kernel module `veth` (modprobe veth)",
    );
    let nft = Nft::find();
    if let Some(nft) = checks.found("nft", nft) {
        let filter = "the kernel modules of nftables: nf_tables, nft_ct, nft_connlimit, nft_limit, nft_fib_inet, \
                      nft_redir, nft_masq, nft_reject_ipv4";
        checks.note(
            "rules of a restricted network",
            load(&nft, Kind::Restricted),
            filter,
        );
        checks.note("rules of an open network", load(&nft, Kind::Open), filter);
        checks.note("rules of the host", load_host(&nft), filter);
        checks.note("a way out for open networks", host::look(&nft), "");
    }
    checks.0
}

/// Why there can be no networks here: the first thing that is wrong; `None`: there can.
#[must_use]
pub fn problem() -> Option<String> {
    check().into_iter().find_map(|check| check.problem)
}

struct Checks(Vec<Check>);

impl Checks {
    /// Notes an outcome; what the kernel refuses without a better reason may be because of what is `missing`.
    fn note(&mut self, name: &'static str, outcome: Result<(), NetError>, missing: &str) -> bool {
        let problem = outcome.err().map(|error| {
            let absent = match &error {
                NetError::Step { source, .. } => {
                    let code = source.raw_os_error();
                    source.kind() == io::ErrorKind::NotFound
                        || [
                            rustix::io::Errno::NODEV,
                            rustix::io::Errno::OPNOTSUPP,
                            rustix::io::Errno::INVAL,
                        ]
                        .iter()
                        .any(|errno| code == Some(errno.raw_os_error()))
                }
                NetError::Nft { .. } => true,
                _ => false,
            };
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            let hint = if absent && !missing.is_empty() {
                format!("; perhaps this kernel lacks {missing}")
            } else {
                String::new()
            };
            format!("{error}{cause}{hint}")
        });
        let fine = problem.is_none();
        self.0.push(Check { name, problem });
        fine
    }

    fn found<T>(&mut self, name: &'static str, outcome: Result<T, NetError>) -> Option<T> {
        match outcome {
            Ok(found) => {
                self.note(name, Ok(()), "");
                Some(found)
            }
            Err(error) => {
                self.note(name, Err(error), "");
                None
            }
        }
    }
}

fn tap() -> Result<(), NetError> {
    net::in_new_namespace(|| net::create_tap(TAP).map_err(NetError::step("making a tap")))
}

fn pair() -> Result<(), NetError> {
    let other = net::in_new_namespace(net::namespace).map_err(NetError::step("making a namespace"))?;
    net::in_new_namespace(|| {
        let mut route = Netlink::route().map_err(NetError::step("opening a netlink socket"))?;
        route
            .pair(
                ("omr0", link::HOST_MAC),
                (UPLINK, link::HOST_MAC),
                other.as_fd(),
                MTU,
            )
            .map_err(NetError::step("making a pair of links"))
    })
}

fn load(nft: &Nft, kind: Kind) -> Result<(), NetError> {
    net::in_new_namespace(|| {
        net::create_tap(TAP).map_err(NetError::step("making a tap"))?;
        nft.run("load the rules of a sandbox", &rules(kind, &[]))
    })
}

fn load_host(nft: &Nft) -> Result<(), NetError> {
    net::in_new_namespace(|| nft.run("make the host's table", &table::table("check", &[], &[])))
}
