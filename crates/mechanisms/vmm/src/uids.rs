//! The user ids that VMs started by root have, one each.

/// First uid for VMs started by root: beyond what distributions and container managers give out, below 2^31.
const FIRST_UID: u32 = 0x7000_0000;
/// How many. Uids are a hash of the sandbox's id: two VMs that meet in one are still kept apart, by Landlock or by their jails.
const UIDS: u32 = 1 << 28;

/// Ids that nobody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UidRange {
    first: u32,
    count: u32,
}

impl UidRange {
    /// Those of this process's user namespace.
    pub(crate) fn here() -> Option<Self> {
        Self::of(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
    }

    /// The ids for VMs, out of those that exist here (root of a container may not have them all).
    fn of(uid_map: &str) -> Option<Self> {
        let parts = uid_map.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().map(|f| f.parse::<u64>().ok());
            let (inside, _, count) = (fields.next()??, fields.next()??, fields.next()??);
            Some(inside..inside + count)
        });
        let mut best: Option<Self> = None;
        for part in parts {
            let (first, end) = (u64::from(FIRST_UID), u64::from(FIRST_UID + UIDS));
            if part.start <= first && part.end >= end {
                return Some(Self {
                    first: FIRST_UID,
                    count: UIDS,
                });
            }
            // The upper half of what there is stays clear of the distribution's own users.
            let first = part.start + (part.end - part.start) / 2;
            if first >= 10_000 && best.is_none() {
                let (first, count) = (u32::try_from(first).ok()?, u32::try_from(part.end - first).ok()?);
                best = Some(Self { first, count });
            }
        }
        best
    }

    /// The one of a sandbox.
    pub(crate) fn pick(self, sandbox: &str) -> u32 {
        self.first + slot(sandbox, self.count)
    }
}

/// A number below `count` for a sandbox.
pub(crate) fn slot(sandbox: &str, count: u32) -> u32 {
    (hash(sandbox) % u64::from(count)) as u32
}

/// FNV-1a: spreads ids over slots; nothing depends on more.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_what_the_host_has() {
        let Some(UidRange { first, count }) = UidRange::of("         0          0 4294967295\n") else {
            panic!()
        };
        assert_eq!((first, count), (FIRST_UID, UIDS));
        let Some(UidRange { first, count }) = UidRange::of("0 100000 65536\n") else {
            panic!()
        };
        assert_eq!((first, count), (32768, 32768));
        assert!(UidRange::of("0 1000 1\n").is_none());
        assert!(UidRange::of("garbage\n").is_none());
    }
}
