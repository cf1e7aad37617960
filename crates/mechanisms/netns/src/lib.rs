//! Network namespaces for sandboxes.
//!
//! ```text
//!   guest --- VMM --- tap0 [ rules, four sockets ]                       restricted: that is all
//!                     tap0 [ rules, four sockets ] up0 --- omr<N> [ table ] uplink    open
//!                     '---- a namespace ---------'         '---- the host's -----'
//! ```
//!
//! A sandbox with a network card has a namespace of its own, with the same addresses in all of them
//! (`omnirun-guest-net`), so that the clones of one snapshot need no configuration and cannot see each other. In a
//! *restricted* one there is no way out: the sockets inside are served by the proxy, a process of the host's namespace,
//! and what that dials for the guest is all that leaves. An *open* one also has a pair of links to the host, and its
//! kernel forwards to public addresses.
//!
//! **Lives.** A namespace has no name and no mount: it is there for as long as a descriptor, a socket or a VMM's tap
//! holds it, and when the last of them is closed, whoever died how, the kernel removes it with links, rules and
//! connections. In the host's namespace there are only the links `omr<N>`, which go with their other end, and one table
//! for each owner, which a later owner finds by its name ([`sweep`]).
//!
//! **Threads.** A thread enters a namespace only to make it, or to run `nft` in it for a listing, and it ends with that
//! (`omnirun_sys::host::net`). Afterwards a sandbox's sets are changed through a netlink socket that was opened inside.
//!
//! **Cost.** A namespace takes some 10 ms to make, so there is a pool of each kind, refilled whenever one was taken;
//! [`Networks::take`] then costs next to nothing, and [`Namespace::apply`] well under a millisecond, also among hundreds
//! of others (`examples/netns_bench.rs`). A used namespace is never used again. Each takes 2 MB of the kernel's memory and
//! six descriptors of its owner's.
//!
//! ```text
//!   networks    Networks: the pool, one for each owner process
//!   namespace   Namespace: what a sandbox holds; its sets
//!   inside      how a namespace is made: settings, tap, rules, sockets
//!   host        the host's side of the open ones: table, links, forwarding, orphans
//!   netlink     messages to the kernel: links, sets
//!   nft         running `nft`
//!   ruleset     the rules, and how often each was met
//!   check       whether all this can be had here
//! ```
//!
//! All of it needs root. Tests do nothing without it, and say so.

mod check;
mod error;
mod host;
mod inside;
mod namespace;
mod netlink;
mod networks;
mod nft;
mod ruleset;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use ipnet::Ipv4Net;

pub use self::{
    check::{Check, check, problem},
    error::NetError,
    inside::Sockets,
    namespace::{Namespace, NamespaceId},
    networks::{Networks, NetworksConfig, Ready, sweep},
    ruleset::RuleState,
};

/// What a namespace leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing but its own sockets.
    Restricted,
    /// Also to public addresses, by the host's uplink.
    Open,
}

/// Addresses that are special in one way: a guest does not reach them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Special {
    /// Ends the name of the rule that drops them, `special-NAME`: lower-case letters, digits and `-`.
    pub name: String,
    /// Which they are.
    pub nets: Vec<Ipv4Net>,
    /// Whether a guest reaches those that its policy permits ([`Namespace::apply`]). Else it never does, whatever the
    /// policy says.
    pub permittable: bool,
}
