//! What the owner and the child say to each other, and how it is carried.
//!
//! ```text
//!   owner                                   child
//!     | -- Attach, 4 sockets, policy -----> |
//!     | <------------------------ InForce - |
//!     | <------ Answered(addresses, ttl) -- |   a name is about to be answered
//!     | -- Answered(done) ----------------> |   the addresses are let through; the answer goes out
//!     | <------------------ Audit(lines) -- |
//! ```
//!
//! One `SOCK_SEQPACKET` socket: a message is a datagram of JSON of at most [`MAX_MESSAGE`] bytes, descriptors travel
//! with the message that they belong to, and the end of either process is the end of the socket. What may be large (a
//! policy, the table of hosts) is in a sealed memory file that comes along ([`blob`]).
//!
//! Neither end trusts the length of what it gets. The owner, moreover, takes the child for a process that a guest may
//! have taken over: see `owner::link`.

pub(crate) mod blob;
mod message;
mod socket;

pub(crate) use message::{Blob, Event, Order, Resolution};
pub(crate) use socket::{Channel, MAX_MESSAGE, Received, pair};
