//! The egress proxy: what a guest's connections go through when it may reach some names and nothing else.
//!
//! ```text
//!   guest --- tap --- namespace without uplink                    host's namespace
//!                       DNS, transparent TCP,    descriptors       the child ([`child`]): parses, decides, resolves
//!                       explicit proxy: sockets ------------------>  by name, dials, copies bytes
//!                       nft set of addresses <--- owner ([`Proxy`]) <-- "these addresses were answered", audit lines
//! ```
//!
//! - [`Proxy`], in the owner, starts the child, hands it sockets and policies, starts it again when it dies, and then
//!   attaches everything anew. What the child needs done it asks for through [`Host`].
//! - [`child::main`] is the child: one process for all guests of an owner, without rights, files or environment. It
//!   parses what guests send, so it is trusted by nobody: what it says to the owner is bounded and checked.
//!
//! It never dials an address that the guest chose, save by a rule for an address: it takes the name (of a ClientHello, a
//! `Host` field, a CONNECT), asks the policy, resolves the name itself and dials that. No TLS is ended anywhere.

mod channel;
pub mod child;
mod counters;
mod owner;

pub use counters::Metrics;
pub use owner::{
    Attachment, AttachmentId, Caps, EgressError, Host, Identity, Proxy, ProxyConfig, Resolvers, Sockets,
};
