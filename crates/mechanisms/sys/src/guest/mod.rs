//! For PID 1 and its children inside a microVM.
//!
//! ```text
//!   spawn    a program in the sandbox's namespaces and cgroup, or a copy of ourselves there
//!   own      what a process of ours changes about itself
//!   wait     how a child ended, and what it used
//!   random   crediting and reseeding the kernel's generator
//!   net      the loopback interface
//!   vsock    sockets between a microVM and its host
//! ```

pub mod net;
pub mod own;
pub mod random;
pub mod spawn;
pub mod vsock;
pub mod wait;
