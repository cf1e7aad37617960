//! System calls that no safe crate offers as we need them, each behind a small safe function.
//!
//! This is the only crate with `unsafe` in it. Every block says which conditions it relies on and which line
//! establishes them. What `rustix` offers safely is not wrapped again here.
//!
//! ```text
//!   host    for programs on the host: starting a VMM, the KVM probe     (feature `host`)
//!   guest   for PID 1 and its children inside a microVM
//! ```

mod clone;
pub mod guest;
#[cfg(feature = "host")]
pub mod host;
