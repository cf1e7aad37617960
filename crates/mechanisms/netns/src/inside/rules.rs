//! The rules of a sandbox's namespace, as text for `nft`.
//!
//! A pure function of the kind of network and the lists of special addresses: what changes during a sandbox's life is
//! only the elements of the sets. The rules themselves are in files (`rules/*.nft`), as an administrator would write
//! them. Each counts, has a name (its `comment`), and does one thing, so that it can be told which of them stopped an
//! attempt. In the order in which a packet of the guest's meets them:
//!
//! ```text
//!   frame        netdev ingress on the tap: who it claims to be from, what it is made of
//!   destination  prerouting, before connection tracking: where it goes; what goes nowhere leaves no trace
//!   connection   prerouting, after it: how many
//!   redirection  nat prerouting: to the sockets of the proxy
//!   arrival      input: only to those sockets
//!   through      forward: nothing; with an uplink, to public addresses
//!   departure    output: only answers to the guest
//! ```
//!
//! What the last three do not accept is dropped by their policies. No packet of the guest's gets that far unless
//! something before them fails: walls behind walls.
//!
//! | set | holds | filled |
//! | -- | -- | -- |
//! | `permitted` | addresses that rules of the policy name | with the policy |
//! | `denied` | addresses that it denies | with the policy |
//! | `answered` | (restricted) addresses that our DNS answered with, each for a time | before each answer |
//! | `web` | (open) ports that the proxy serves: 80 and 443, or none | with the policy |
//! | `special` | (open) all special-purpose addresses | never changed |
//!
//! A denied destination is refused before connection tracking and a denied flow before the rule that admits established
//! ones, so that a tightened policy ends live flows at once.
//!
//! A refusal is told to the guest (TCP reset, ICMP) where that helps an honest program to go on; it never leaves the tap.

use std::fmt::Write;

use ipnet::Ipv4Net;
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC, PROXY_PORT};

use crate::{Kind, Special, netlink::links::Mac};

/// Where the transparent proxy listens, on the gateway's address. The guest cannot ask for it by number.
pub(crate) const TRANSPARENT_PORT: u16 = 3129;
/// Where our DNS listens.
pub(crate) const DNS_PORT: u16 = 53;
/// The table of family `ip`, with the sets; there is one of the same name in families `netdev` and `ip6`.
pub(crate) const TABLE: &str = "omnirun";
/// How many addresses [`ANSWERED`] holds.
pub(crate) const ANSWERED_MAX: usize = 16384;
pub(crate) const PERMITTED: &str = "permitted";
pub(crate) const DENIED: &str = "denied";
pub(crate) const ANSWERED: &str = "answered";
pub(crate) const WEB: &str = "web";

/// All rules of a namespace.
///
/// Each table and chain is in one piece: for `nft`, a second piece is a change to what the first one made, for which the
/// kernel waits until nobody looks at that any more. (With three pieces it took 20 ms instead of 7.)
pub(crate) fn rules(kind: Kind, special: &[Special]) -> String {
    let ip = match kind {
        Kind::Restricted => include_str!("rules/restricted.nft"),
        Kind::Open => include_str!("rules/open.nft"),
    };
    let parts = [
        ("@sets@\n", sets(kind, special)),
        ("@gateway@\n", include_str!("rules/gateway.nft").to_owned()),
        ("@special@\n", specials(special)),
        ("@sockets@\n", include_str!("rules/sockets.nft").to_owned()),
    ];
    let ip = parts
        .into_iter()
        .fold(ip.to_owned(), |text, (mark, part)| text.replace(mark, &part));
    definitions() + include_str!("rules/frame.nft") + "\n" + &ip
}

/// What the files call by names.
fn definitions() -> String {
    let mac = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (guest, gateway) = (mac(GUEST_MAC), mac(GATEWAY_MAC));
    format!(
        "define guest_mac = {guest}\n\
         define guest_ip = {GUEST_IP}\n\
         define gateway_mac = {gateway}\n\
         define gateway_ip = {GATEWAY_IP}\n\
         define dns = {DNS_PORT}\n\
         define proxy = {PROXY_PORT}\n\
         define transparent = {TRANSPARENT_PORT}\n"
    )
}

fn sets(kind: Kind, special: &[Special]) -> String {
    let mut text = format!(
        "  set {PERMITTED} {{ type ipv4_addr; flags interval; }}\n  \
         set {DENIED} {{ type ipv4_addr; flags interval; }}\n"
    );
    match kind {
        Kind::Restricted => {
            let _ = writeln!(
                text,
                "  set {ANSWERED} {{ type ipv4_addr; flags timeout; size {ANSWERED_MAX}; }}"
            );
        }
        Kind::Open => {
            let nets: Vec<Ipv4Net> = special.iter().flat_map(|special| special.nets.clone()).collect();
            // An empty list is none for `nft`.
            let elements = match nets.is_empty() {
                true => String::new(),
                false => format!(" elements = {{ {} }};", list(&nets)),
            };
            let _ = writeln!(text, "  set {WEB} {{ type inet_service; size 16; }}");
            let _ = writeln!(
                text,
                "  set special {{ type ipv4_addr; flags interval; auto-merge;{elements} }}"
            );
        }
    }
    text
}

/// One rule for each kind of special addresses.
fn specials(special: &[Special]) -> String {
    let mut text = String::new();
    for Special {
        name,
        nets,
        permittable,
    } in special.iter().filter(|special| !special.nets.is_empty())
    {
        let unless = if *permittable {
            format!(" ip daddr != @{PERMITTED}")
        } else {
            String::new()
        };
        let nets = list(nets);
        let _ = writeln!(
            text,
            "    ip daddr {{ {nets} }}{unless} counter drop comment \"special-{name}\""
        );
    }
    text
}

fn list(nets: &[Ipv4Net]) -> String {
    nets.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
