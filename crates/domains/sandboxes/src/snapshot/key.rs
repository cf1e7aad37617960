//! What decides whether a snapshot fits.

use crate::spec::{IsolationGroup, SandboxSpec};
use omnirun_ids::Digest;
use omnirun_vmm::{MachineSize, VmmFacts};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Everything that a snapshot depends on. Disk size is not in it: the disk comes with the claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotKey {
    /// The VMM.
    pub driver: String,
    /// Its version.
    pub driver_version: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The CPU that the guest has seen.
    pub cpu: String,
    /// Digest of the kernel.
    pub kernel: Digest,
    /// Digest of the initramfs, and so of the agent and the modules.
    pub initramfs: Digest,
    /// Digest of the base disk.
    pub base: Digest,
    /// The kernel command line that the image asks for.
    pub cmdline: String,
    /// The devices that the guest has seen.
    pub devices: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whose it is.
    pub group: String,
}

impl SnapshotKey {
    /// The key of the snapshot that this sandbox is to be cloned from.
    pub fn new(spec: &SandboxSpec, machine: MachineSize, cmdline: &str, vmm: &VmmFacts) -> Self {
        let IsolationGroup(group) = &spec.group;
        Self {
            driver: vmm.driver.to_owned(),
            driver_version: vmm.version.clone(),
            accelerator: vmm.accelerator.to_owned(),
            cpu: vmm.cpu.clone(),
            kernel: spec.image.kernel_digest.clone(),
            initramfs: spec.image.initramfs_digest.clone(),
            base: spec.image.base_digest.clone(),
            cmdline: cmdline.to_owned(),
            devices: vmm.devices(spec.card.is_there()),
            vcpus: machine.vcpus,
            memory_mib: machine.memory_mib,
            group: group.clone(),
        }
    }

    /// Its name: a digest of all of it.
    pub fn digest(&self) -> Digest {
        // Field order is that of the struct, so equal keys give equal bytes.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Digest::from(<[u8; 32]>::from(Sha256::digest(&bytes)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key() -> SnapshotKey {
        let digest = |b: u8| Digest::from([b; 32]);
        SnapshotKey {
            driver: "qemu".into(),
            driver_version: "7.2.22".into(),
            accelerator: "tcg".into(),
            cpu: "max".into(),
            kernel: digest(1),
            initramfs: digest(2),
            base: digest(3),
            cmdline: String::new(),
            devices: "base:virtio-blk,session:virtio-blk,agent:virtio-serial,rng:virtio-rng".into(),
            vcpus: 1,
            memory_mib: 1024,
            group: "local".into(),
        }
    }

    #[test]
    fn every_part_matters() {
        let base = key();
        let mut others = Vec::new();
        let mut change = |f: &dyn Fn(&mut SnapshotKey)| {
            let mut k = base.clone();
            f(&mut k);
            others.push(k.digest());
        };
        change(&|k| k.driver = "firecracker".into());
        change(&|k| k.driver_version = "8.0".into());
        change(&|k| k.accelerator = "kvm".into());
        change(&|k| k.cpu = "host".into());
        change(&|k| k.kernel = Digest::from([9; 32]));
        change(&|k| k.initramfs = Digest::from([9; 32]));
        change(&|k| k.base = Digest::from([9; 32]));
        change(&|k| k.cmdline = "x".into());
        change(&|k| k.devices = "x".into());
        change(&|k| k.vcpus = 2);
        change(&|k| k.memory_mib = 2048);
        change(&|k| k.group = "tenant".into());
        others.push(base.digest());
        let n = others.len();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), n);
        assert_eq!(base.digest(), key().digest());
    }
}
