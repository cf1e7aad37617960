//! What a figure depends on that the figure does not say.

use crate::{HostFacts, Setup};
use omnirun_ids::ByteSize;
use std::fs;

impl HostFacts {
    /// Reads them.
    pub fn gather(setup: &Setup) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib = field(&meminfo, "MemTotal").and_then(|v| v.split(' ').next()?.parse::<u64>().ok());
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let vmm = setup.vmm.facts();
        Self {
            omnirun: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_kib.unwrap_or(0) * 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            governor: governor.ok().map(|g| g.trim().to_owned()),
            vmm: format!("{} {}", vmm.driver, vmm.version),
            accelerator: vmm.accelerator.to_owned(),
            base: setup.image.base_digest.to_string(),
            agent: setup.image.agent_digest.to_string(),
            guest_kernel: setup.image.kernel_release.clone(),
            sandbox: format!("{} vCPU, {}", setup.size.vcpus, setup.size.memory),
        }
    }
}

impl Setup {
    /// The size of disks, for people.
    pub fn disk(&self) -> ByteSize {
        ByteSize(self.disk_bytes)
    }
}
