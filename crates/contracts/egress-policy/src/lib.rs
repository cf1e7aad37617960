//! What a sandbox may reach: the policy, and the decision for one name or address. Pure.
//!
//! ```text
//!   flag, policy file, presets, the API's fields, a session's metadata
//!        | parse, expand, check                                          [flag, file, preset, spec, target]
//!        v
//!   Policy: layers, each of which has to let a connection through        [policy, layer]
//!        | resolve(name) / name(name, port) / address(address, port)
//!        v
//!   Decision: allow, deny or log; the rule; the reason; limits           [decision]
//!        | one line for each connection                                  [audit]
//!        v
//!   learn: the policy file that a session would have needed              [learn]
//! ```
//!
//! # What a policy means
//!
//! - **Nothing is the default.** No policy is no network card. A policy without entries lets nothing through: an empty
//!   list is not "everything" (CVE-2025-66479 was that).
//! - **Three modes.** `none`: no card. `allow`: what is listed, through the egress proxy. `open`: the public internet.
//! - **A name** without a port is TCP 443 (by the TLS server name) and 80 (by the HTTP host); with a port it is that one.
//!   `*.example.net` is every name below `example.net` and not `example.net` itself. Names are compared in lower case,
//!   without a dot at the end, byte by byte.
//! - **An address or CIDR** without a port is every TCP port.
//! - **Denied wins** over allowed.
//! - **Special-purpose addresses** ([`special`]) are never reached by a name, nor in mode `open`. Private ones are when an
//!   entry lists them, as such: `10.1.2.0/24`, but not `0.0.0.0/0`. Loopback, link-local, metadata and the like never.
//!
//! # Where the public API contradicts itself
//!
//! Its create call has `internet` and `network`. Here: neither is no network. `internet: false` is an air gap, whatever
//! else is given. `network` without `internet` is restricted egress. `internet: true` with a list of what is allowed is
//! restricted to that list; with nothing but denials it is open without them. `sniProxy` asks for what is always so with
//! us, and with `sniProxyLogOnly` everything public passes and is logged with the verdict that it would have had.

mod audit;
mod decision;
mod error;
mod file;
mod flag;
mod index;
mod layer;
mod learn;
mod name;
mod policy;
mod preset;
mod ranges;
mod spec;
mod special;
mod target;
#[cfg(test)]
mod tests;

pub use audit::{AuditLine, Protocol};
pub use decision::{Decision, Limits, Reason, RuleLimits, Verdict};
pub use error::PolicyError;
pub use flag::NetFlag;
pub use ipnet::{IpNet, Ipv4Net};
pub use learn::learn;
pub use name::{BadName, Name};
pub use policy::{Mode, Policy};
pub use preset::{NoPresets, PresetSource};
pub use spec::{NetworkSpec, PolicySpec};
pub use special::{Special, special, special_v4_nets};
