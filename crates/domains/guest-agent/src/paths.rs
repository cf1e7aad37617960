//! Where things are, for PID 1.

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::os::fd::OwnedFd;

/// The cgroup of sandbox processes.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup/sandbox";
/// Where the base is mounted, for PID 1.
pub(crate) const BASE: &str = "/base";
/// Where the session disk is mounted, for PID 1.
pub(crate) const DISK: &str = "/disk";
/// The overlay's upper lower layer.
pub(crate) const LAYER: &str = "/layer";

/// Opens one; no child inherits it.
pub(crate) fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}
