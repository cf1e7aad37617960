//! What the jailer is started with. Pure; the golden tests show the whole line.

use std::ffi::CString;

/// Inside the jail: the folder of sockets, and the names in it.
pub(in crate::firecracker) const RUN: &str = "run";
pub(in crate::firecracker) const API: &str = "api.sock";
pub(in crate::firecracker) const AGENT: &str = "agent.sock";
/// Inside the jail: the pipe for the log.
pub(in crate::firecracker) const LOG: &str = "log";
/// Inside the jail: the pipe for what is counted.
pub(in crate::firecracker) const METRICS: &str = "metrics";
/// Inside the jail: the compiled seccomp filter.
pub(in crate::firecracker) const FILTER: &str = "seccomp.bpf";

/// Descriptors of one process: the guest's connections are its largest part, and there is one.
const FILES: u32 = 1024;

/// What differs between VMs.
#[derive(Debug)]
pub(in crate::firecracker) struct Line<'a> {
    pub(in crate::firecracker) id: &'a str,
    pub(in crate::firecracker) program: &'a str,
    pub(in crate::firecracker) run_dir: &'a str,
    pub(in crate::firecracker) uid: u32,
    /// How large a file may become that it writes to.
    pub(in crate::firecracker) file_size: Option<u64>,
    /// Whether there is a filter in the jail.
    pub(in crate::firecracker) filter: bool,
}

impl Line<'_> {
    /// The arguments, program name included. `--id` comes first: a dead owner's processes are found by it.
    ///
    /// There is no `--new-pid-ns` since the jailer is in a pid namespace of its own already: with that option it would
    /// fork, and what it leaves in a file could name another process by the time it is read. No `--netns` and no
    /// `--cgroup`: it is in its network namespace and its control group already. Never `--no-seccomp`, nor `--enable-pci`
    /// (CVE-2026-5747).
    pub(in crate::firecracker) fn build(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::with_capacity(32);
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
        let uid = self.uid.to_string();
        add(&["jailer", "--id", self.id, "--exec-file", self.program]);
        add(&["--uid", &uid, "--gid", &uid, "--chroot-base-dir", self.run_dir]);
        add(&["--resource-limit", &format!("no-file={FILES}")]);
        if let Some(bytes) = self.file_size {
            add(&["--resource-limit", &format!("fsize={bytes}")]);
        }
        add(&["--", "--api-sock", &format!("/{RUN}/{API}")]);
        add(&["--log-path", &format!("/{LOG}"), "--level", "Warn"]);
        add(&["--metrics-path", &format!("/{METRICS}")]);
        if self.filter {
            add(&["--seccomp-filter", &format!("/{FILTER}")]);
        }
        args
    }
}

/// For `exec`. An argument with a NUL in it would have been cut: it is refused by its absence.
pub(in crate::firecracker) fn as_c(args: Vec<String>) -> Option<Vec<CString>> {
    args.into_iter().map(|a| CString::new(a).ok()).collect()
}

/// The guest kernel's command line.
///
/// A panic must end the VMM: `panic=-1` restarts at once, `reboot=k` does so through the keyboard controller, and that
/// is Firecracker's exit. The rest spares the kernel a search for what such a controller could have.
pub(in crate::firecracker) fn kernel(appended: &str) -> String {
    let mut line = String::from(
        "console=ttyS0 quiet panic=-1 oops=panic reboot=k i8042.noaux i8042.nomux i8042.dumbkbd i8042.nopnp",
    );
    if !appended.is_empty() {
        line.push(' ');
        line.push_str(appended);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            id: "sbx-1",
            program: "/usr/local/bin/firecracker",
            run_dir: "/var/lib/omnirun/run/sbx_1",
            uid: 1_879_048_193,
            file_size: Some(1 << 20),
            filter: true,
        }
    }

    #[test]
    fn the_whole_line_with_all_that_there_can_be() {
        let said = line().build().join("\n") + "\n";
        assert_eq!(said, include_str!("../golden/jailer-full.txt"));
    }

    #[test]
    fn the_whole_line_where_the_host_has_little() {
        let line = Line {
            file_size: None,
            filter: false,
            ..line()
        };
        let said = line.build().join("\n") + "\n";
        assert_eq!(said, include_str!("../golden/jailer-bare.txt"));
    }

    #[test]
    fn a_panic_of_the_guest_is_an_end() {
        let line = kernel("omnirun.x=1");
        assert!(line.contains("panic=-1 oops=panic reboot=k") && line.ends_with(" omnirun.x=1"));
        assert!(!kernel("").ends_with(' '));
    }
}
