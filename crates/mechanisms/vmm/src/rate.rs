//! How fast a sandbox's session disk and network card may be.

use std::fmt;

/// What a session disk passes at most, reads and writes together. Without a bound one sandbox that reads or writes without
/// end takes the host's disk and page cache from all others.
///
/// The default is meant for those: what [`DiskRate::BURST`] holds passes at once, which is more than an install, a
/// clone of a repository or a build moves in one go, and beyond that a disk has the speed of a good SATA one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRate {
    /// Bytes a second.
    pub bytes: u64,
    /// Operations a second.
    pub operations: u64,
}

impl DiskRate {
    /// How many seconds' worth may pass at once, after a rest.
    pub const BURST: u64 = 4;
}

impl Default for DiskRate {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            operations: 25_000,
        }
    }
}

impl fmt::Display for DiskRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mib, operations) = (self.bytes >> 20, self.operations);
        write!(f, "{mib} MiB and {operations} operations a second")
    }
}

/// What a network card passes at most, in each direction by itself.
///
/// Behind the card are the kernel's rules and the egress proxy, whose work somebody else's processor time is. The default
/// lets a download have the speed of a good line, and bounds what a guest that sends packets without end can cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardRate {
    /// Bytes a second.
    pub bytes: u64,
    /// Packets a second.
    pub packets: u64,
}

impl CardRate {
    /// How many seconds' worth may pass at once, after a rest.
    pub const BURST: u64 = 1;
}

impl Default for CardRate {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            packets: 100_000,
        }
    }
}

impl fmt::Display for CardRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mib, packets) = (self.bytes >> 20, self.packets);
        write!(f, "{mib} MiB and {packets} packets a second each way")
    }
}
