//! The rules in the host's namespace: one table for each owner, whatever the number of its sandboxes.
//!
//! They match the sandboxes' links by the beginning of their names, so every owner's table holds for all owners'
//! sandboxes. That does no harm: they are the same rules, what one drops all would drop, and what is accepted in one is
//! still judged by the others. (The sandbox's own rules are stricter; these are what holds should a guest ever command
//! its namespace.)
//!
//! ```text
//!   before connection tracking, from omr*:  anything but IPv4 of 198.18.0.0/15, anything to an address of this host
//!                                           (whatever it is, also if a published port would lead it elsewhere), anything
//!                                           special                                               drop
//!   input, from omr*:                       all                                                   drop
//!   forward, from omr*:                     to omr*, to special addresses (after redirections)    drop
//!   forward, to omr*:                       what does not belong to a connection of theirs        drop
//!   forward, by an uplink that only we let forward: connections that are not for omr*             drop
//!   postrouting, of 198.18.0.0/15:          leaves with the host's address
//! ```
//!
//! The one before the last keeps a host that did not route from becoming a router for its neighbours (`uplink`). It
//! lets through what connections need that others on this host redirect or masquerade (containers, say).

use std::fmt::Write;

use ipnet::Ipv4Net;

use super::link::{NET, PREFIX};

/// What the names of the tables begin with.
const TABLE_PREFIX: &str = "omnirun_";
/// The set of the uplinks that we let forward.
pub(crate) const OPENED: &str = "opened";

/// Name of an owner's table.
pub(crate) fn name(tag: &str) -> String {
    format!("{TABLE_PREFIX}{tag}")
}

/// Whose table it is, by its name.
pub(crate) fn owner(table: &str) -> Option<&str> {
    table.strip_prefix(TABLE_PREFIX)
}

/// The table of the owner `tag`, instead of what there may be of this name.
pub(crate) fn table(tag: &str, special: &[Ipv4Net]) -> String {
    let name = name(tag);
    let mut text = format!("table inet {name} {{}}\ndelete table inet {name}\ntable inet {name} {{\n");
    let nets: Vec<String> = special
        .iter()
        .map(ToString::to_string)
        .chain([NET.to_owned()])
        .collect();
    let ours = format!("iifname \"{PREFIX}*\"");
    let _ = writeln!(text, "  set {OPENED} {{ type ifname; }}");
    let _ = writeln!(
        text,
        "  set special {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {} }}; }}",
        nets.join(", ")
    );
    let mut chain = |head: &str, rules: &[(String, &str, &str)]| {
        let _ = writeln!(text, "  {head}; policy accept;");
        for (matches, verdict, name) in rules {
            let _ = writeln!(text, "    {matches} counter {verdict} comment \"{name}\"");
        }
        text.push_str("  }\n");
    };
    let drop = |matches: &str, name| (format!("{ours} {matches}"), "drop", name);
    chain(
        "chain early { type filter hook prerouting priority raw",
        &[
            drop("meta nfproto != ipv4", "host-ipv6"),
            drop(&format!("ip saddr != {NET}"), "host-spoofed-ip"),
            drop("fib daddr type != unicast", "host-address"),
            drop("ip daddr @special", "host-special"),
        ],
    );
    chain(
        "chain arrival { type filter hook input priority filter",
        &[drop("", "host-input")],
    );
    let theirs = format!("oifname \"{PREFIX}*\"");
    chain(
        "chain through { type filter hook forward priority filter",
        &[
            drop(&theirs, "host-neighbours"),
            drop("ip daddr @special", "host-forward-special"),
            (
                format!("{theirs} ct state {{ established, related }}"),
                "accept",
                "host-inward",
            ),
            (theirs.clone(), "drop", "host-inward-new"),
            (
                format!("iifname @{OPENED} oifname != \"{PREFIX}*\" ct state new ct status != dnat"),
                "drop",
                "host-not-a-router",
            ),
        ],
    );
    chain(
        "chain source { type nat hook postrouting priority srcnat",
        &[(
            format!("ip saddr {NET} oifname != \"{PREFIX}*\""),
            "masquerade",
            "host-masquerade",
        )],
    );
    text.push_str("}\n");
    text
}
