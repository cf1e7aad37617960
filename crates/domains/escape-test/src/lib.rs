//! `omnirun escape-test`: everything that is known to get out of a sandbox's network, tried from inside one.
//!
//! ```text
//!   world      what there is to aim at: names, addresses, ports
//!   attempts   what is tried in each mode, what is expected, what is meant to stop it
//!   attacker   root in a guest: runs one script, which does what its plan says and reports what it saw
//!   capture    reads every frame outside the sandbox, and looks for what the attempts carry
//!   lab        a host with an internet around it, all of them network namespaces
//!   judge      from what was seen to a verdict: pure
//!   report     table, JSON, exit code, what remains
//!   run        puts these together
//! ```
//!
//! The crate knows nothing of VMs. The command gives it an [`Attacker`] (a sandbox in which `python3` runs) and a
//! [`Sandbox`] (that sandbox's rules and log); the tests give it a namespace that plays the guest.
//!
//! **What green means.** Every attempt carries a number of its own, and a capture that has proved that it sees found it
//! nowhere outside, no server of the lab got it, no answer came back, and the rule or the check in the proxy that is meant
//! to stop it did so. Something that was stopped by luck, or by a second wall, is not green. And what the policy lists
//! did work, before all attempts and after them.
//!
//! **Where its packets go.** In a lab ([`lab`]) nowhere. Without one, the few packets of an attempt would go where it
//! aims if it got out: to public resolvers, documentation addresses, the host's own network.

pub mod attacker;
pub mod attempts;
pub mod capture;
pub mod judge;
pub mod lab;
pub mod nonce;
pub mod report;
mod run;
pub mod world;

pub use attacker::{Attacker, AttackerError, Patience};
pub use omnirun_egress_policy::Mode;
pub use report::{Outcome, Report};
pub use run::{Run, RunError, Sandbox};
pub use world::World;
