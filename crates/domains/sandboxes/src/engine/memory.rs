//! The host's memory.

use omnirun_ids::ByteSize;

/// What `/proc/meminfo` says.
pub(super) struct HostMemory {
    pub(super) total: ByteSize,
    pub(super) available: ByteSize,
}

impl HostMemory {
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok())
        };
        // Without the file nothing is refused here; the VMM will.
        let total = kib("MemTotal").map_or(u64::MAX, |k| k.saturating_mul(1024));
        let available = kib("MemAvailable").map_or(0, |k| k.saturating_mul(1024));
        Self {
            total: ByteSize(total),
            available: ByteSize(available),
        }
    }
}
