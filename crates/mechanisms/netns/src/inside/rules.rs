//! The rules of a sandbox's namespace, as text for `nft`.
//!
//! A pure function of the kind of network and the lists of special addresses: what changes during a sandbox's life is
//! only the elements of the sets. Each rule counts and has a name (its `comment`), and does one thing, so that it can be
//! told which of them stopped an attempt. In the order in which a packet of the guest's meets them:
//!
//! ```text
//!   frame       netdev ingress on the tap: who it claims to be, what it is made of
//!   destination ip prerouting, before connection tracking: where it goes; what goes nowhere leaves no trace
//!   connection  ip prerouting, after it: how many
//!   redirection ip nat prerouting: to the sockets of the proxy
//!   arrival     ip input: only to those sockets
//!   through     ip forward: nothing; with an uplink, to public addresses
//!   departure   ip output: only answers to the guest
//! ```
//!
//! | set | holds | filled |
//! | -- | -- | -- |
//! | `permitted` | addresses that rules of the policy name | with the policy |
//! | `denied` | addresses that it denies | with the policy |
//! | `answered` | addresses that our DNS answered with, each for a time | before each answer |
//! | `web` | ports that the proxy serves in mode open: 80 and 443, or none | with the policy |
//! | `special` | all special-purpose addresses | never changed |
//!
//! A denied destination is refused before connection tracking and a denied flow before the rule that admits established
//! ones, so that a tightened policy ends live flows at once.
//!
//! A refusal is told to the guest (TCP reset, ICMP) where that helps an honest program to go on; it never leaves the tap.

use std::fmt::Write;

use ipnet::Ipv4Net;
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC, PROXY_PORT, TAP, UPLINK};

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

/// Special addresses that no policy permits, ever, besides those that the caller names: link-local ones, where most
/// clouds have their metadata, and those of the clouds that have it elsewhere.
const NEVER: &str = "169.254.0.0/16, 100.100.100.200, 168.63.129.16, 192.0.0.192";

/// All rules of a namespace.
pub(crate) fn rules(kind: Kind, special: &[Special]) -> String {
    let mut text = String::new();
    frame(&mut text);
    let _ = writeln!(text, "table ip {TABLE} {{");
    sets(&mut text, kind, special);
    destination(&mut text, kind, special);
    connection(&mut text);
    redirect(&mut text, kind);
    arrival(&mut text);
    through(&mut text, kind);
    departure(&mut text, kind);
    text.push_str("}\n");
    ipv6(&mut text);
    text
}

/// Begins a base chain.
fn chain(text: &mut String, name: &str, hook: &str, priority: &str, policy: &str) {
    let kind = if priority.ends_with("nat") {
        "nat"
    } else {
        "filter"
    };
    let _ = writeln!(
        text,
        "  chain {name} {{\n    type {kind} hook {hook} priority {priority}; policy {policy};"
    );
}

/// One rule, named.
fn rule(text: &mut String, matches: &str, verdict: &str, name: &str) {
    let space = if matches.is_empty() { "" } else { " " };
    let _ = writeln!(text, "    {matches}{space}counter {verdict} comment \"{name}\"");
}

fn end(text: &mut String) {
    text.push_str("  }\n");
}

fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn frame(text: &mut String) {
    let (guest, gateway) = (mac(GUEST_MAC), mac(GATEWAY_MAC));
    let _ = writeln!(text, "table netdev {TABLE} {{");
    chain(
        text,
        "frame",
        &format!("ingress device \"{TAP}\""),
        "-500",
        "accept",
    );
    let mut drop = |matches: &str, name| rule(text, matches, "drop", name);
    drop(&format!("ether saddr != {guest}"), "spoofed-mac");
    drop("ether type { 8021q, 8021ad }", "vlan");
    drop("ether type ip6", "ipv6");
    drop("ether type != { ip, arp }", "other-ethertype");
    // Of ARP: only a question for the gateway, or an answer to it, in the guest's own name.
    drop(
        "ether type arp arp operation != { request, reply }",
        "arp-operation",
    );
    drop(
        &format!("ether type arp arp saddr ether != {guest}"),
        "arp-spoofed-mac",
    );
    drop(
        &format!("ether type arp arp saddr ip != {GUEST_IP}"),
        "arp-spoofed-ip",
    );
    drop(
        &format!("ether type arp arp daddr ip != {GATEWAY_IP}"),
        "arp-other-target",
    );
    drop(
        "ether type arp limit rate over 10/second burst 20 packets",
        "arp-flood",
    );
    drop(
        &format!("ether type ip ether daddr != {gateway}"),
        "link-broadcast",
    );
    drop(&format!("ip saddr != {GUEST_IP}"), "spoofed-ip");
    // Options are for source routes and their like; TCP never needs fragments, and in pieces nothing can be judged.
    drop("ip hdrlength != 5", "ip-options");
    drop("ip frag-off & 0x3fff != 0", "fragment");
    end(text);
    text.push_str("}\n");
}

fn sets(text: &mut String, kind: Kind, special: &[Special]) {
    let mut set = |name: &str, body: &str| {
        let _ = writeln!(text, "  set {name} {{ {body} }}");
    };
    set(PERMITTED, "type ipv4_addr; flags interval;");
    set(DENIED, "type ipv4_addr; flags interval;");
    match kind {
        Kind::Restricted => set(
            ANSWERED,
            &format!("type ipv4_addr; flags timeout; size {ANSWERED_MAX};"),
        ),
        Kind::Open => {
            set(WEB, "type inet_service; size 16;");
            let nets: Vec<Ipv4Net> = special
                .iter()
                .flat_map(|special| special.nets.iter().copied())
                .collect();
            set(
                "special",
                &format!("type ipv4_addr; flags interval; auto-merge;{}", elements(&nets)),
            );
        }
    }
}

/// What a set holds from the start; an empty list is no list for `nft`.
fn elements(nets: &[Ipv4Net]) -> String {
    if nets.is_empty() {
        return String::new();
    }
    let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
    format!(" elements = {{ {} }};", nets.join(", "))
}

fn destination(text: &mut String, kind: Kind, special: &[Special]) {
    chain(text, "destination", "prerouting", "raw", "accept");
    let _ = writeln!(text, "    iifname != \"{TAP}\" return");
    let mut rule = |matches: &str, verdict, name: &str| rule(text, matches, verdict, name);
    rule(&format!("ip daddr {{ {NEVER} }}"), "drop", "metadata");
    rule(&format!("ip daddr @{DENIED}"), "drop", "denied");
    let gateway = format!("ip daddr {GATEWAY_IP}");
    rule(
        &format!("{gateway} meta l4proto {{ tcp, udp }} th dport {DNS_PORT}"),
        "accept",
        "dns-at-gateway",
    );
    rule(
        &format!("{gateway} tcp dport {PROXY_PORT}"),
        "accept",
        "proxy-at-gateway",
    );
    rule(&gateway, "drop", "gateway-port");
    for special in special {
        let nets = special
            .nets
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        if !nets.is_empty() {
            let matches = format!("ip daddr {{ {nets} }} ip daddr != @{PERMITTED}");
            rule(&matches, "drop", &format!("special-{}", special.name));
        }
    }
    rule(
        &format!("meta l4proto {{ tcp, udp }} th dport {DNS_PORT}"),
        "accept",
        "dns-elsewhere",
    );
    match kind {
        Kind::Restricted => {
            rule(
                &format!("meta l4proto tcp ip daddr @{PERMITTED}"),
                "accept",
                "permitted",
            );
            rule(
                &format!("meta l4proto tcp ip daddr @{ANSWERED}"),
                "accept",
                "answered",
            );
            rule("meta l4proto tcp", "reject with tcp reset", "unlisted-tcp");
            rule("meta l4proto udp", "reject with icmp admin-prohibited", "udp");
            rule("meta l4proto icmp", "drop", "icmp");
            rule("", "drop", "other-protocol");
        }
        Kind::Open => {
            rule("icmp type != echo-request", "drop", "icmp-other");
            rule("meta l4proto != { tcp, udp, icmp }", "drop", "other-protocol");
        }
    }
    end(text);
}

fn connection(text: &mut String) {
    chain(text, "connection", "prerouting", "mangle", "accept");
    let _ = writeln!(text, "    iifname != \"{TAP}\" return");
    // A connection of before (of a guest that was asleep, say) is answered, so that its owner makes a new one.
    rule(
        text,
        "ct state invalid meta l4proto tcp",
        "reject with tcp reset",
        "stale-tcp",
    );
    rule(text, "ct state invalid", "drop", "invalid");
    rule(
        text,
        "ct state new limit rate over 200/second burst 2000 packets",
        "drop",
        "connection-rate",
    );
    rule(text, "ct state new ct count over 4096", "drop", "connection-cap");
    end(text);
}

fn redirect(text: &mut String, kind: Kind) {
    chain(text, "redirection", "prerouting", "dstnat", "accept");
    let _ = writeln!(text, "    iifname != \"{TAP}\" return");
    let dns = format!("redirect to :{DNS_PORT}");
    let proxy = format!("redirect to :{TRANSPARENT_PORT}");
    rule(text, &format!("udp dport {DNS_PORT}"), &dns, "redirect-dns-udp");
    rule(text, &format!("tcp dport {DNS_PORT}"), &dns, "redirect-dns-tcp");
    rule(text, &format!("ip daddr {GATEWAY_IP}"), "return", "to-gateway");
    match kind {
        Kind::Restricted => {
            rule(
                text,
                &format!("meta l4proto tcp ip daddr @{PERMITTED}"),
                &proxy,
                "redirect-permitted",
            );
            rule(
                text,
                &format!("meta l4proto tcp ip daddr @{ANSWERED}"),
                &proxy,
                "redirect-answered",
            );
        }
        Kind::Open => {
            // What is special and permitted is not for the kernel to forward: the proxy dials it.
            let special = format!("meta l4proto tcp ip daddr @special ip daddr @{PERMITTED}");
            rule(text, &special, &proxy, "redirect-permitted");
            rule(text, &format!("tcp dport @{WEB}"), &proxy, "redirect-web");
        }
    }
    end(text);
    if kind == Kind::Open {
        chain(text, "source", "postrouting", "srcnat", "accept");
        rule(text, &format!("oifname \"{UPLINK}\""), "masquerade", "masquerade");
        end(text);
    }
}

fn arrival(text: &mut String) {
    chain(text, "arrival", "input", "filter", "drop");
    rule(text, &format!("iifname != \"{TAP}\""), "drop", "input-elsewhere");
    let port = |protocol, port| format!("ip daddr {GATEWAY_IP} {protocol} dport {port}");
    rule(text, &port("udp", DNS_PORT), "accept", "input-dns-udp");
    rule(text, &port("tcp", DNS_PORT), "accept", "input-dns-tcp");
    rule(text, &port("tcp", PROXY_PORT), "accept", "input-proxy");
    let transparent = format!("{} ct status dnat", port("tcp", TRANSPARENT_PORT));
    rule(text, &transparent, "accept", "input-transparent");
    rule(text, "", "drop", "input-other");
    end(text);
}

fn through(text: &mut String, kind: Kind) {
    chain(text, "through", "forward", "filter", "drop");
    if kind == Kind::Open {
        // Of flows that were there before the policy was changed, both directions end.
        rule(
            text,
            &format!("ct original ip daddr @{DENIED}"),
            "drop",
            "denied-flow",
        );
        rule(
            text,
            &format!("iifname \"{TAP}\" tcp dport @{WEB}"),
            "drop",
            "web-past-proxy",
        );
        rule(
            text,
            &format!("iifname \"{UPLINK}\" tcp sport @{WEB}"),
            "drop",
            "web-past-proxy-reply",
        );
        rule(
            text,
            &format!("iifname \"{TAP}\" ip daddr @special"),
            "drop",
            "forward-special",
        );
        // Paths on which nobody tells how large a packet may be: TCP is told at its start.
        let mss = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu";
        let _ = writeln!(text, "    oifname \"{UPLINK}\" {mss}");
        let too_big = format!("iifname \"{UPLINK}\" icmp type destination-unreachable icmp code frag-needed");
        rule(
            text,
            &format!("{too_big} ct state related"),
            "accept",
            "inward-too-big",
        );
        rule(
            text,
            &format!("iifname \"{UPLINK}\" ip saddr @special"),
            "drop",
            "inward-special",
        );
        let inward = format!("iifname \"{UPLINK}\" oifname \"{TAP}\"");
        rule(
            text,
            &format!("{inward} ct state established"),
            "accept",
            "inward",
        );
        let unreachable = format!("{inward} ct state related icmp type destination-unreachable");
        rule(text, &unreachable, "accept", "inward-unreachable");
        let outward = format!("iifname \"{TAP}\" oifname \"{UPLINK}\" ct state {{ new, established }}");
        rule(text, &outward, "accept", "outward");
    }
    rule(text, "", "drop", "forward-other");
    end(text);
}

fn departure(text: &mut String, kind: Kind) {
    chain(text, "departure", "output", "filter", "drop");
    if kind == Kind::Open {
        rule(text, &format!("oifname \"{UPLINK}\""), "drop", "output-uplink");
    }
    let answer = format!("oifname \"{TAP}\" ip daddr {GUEST_IP}");
    rule(
        text,
        &format!("{answer} ct direction reply ct state established"),
        "accept",
        "answer",
    );
    // Refusals: of what was not tracked, and of a port where nobody listens any more.
    rule(
        text,
        &format!("{answer} tcp flags & rst == rst"),
        "accept",
        "refusal-tcp",
    );
    let icmp = "icmp type { destination-unreachable, time-exceeded }";
    rule(text, &format!("{answer} {icmp}"), "accept", "refusal-icmp");
    rule(text, "", "drop", "output-other");
    end(text);
}

/// No IPv6 gets this far: it is off, and dropped as a frame. Should either fail, there is nothing here to pass.
fn ipv6(text: &mut String) {
    let _ = writeln!(text, "table ip6 {TABLE} {{");
    chain(text, "arrival6", "prerouting", "raw", "drop");
    end(text);
    chain(text, "departure6", "output", "raw", "drop");
    end(text);
    text.push_str("}\n");
}
