//! The life of a VM, as a machine without I/O, clock or locks. The owner task of a VM holds one and asks it before it
//! does anything.
//!
//! ```text
//!                 Started            Woken             ClaimBegun           ClaimDone
//!   Creating ------------> Starting -------> Pooled ----------> Claiming -------------> Claimed
//!      |                      |                |                    |                      |
//!      '----------------------+-------- End, or the VMM exits ------+----------------------'
//!                                              v
//!                                           Ending --- Checked ---> Ended
//! ```
//!
//! A cold boot goes from `Starting` straight to its end: nobody ever uses a VM whose memory became a snapshot.
//!
//! What holds in every run, shown by the property tests: a VM is claimed once at most; nothing but its end happens
//! after an end began; the first reason for the end is the one that is kept; `Ended` comes after the teardown's check
//! alone, and nothing comes after it.

mod machine;
mod state;

pub use machine::{Admission, Denial, Event, Machine, Request, Unexpected};
pub use state::{Kind, Phase, State, Why};
