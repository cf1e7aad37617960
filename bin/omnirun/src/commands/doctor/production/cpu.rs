//! What the CPU shares between guests, and what the kernel does against it.

use super::{Driver, Facts, Finding, Line};

const SMT: Line = Line(13, "sibling threads (SMT)");
const MICROCODE: Line = Line(16, "microcode");
const ARM_COUNTER: Line = Line(17, "physical counter (ARM)");
const VULNERABILITIES: Line = Line(18, "CPU vulnerabilities");
const CREATE_VM: Line = Line(19, "time to create a VM");

pub(super) fn findings(facts: &Facts, driver: &Driver) -> [Finding; 5] {
    [
        smt(facts),
        microcode(facts),
        arm_counter(facts),
        vulnerabilities(facts),
        create_vm(facts, driver),
    ]
}

fn smt(facts: &Facts) -> Finding {
    match facts.smt.as_deref() {
        Some("1") => SMT
            .warn("on: two guests on sibling threads share caches. Off is for hosts whose sandboxes distrust each other")
            .mend("echo off > /sys/devices/system/cpu/smt/control; for good: nosmt on the kernel command line"),
        Some(_) if facts.virtual_machine() => {
            SMT.ok("off, as far as this virtual machine sees; what its provider does it cannot tell")
        }
        Some(_) => SMT.ok("off"),
        None => SMT.not_applicable("this kernel does not say"),
    }
}

fn microcode(facts: &Facts) -> Finding {
    let lacking: Vec<_> = facts
        .vulnerabilities
        .iter()
        .filter(|(name, text)| {
            text.contains("no microcode") || (*name == "old_microcode" && text.starts_with("Vulnerable"))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let (package, ours) = match facts.cpuinfo.as_deref().unwrap_or_default() {
        info if info.contains("GenuineIntel") => ("intel-microcode", "intel-ucode"),
        info if info.contains("AuthenticAMD") => ("amd64-microcode", "amd-ucode"),
        _ => return MICROCODE.not_applicable("no CPU whose microcode a kernel loads"),
    };
    if facts.virtual_machine() {
        return match lacking.is_empty() {
            true => MICROCODE.not_applicable("this host is a virtual machine: its provider loads it"),
            false => MICROCODE
                .warn(format!(
                    "the kernel misses an update (see {})",
                    lacking.join(", ")
                ))
                .mend("the provider of this virtual machine loads microcode: ask there, or move"),
        };
    }
    if !lacking.is_empty() {
        return MICROCODE
            .warn(format!(
                "the kernel misses an update (see {})",
                lacking.join(", ")
            ))
            .mend(format!(
                "apt-get install {package}, and a reboot; else an update of the firmware"
            ))
            .serious();
    }
    match facts.microcode.contains(&ours) {
        true => MICROCODE.ok("updates are installed, and the kernel misses none"),
        false => MICROCODE
            .warn("no updates are installed that a kernel could load when it boots")
            .mend(format!("apt-get install {package}, and a reboot")),
    }
}

fn arm_counter(facts: &Facts) -> Finding {
    if facts.arch != "aarch64" {
        return ARM_COUNTER.not_applicable("for ARM only");
    }
    match facts.kernel_version() {
        Some(version) if version >= (6, 4) => ARM_COUNTER.ok("a guest's counter begins with the guest"),
        _ => ARM_COUNTER
            .warn("a guest reads the host's own counter: needs Linux 6.4")
            .mend("a newer kernel"),
    }
}

fn vulnerabilities(facts: &Facts) -> Finding {
    if facts.vulnerabilities.is_empty() {
        return VULNERABILITIES.not_applicable("this kernel does not list them");
    }
    let open: Vec<_> = facts
        .vulnerabilities
        .iter()
        .filter(|(_, text)| text.starts_with("Vulnerable") || text.contains("KVM: Vulnerable"))
        .map(|(name, _)| name.as_str())
        .collect();
    let known = facts.vulnerabilities.len();
    if open.is_empty() {
        return VULNERABILITIES.ok(format!("of {known} that the kernel knows none is open"));
    }
    let reason = format!(
        "of {known} that the kernel knows open: {} (/sys/devices/system/cpu/vulnerabilities)",
        open.join(", ")
    );
    let off = facts.boot_words().find(|w| *w == "mitigations=off");
    let mend = match off {
        Some(word) => format!("take {word} off the kernel command line, and a reboot"),
        None => "newest kernel and microcode, and a reboot; then see what spectre-meltdown-checker says"
            .to_owned(),
    };
    VULNERABILITIES.warn(reason).mend(mend).serious()
}

fn create_vm(facts: &Facts, driver: &Driver) -> Finding {
    if facts.arch != "x86_64" {
        return CREATE_VM.not_applicable("for x86-64 only");
    }
    if !driver.kvm {
        return CREATE_VM.not_applicable("sandboxes do not run on KVM here");
    }
    if facts.kernel_version().is_some_and(|v| v < (6, 1)) {
        return CREATE_VM.ok("came with Linux 6.1, this one is older");
    }
    let itlb = facts.vulnerabilities.get("itlb_multihit").map(String::as_str);
    let unaffected = itlb.is_some_and(|text| text.starts_with("Not affected"));
    let never = facts.kvm_nx.as_deref() == Some("never");
    let favors = favors_writers(facts);
    match (never, unaffected) {
        (true, false) => CREATE_VM
            .warn("nx_huge_pages=never, and the kernel does not say that this CPU is unaffected by iTLB multihit: a guest may hang the host")
            .mend("modprobe kvm nx_huge_pages=auto, and favordynmods instead")
            .serious(),
        (true, true) => CREATE_VM.ok("nx_huge_pages=never, and this CPU is not affected by iTLB multihit"),
        (false, _) if favors => CREATE_VM.ok("cgroups favour moves between them (favordynmods)"),
        (false, true) => CREATE_VM
            .warn("each VM waits for a thread of KVM's to move between cgroups, milliseconds since Linux 6.1")
            .mend("echo 'options kvm nx_huge_pages=never' > /etc/modprobe.d/kvm-nx.conf, and load kvm anew (this CPU is not affected by iTLB multihit)"),
        (false, false) => CREATE_VM
            .warn("each VM waits for a thread of KVM's to move between cgroups, milliseconds since Linux 6.1")
            .mend("mount -o remount,favordynmods /sys/fs/cgroup"),
    }
}

fn favors_writers(facts: &Facts) -> bool {
    let mounted = facts.mounts.as_deref().unwrap_or_default().lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|kind| kind.starts_with("cgroup"))
            && fields
                .get(3)
                .is_some_and(|options| options.split(',').any(|o| o == "favordynmods"))
    });
    let booted = facts
        .boot_words()
        .filter_map(|word| word.strip_prefix("cgroup_favordynmods="))
        .any(|value| matches!(value, "1" | "true" | "y" | "on"));
    mounted || booted
}
