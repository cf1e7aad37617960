//! Where the cards of an owner's sandboxes lead: a namespace each, one egress proxy for all of them, and the audit log.
//!
//! ```text
//!   sandboxes ---- plug(card) --> Port ---- a namespace out of the pool                        (omnirun_netns)
//!                  admit(egress)   |------- its addresses: what is denied, permitted, answered
//!                  pull            |------- an attachment of the proxy, with the policy        (omnirun_egress)
//!                                  '------- a task that puts each new policy in force
//!   the proxy ---- answered ------> the port's namespace         [ports]
//!             ---- audit ---------> audit/<subject>.jsonl        [audit]
//! ```
//!
//! Namespaces and proxy are made with the first card: an owner whose sandboxes have none pays nothing, and needs no right
//! that only networks need.
//!
//! A port is shut when it is plugged: nobody serves its sockets, and in an open one every address is denied. A policy that
//! allows less than the card could (an open card whose policy was tightened while its sandbox lives) shuts the way of the
//! kernel again; one that allows more than the card can is held to what the card can.

mod audit;
mod network;
mod owners;
mod port;
mod ports;

pub use network::OwnerNetwork;
pub use owners::sweep;
