//! What the host is like: none of this keeps a sandbox from running. The second half is the part of Firecracker's
//! checklist for production hosts that concerns any VMM.

use super::report::Check;
use std::{fs, path::Path};

/// All of them.
pub fn checks() -> Vec<Check> {
    let root = rustix::process::geteuid().is_root();
    let read = |path: &str| fs::read_to_string(path).ok().map(|t| t.trim().to_owned());
    let mut checks = vec![memory(&read("/proc/meminfo").unwrap_or_default())];
    if !root {
        checks.push(user_namespaces(
            read("/proc/sys/user/max_user_namespaces").as_deref(),
            read("/proc/sys/kernel/unprivileged_userns_clone").as_deref(),
            read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref(),
        ));
    }
    checks.push(cgroups(Path::new("/sys/fs/cgroup/cgroup.controllers").exists()));
    checks.push(Check::ok(
        "kernel",
        read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
    ));
    checks.push(swap(&read("/proc/swaps").unwrap_or_default()));
    checks.push(switch(
        "SMT",
        read("/sys/devices/system/cpu/smt/active").as_deref(),
        "sibling threads share caches: tenants that distrust each other want it off",
        "echo off > /sys/devices/system/cpu/smt/control",
    ));
    checks.push(switch(
        "KSM",
        read("/sys/kernel/mm/ksm/run").as_deref(),
        "merged pages tell one VM what is in another's memory",
        "echo 2 > /sys/kernel/mm/ksm/run",
    ));
    checks.push(vulnerabilities(Path::new(
        "/sys/devices/system/cpu/vulnerabilities",
    )));
    checks
}

fn memory(meminfo: &str) -> Check {
    let kib = |name: &str| -> u64 {
        let line = meminfo
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    let (total, available) = (kib("MemTotal") << 10, kib("MemAvailable") << 10);
    let text = format!(
        "{} available of {}",
        omnirun_ids::ByteSize(available),
        omnirun_ids::ByteSize(total)
    );
    if available < 1 << 30 {
        return Check::warn(
            "memory",
            format!("{text}: too little for a sandbox of the default size (1 GiB)"),
        )
        .mend("omnirun run --memory 512M ...");
    }
    Check::ok("memory", text)
}

fn user_namespaces(max: Option<&str>, clone: Option<&str>, apparmor: Option<&str>) -> Check {
    let name = "user namespaces";
    if max == Some("0") {
        return Check::warn(name, "switched off; image builds and per-VM uids need them")
            .mend("sudo sysctl -w user.max_user_namespaces=15000");
    }
    if clone == Some("0") {
        return Check::warn(name, "for root only; image builds and per-VM uids need them")
            .mend("sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if apparmor == Some("1") {
        return Check::warn(
            name,
            "restricted by AppArmor; image builds and per-VM uids need them",
        )
        .mend("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    }
    Check::ok(name, "allowed")
}

fn cgroups(unified: bool) -> Check {
    match unified {
        true => Check::ok(
            "cgroups",
            "version 2. Limits are set per process, and VMMs are ended through their pidfd",
        ),
        false => Check::ok(
            "cgroups",
            "version 1 or hybrid. Limits are set per process, and VMMs are ended through their pidfd",
        ),
    }
}

fn swap(swaps: &str) -> Check {
    match swaps.lines().skip(1).filter(|l| !l.contains("zram")).count() {
        0 => Check::ok("swap", "none: guest memory stays in memory"),
        _ => Check::warn("swap", "guest memory may be written to disk").mend("swapoff -a"),
    }
}

fn switch(name: &'static str, value: Option<&str>, meaning: &str, mend: &str) -> Check {
    match value {
        Some("1") => Check::warn(name, format!("on: {meaning}")).mend(mend),
        Some(_) => Check::ok(name, "off"),
        None => Check::ok(name, "not on this host"),
    }
}

fn vulnerabilities(folder: &Path) -> Check {
    let name = "CPU vulnerabilities";
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let open: Vec<String> = entries
        .filter(|e| fs::read_to_string(e.path()).is_ok_and(|t| t.starts_with("Vulnerable")))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    match open.is_empty() {
        true => Check::ok(name, "none that the kernel knows to be open"),
        false => Check::warn(
            name,
            format!("open: {}. Update kernel and microcode", open.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::Status, *};

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let check = memory("MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n");
        assert_eq!(check.status, Status::Ok);
        assert_eq!(
            memory("MemTotal: 8000000 kB\nMemAvailable: 9 kB\n").status,
            Status::Warn
        );
        assert_eq!(memory("").status, Status::Warn);
    }

    #[test]
    fn each_lock_on_user_namespaces_has_its_key() {
        assert_eq!(user_namespaces(Some("15000"), None, None).status, Status::Ok);
        for (max, clone, apparmor) in [
            (Some("0"), None, None),
            (None, Some("0"), None),
            (None, Some("1"), Some("1")),
        ] {
            let check = user_namespaces(max, clone, apparmor);
            assert_eq!((check.status, check.mend.is_some()), (Status::Warn, true));
        }
    }

    #[test]
    fn swap_in_memory_is_none() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(swap(header).status, Status::Ok);
        assert_eq!(
            swap(&format!("{header}/dev/zram0 partition 1 0 -2\n")).status,
            Status::Ok
        );
        assert_eq!(
            swap(&format!("{header}/dev/sda2 partition 1 0 -2\n")).status,
            Status::Warn
        );
    }
}
