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
//! ```no_run
//! # use omnirun_egress::*; use omnirun_egress_policy::Policy; use std::sync::Arc;
//! # async fn serve(host: Arc<dyn Host>, sockets: Sockets<'_>, policy: &Policy, other: &Policy) -> Result<(), EgressError> {
//! let proxy = Proxy::start(ProxyConfig::default(), host).await?;
//! let attachment = proxy.attach(AttachmentId(1), sockets, policy).await?; // in force
//! attachment.update(other).await?; // in force, for live connections too
//! attachment.detach().await?; // nothing of it is left
//! proxy.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! It never dials an address that the guest chose, save by a rule for an address: it takes the name (of a ClientHello, a
//! `Host` field, a CONNECT), asks the policy, resolves the name itself and dials that. No TLS is ended anywhere.
//!
//! What it cannot see: what is said inside of TLS (another `Host` than the server name, behind a server that serves both);
//! what is said to an address that an entry lists, which is let through as it is; and, for other ports, what is said to
//! the server of the name that was listed for them. What guests can see of each other: how busy the machine is, and what
//! the host's own resolver has in its cache.

mod channel;
pub mod child;
mod counters;
mod owner;

pub use counters::Metrics;
pub use owner::{
    Attachment, AttachmentId, Caps, EgressError, Host, Identity, Proxy, ProxyConfig, Resolvers, Sockets,
};
