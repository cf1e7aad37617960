//! For programs on the host.
//!
//! ```text
//!   net         network namespaces and taps
//!   spawn       a process with exactly the descriptors, identity and limits it is named
//!   packet      packet sockets
//!   landlock    which files a confined program may open
//!   ready       a descriptor in the async runtime
//!   kvm_probe   runs a guest of a few instructions, to see whether a stock kernel could run
//! ```

pub mod kvm_probe;
pub mod landlock;
pub mod net;
pub mod packet;
pub mod ready;
pub mod spawn;
