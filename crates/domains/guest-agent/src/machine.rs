//! What boot has opened for all that comes after.

use crate::{events::Events, names::Names};
use std::os::fd::OwnedFd;

/// What the machine's parts are, opened.
pub(crate) struct Machine {
    /// Changes of devices: the session disk's new size.
    pub(crate) uevents: Events,
    /// `/sys/block/vdb/size`.
    pub(crate) disk_size: OwnedFd,
    /// `/dev/urandom`.
    pub(crate) random: OwnedFd,
    pub(crate) names: Names,
}
