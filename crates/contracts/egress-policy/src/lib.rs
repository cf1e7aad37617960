//! What a sandbox may reach: the policy, and the decision for one name or address. Pure.
//!
//! ```text
//!   flag, policy file, presets, the API's fields, a session's metadata
//!        | parse, expand, check                                          [flag, file, preset, spec, target]
//!        v
//!   Policy: layers, each of which has to let a connection through        [policy, layer, index, ranges]
//!        | resolve(name) / name(name, port) / address(address, port)
//!        v
//!   Decision: allow, deny or log; the entry; the reason; limits          [decision]
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
//!   without a dot at the end, byte by byte ([`Name`]).
//! - **An address or CIDR** without a port is every TCP port. Sandboxes have no IPv6: an IPv6 entry is read, and no
//!   connection will ever be one of it.
//! - **Denied wins** over allowed, in whatever list, preset or layer. Of what allows, the most particular entry decides on
//!   the bounds: a name before a wildcard, the nearest wildcard and the longest prefix first, an entry with bounds before an
//!   equal one without.
//! - **Special-purpose addresses** ([`special()`]) are never reached by a name, nor in mode `open`. Private ones are when an
//!   entry lists them, as such: `10.1.2.0/24`, but not `0.0.0.0/0`. Loopback, link-local, metadata and the like never: to
//!   list one is an error.
//! - **Names hold for addresses as well.** A sandbox's packets get as far as the proxy only if their destination was
//!   answered for a name that [`Policy::resolve`] allows, or is [`Policy::permitted`]. What the proxy then dials for a name
//!   it resolves itself, and asks [`Policy::may_lead_to`].
//! - **Layers.** A session's metadata, say, is a layer over what the operator allows: [`Policy::tightened`] lets through
//!   what both do, in the stricter mode, under both their bounds. So a layer can only take away.
//! - **Log only** lets everything public through, what is denied included, and says of each connection what the policy in
//!   force would have. It opens nothing that is private. A layer over it that is in force is in force.
//!
//! # Where the public API contradicts itself
//!
//! Its create call has `internet` and `network`, its policy call the fields of `network` alone. Here:
//!
//! | given | mode |
//! | -- | -- |
//! | neither | `none` |
//! | `internet: false`, whatever else | `none` |
//! | `network` alone, also without a list or with an empty one | `allow` |
//! | `internet: true` alone, or with denials alone | `open`, without what is denied |
//! | `internet: true` and a list of what is allowed, also an empty one | `allow` |
//!
//! `allow` is another word for `allowDomains`. Names and addresses are understood in either list. `sniProxy` asks for what
//! is always so with us; with `sniProxyLogOnly` the policy is one that only logs. A policy file that says `internet = true`
//! and lists what is public is an error: a person can be asked what is meant.

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
