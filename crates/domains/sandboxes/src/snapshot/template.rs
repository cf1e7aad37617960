//! A snapshot opened by this process.

use super::{Found, SnapshotKey};
use omnirun_ids::Digest;
use omnirun_images::Image;
use omnirun_vmm::MachineSize;
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

/// A snapshot opened by this process, ready to be cloned. Its files stay usable for as long as this lives, even if the
/// snapshot is evicted meanwhile.
#[derive(Debug)]
pub struct Template {
    pub(crate) digest: Digest,
    pub(crate) key: SnapshotKey,
    pub(crate) image: Arc<Image>,
    pub(crate) machine: MachineSize,
    pub(crate) created_ms: i64,
    /// One sealed copy (or read-only file) for all clones of this process: they share its pages.
    pub(crate) memory: Arc<OwnedFd>,
    state: File,
}

impl Template {
    pub(crate) fn new(
        found: &Found,
        key: SnapshotKey,
        image: Arc<Image>,
        memory: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let machine = MachineSize {
            vcpus: key.vcpus,
            memory_mib: key.memory_mib,
        };
        Ok(Self {
            digest: found.digest.clone(),
            machine,
            created_ms: found.created_ms,
            memory,
            state: File::open(&found.state)?,
            key,
            image,
        })
    }

    /// The name of the snapshot: its key's digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The image that was booted.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The machine, memory rounded up.
    pub fn machine(&self) -> MachineSize {
        self.machine
    }

    /// The device state, with a file position of its own: clones that load at the same time read the same file.
    pub(crate) fn open_state(&self) -> io::Result<Arc<OwnedFd>> {
        let path = format!("/proc/self/fd/{}", self.state.as_raw_fd());
        Ok(Arc::new(OwnedFd::from(File::open(path)?)))
    }
}
