//! What becomes of guests' memory: swap, merged pages, the chips.

use super::{Facts, Finding, Line, facts::swap_devices};

const SWAP: Line = Line(12, "swap");
const KSM: Line = Line(14, "merged pages (KSM)");
const CHIPS: Line = Line(15, "error-correcting memory");

pub(super) fn findings(facts: &Facts) -> [Finding; 3] {
    [swap(facts), ksm(facts), chips(facts)]
}

fn swap(facts: &Facts) -> Finding {
    let Some(swaps) = &facts.swaps else {
        return SWAP.not_applicable("/proc/swaps cannot be read");
    };
    let plain: Vec<_> = swap_devices(swaps)
        .filter(|device| {
            let encrypted = facts
                .swap_mappings
                .get(*device)
                .is_some_and(|uuid| uuid.starts_with("CRYPT-"));
            !encrypted && !device.starts_with("/dev/zram")
        })
        .collect();
    if !plain.is_empty() {
        return SWAP
            .warn(format!(
                "guest memory may be written to {} in the clear, and stays there",
                plain.join(", ")
            ))
            .mend("swapoff --all, and take the line out of /etc/fstab; or swap to a dm-crypt device with a random key");
    }
    match swap_devices(swaps).count() {
        0 => SWAP.ok("none: guest memory stays in memory"),
        _ => SWAP.ok("in memory or encrypted"),
    }
}

fn ksm(facts: &Facts) -> Finding {
    let pages = facts
        .ksm_pages
        .as_deref()
        .and_then(|p| p.parse::<u64>().ok())
        .unwrap_or(0);
    let mend = "echo 2 > /sys/kernel/mm/ksm/run, and stop ksmtuned if it runs";
    match facts.ksm.as_deref() {
        None => KSM.ok("this kernel has none"),
        Some("1") => KSM
            .warn("on: by the time of a write a VM learns what is in another's memory")
            .mend(mend)
            .serious(),
        Some("0") if pages > 0 => KSM
            .warn(format!("stopped, but {pages} pages are still merged"))
            .mend(mend),
        Some(_) => KSM.ok("off"),
    }
}

fn chips(facts: &Facts) -> Finding {
    if facts.virtual_machine() {
        return CHIPS.not_applicable("this host is a virtual machine: its memory is its provider's matter");
    }
    if facts.edac > 0 {
        return CHIPS.ok(format!(
            "{} memory controllers report errors; that the modules refresh targeted rows (TRR) is for their vendor to say",
            facts.edac
        ));
    }
    // Offset 5: what the array is used for, 3 being system memory; offset 6: its error correction.
    let correction: Vec<u8> = facts
        .memory_arrays
        .iter()
        .filter(|raw| raw.get(5) == Some(&3))
        .filter_map(|raw| raw.get(6).copied())
        .collect();
    match correction.as_slice() {
        [] => CHIPS.not_applicable("cannot be told from here; as root, dmidecode --type 16 may say it"),
        all if all.iter().all(|kind| (5..=7).contains(kind)) => CHIPS.ok(
            "the firmware says that memory corrects errors; that the modules refresh targeted rows (TRR) is for their \
             vendor to say",
        ),
        all if all.contains(&3) => CHIPS
            .warn("the firmware says that memory does not correct errors: a guest may flip bits of others (Rowhammer)")
            .mend("other hardware: ECC modules, DDR4 or later with TRR"),
        _ => CHIPS.not_applicable("the firmware does not say whether memory corrects errors"),
    }
}
