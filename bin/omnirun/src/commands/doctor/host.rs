//! What the host is like: none of this keeps a sandbox from running.

use super::report::Check;
use std::fs;

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
    checks.push(Check::ok(
        "kernel",
        read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
    ));
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
}
