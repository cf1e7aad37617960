//! One process at a time looks at and changes what the owners' tables say together.
//!
//! The programs that it runs meanwhile are given the lock too, since they go on when it is killed.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::NetError;

/// Of the host, not of a data folder: owners of different folders share its network.
const FILE: &str = "/run/omnirun-net.lock";

/// Waits for the lock; it is held until the result is dropped.
pub(super) fn take() -> Result<OwnedFd, NetError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let step = || NetError::step(format!("locking {FILE}"));
    let file = open(FILE, flags, Mode::RUSR | Mode::WUSR).map_err(step())?;
    flock(&file, FlockOperation::LockExclusive).map_err(step())?;
    Ok(file)
}
