//! Which system calls a Firecracker process may make.
//!
//! ```text
//!   filter   ours, for a program that has none of its own
//!   state    whether a process filters
//! ```
//!
//! A release has its filters built in, one for each kind of thread. A build for the gnu target has some that let everything
//! through, since what the GNU C library calls is not what musl calls: such a build is told by its C library, and is given
//! our filter. (A debug build for musl lets everything through as well and is not told from a release.)
//!
//! What the filter does not name ends the process: Firecracker catches the signal, logs the call's number and exits.

mod filter;
mod state;

pub(super) use filter::compile;
pub(super) use state::{is_on, unfiltered};
