//! What a user of sandboxes asks for.

use crate::{Card, Egress};
use omnirun_ids::ByteSize;
use omnirun_images::Image;
use omnirun_vmm::MachineSize;
use std::{os::fd::OwnedFd, sync::Arc};

/// The most vCPUs that a sandbox can be given: what both VMMs can do.
pub const MAX_VCPUS: u32 = 32;
/// The least memory that a guest boots with.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(128);

/// The smallest session disk that ext4 and an overlay make sense on.
pub const MIN_DISK: ByteSize = ByteSize::mib(64);
/// The largest: formatting takes a sixtieth of it, for a moment, on the host.
pub const MAX_DISK: ByteSize = ByteSize::gib(256);

/// Refuses a disk size before anything is made.
///
/// # Errors
/// [`SizeError::Disk`].
pub fn check_disk(bytes: ByteSize) -> Result<(), SizeError> {
    if (MIN_DISK..=MAX_DISK).contains(&bytes) {
        Ok(())
    } else {
        Err(SizeError::Disk(bytes))
    }
}

/// How large a machine is. Memory is rounded up to a power of two when a snapshot is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SandboxSize {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory: ByteSize,
}

impl Default for SandboxSize {
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory: ByteSize::gib(1),
        }
    }
}

/// Why a size cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No CPUs, or more than a VMM can do.
    #[error("a sandbox has 1 to {MAX_VCPUS} CPUs, not {0}")]
    Vcpus(u32),
    /// Too little to boot.
    #[error("{0} of memory is too little for a sandbox; give at least {MIN_MEMORY}")]
    TooLittle(ByteSize),
    /// Too little or too much disk.
    #[error("a disk has {MIN_DISK} to {MAX_DISK}, not {0}")]
    Disk(ByteSize),
    /// More than the host has.
    #[error("{asked} of memory (a power of two: {rounded}) is more than this host has ({host})")]
    TooMuch {
        /// What was asked for.
        asked: ByteSize,
        /// What it would be.
        rounded: ByteSize,
        /// What there is.
        host: ByteSize,
    },
}

impl SandboxSize {
    /// The machine of this size on a host with so much memory.
    ///
    /// # Errors
    /// [`SizeError`].
    pub fn machine(self, host_memory: ByteSize) -> Result<MachineSize, SizeError> {
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(SizeError::Vcpus(self.vcpus));
        }
        if self.memory < MIN_MEMORY {
            return Err(SizeError::TooLittle(self.memory));
        }
        let rounded = self
            .memory
            .as_mib_ceil()
            .checked_next_power_of_two()
            .filter(|mib| *mib <= u64::MAX >> 20);
        let mib = rounded.unwrap_or(u64::MAX >> 20);
        let bytes = ByteSize::mib(mib);
        if rounded.is_none() || bytes > host_memory {
            return Err(SizeError::TooMuch {
                asked: self.memory,
                rounded: bytes,
                host: host_memory,
            });
        }
        Ok(MachineSize {
            vcpus: self.vcpus,
            memory_mib: mib,
        })
    }
}

/// Who may share memory pages (and with them a side channel): one per environment or API tenant. Clones of different
/// groups are never clones of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IsolationGroup(pub String);

impl IsolationGroup {
    /// The person at this command line.
    pub fn local() -> Self {
        Self("local".to_owned())
    }
}

/// A sandbox to be made.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// What it boots.
    pub image: Arc<Image>,
    /// How large it is.
    pub size: SandboxSize,
    /// Who it may share a snapshot with.
    pub group: IsolationGroup,
    /// The network card that it has.
    pub card: Card,
    /// What it serves, for people: `omnirun run`, a session's id.
    pub purpose: String,
    /// Whether it may be suspended later, which costs less if the VMM counts from the start what it writes.
    pub suspendable: bool,
}

/// What makes a woken clone somebody's.
#[derive(Debug)]
pub struct ClaimSpec {
    /// The session disk, opened for reading and writing. The caller holds its lease.
    pub disk: OwnedFd,
    /// Its size in bytes.
    pub disk_bytes: u64,
    /// Environment of processes and tools, over the template's.
    pub env: Vec<(String, String)>,
    /// Who runs them: `user` or `user:group`; empty: the template's.
    pub user: String,
    /// Their working directory; empty: the template's.
    pub cwd: String,
    /// What it may reach; none: nothing. With a card alone.
    pub egress: Option<Egress>,
    /// What it serves now, for people.
    pub purpose: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(vcpus: u32, memory: ByteSize) -> SandboxSize {
        SandboxSize { vcpus, memory }
    }

    #[test]
    fn memory_is_a_power_of_two() {
        let host = ByteSize::gib(16);
        for (asked, got) in [
            (ByteSize::mib(128), 128),
            (ByteSize::mib(129), 256),
            (ByteSize::gib(1), 1024),
        ] {
            assert_eq!(size(1, asked).machine(host).unwrap().memory_mib, got, "{asked}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused_in_words() {
        let host = ByteSize::gib(3);
        assert_eq!(size(0, ByteSize::gib(1)).machine(host), Err(SizeError::Vcpus(0)));
        assert_eq!(
            size(33, ByteSize::gib(1)).machine(host),
            Err(SizeError::Vcpus(33))
        );
        assert!(matches!(
            size(1, ByteSize(1)).machine(host),
            Err(SizeError::TooLittle(_))
        ));
        for asked in [
            ByteSize(u64::MAX),
            ByteSize::gib(5),
            ByteSize(3 * (1 << 30) - 1),
            ByteSize::gib(1 << 33),
        ] {
            let error = size(1, asked).machine(host).unwrap_err();
            assert!(matches!(error, SizeError::TooMuch { .. }), "{error}");
        }
    }
}
