//! Settings of a namespace as a whole: the files of `/proc/sys/net`, which show the reader's own namespace.

use std::{fs, io};

use crate::{Kind, NetError};

/// A file and its value.
type Setting = (&'static str, &'static str);

/// Before there is a link. A new namespace's IPv4 settings are copies of the host's, unless the host says otherwise.
const EARLY: [Setting; 13] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    // Of "all" and a link's own setting, either can be enough to allow.
    ("ipv4/conf/all/forwarding", "0"),
    ("ipv4/conf/default/forwarding", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/secure_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/all/accept_local", "0"),
    ("ipv4/conf/all/route_localnet", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/all/arp_accept", "0"),
    // Two connections from one port to two addresses are, once redirected, told apart by a changed source port. Linux 6.1
    // takes the second one for the first if it looks for its socket before that change.
    ("ipv4/tcp_early_demux", "0"),
];

/// Of connection tracking, which may be loaded only with the first rule that needs it.
const TRACKING: [Setting; 3] = [
    // A packet in the middle of a connection that is not known makes none.
    ("netfilter/nf_conntrack_tcp_loose", "0"),
    // What a guest can leave behind is forgotten soon, so that a flood takes little of the host's memory.
    ("netfilter/nf_conntrack_tcp_timeout_time_wait", "10"),
    ("netfilter/nf_conntrack_tcp_timeout_syn_sent", "30"),
];

/// All UDP is DNS there, answered or not within seconds.
const RESTRICTED: [Setting; 2] = [
    ("netfilter/nf_conntrack_udp_timeout", "10"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "10"),
];

/// Sets up the calling thread's namespace, which has no links yet.
pub(super) fn harden() -> Result<(), NetError> {
    EARLY.iter().try_for_each(set)
}

/// Sets up connection tracking in the calling thread's namespace, once it has its rules.
pub(super) fn tracking(kind: Kind) -> Result<(), NetError> {
    let more: &[Setting] = match kind {
        Kind::Restricted => &RESTRICTED,
        Kind::Open => &[],
    };
    TRACKING.iter().chain(more).try_for_each(set)
}

fn set((file, value): &Setting) -> Result<(), NetError> {
    match fs::write(format!("/proc/sys/net/{file}"), value) {
        // A kernel without IPv6, say.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(NetError::step(format!("setting net/{file} in a namespace"))),
    }
}
