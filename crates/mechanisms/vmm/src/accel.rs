//! What this host can do: KVM that runs a stock kernel, or emulation.
//!
//! `/dev/kvm` being there says little (see [`omnirun_sys::host::kvm_probe`]); so the probe's guest is run, in a thread
//! of its own and against a clock, and what it shows is judged here.
//!
//! The verdict is not kept for the next process. The probe runs while QEMU is asked for its version, which takes longer,
//! so keeping it would save no command any time; and one that came out wrong on a machine under load would stay.

use omnirun_sys::host::kvm_probe::{Kick, Observation, SyscallWent, probe};
use std::{
    path::Path,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

/// What virtual machines run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualisation.
    Kvm,
    /// Emulation, which runs anywhere, only slower.
    Emulation {
        /// Why not KVM, as a sentence.
        reason: String,
    },
}

impl Accel {
    /// As facts name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation { .. } => "tcg",
        }
    }
}

/// A loop iteration takes 1 to 2.5 ns on hardware, over 1,000 where kernel code is emulated.
const SLOW_NS: f64 = 200.0;

/// The probe takes a tenth of a second where it is slowest, and seconds on a nested host under load. Only a device that
/// hangs is waited for to the end, and of those none is known.
const BOUND: Duration = Duration::from_secs(4);

/// Finds out, once per process. Blocks for as long as the probe takes.
pub fn detect() -> Accel {
    static FOUND: OnceLock<Accel> = OnceLock::new();
    FOUND.get_or_init(|| judge_device(Path::new("/dev/kvm"))).clone()
}

fn judge_device(device: &Path) -> Accel {
    if !device.exists() {
        return emulation(
            "there is no /dev/kvm: the machine has no hardware virtualisation, or its module is not loaded",
        );
    }
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
        return emulation(format!(
            "/dev/kvm cannot be opened ({error}); if access is the reason: usermod -aG kvm $USER, and log in again"
        ));
    }
    let hint = if Path::new("/sys/module/kvm_pvm").exists() {
        " (this host offers page-table virtualisation, which serves para-virtual kernels only)"
    } else {
        ""
    };
    let kick = Arc::new(Kick::default());
    let (send, receive) = mpsc::channel();
    let inner = Arc::clone(&kick);
    let spawned = std::thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            let _ = send.send(probe(&inner));
        });
    if let Err(error) = spawned {
        return emulation(format!("the probe of /dev/kvm could not be run: {error}"));
    }
    let mut result = receive.recv_timeout(BOUND);
    for _ in 0..20 {
        if result.is_ok() {
            break;
        }
        kick.kick();
        result = receive.recv_timeout(Duration::from_millis(10));
    }
    match result {
        Ok(Ok(observation)) => judge(observation, hint),
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error)
                .map(|c| format!(": {c}"))
                .unwrap_or_default();
            emulation(format!("/dev/kvm does not work: {error}{cause}{hint}"))
        }
        Err(_) => emulation(format!("/dev/kvm hangs on a guest of a few instructions{hint}")),
    }
}

fn judge(seen: Observation, hint: &str) -> Accel {
    if seen.loop_ns > SLOW_NS {
        return emulation(format!(
            "/dev/kvm is there but emulates kernel code: {:.0} ns a loop iteration where hardware takes 1 to 3{hint}",
            seen.loop_ns
        ));
    }
    match seen.syscall {
        SyscallWent::ToLstar => Accel::Kvm,
        SyscallWent::WrongRing | SyscallWent::Exception => emulation(format!(
            "/dev/kvm is there but does not deliver a guest's system calls to its kernel{hint}"
        )),
    }
}

fn emulation(reason: impl Into<String>) -> Accel {
    Accel::Emulation {
        reason: reason.into(),
    }
}

/// The host's CPU as far as it decides whether a snapshot that was taken on it can be restored here.
pub(crate) fn host_cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = info.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        let line = first
            .lines()
            .find(|l| l.split(':').next().map(str::trim) == Some(name));
        line.and_then(|l| l.split_once(':'))
            .map_or("", |(_, v)| v.trim())
            .to_owned()
    };
    let fields = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "microcode",
        "flags",
    ];
    format!("host: {}", fields.map(field).join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fast_loop_and_a_real_system_call_make_kvm() {
        let judge = |loop_ns, syscall| judge(Observation { loop_ns, syscall }, "");
        assert_eq!(judge(1.3, SyscallWent::ToLstar), Accel::Kvm);
        assert_eq!(judge(1159.0, SyscallWent::ToLstar).as_str(), "tcg");
        assert_eq!(judge(1.3, SyscallWent::Exception).as_str(), "tcg");
        assert_eq!(judge(1.3, SyscallWent::WrongRing).as_str(), "tcg");
    }

    #[test]
    fn is_found_and_says_why() {
        let found = detect();
        if let Accel::Emulation { reason } = found {
            assert!(reason.contains("/dev/kvm"), "{reason}");
        }
    }

    #[test]
    fn a_device_that_is_none_is_said_to_be_missing() {
        let Accel::Emulation { reason } = judge_device(Path::new("/nonexistent/kvm")) else {
            panic!("no device")
        };
        assert!(reason.starts_with("there is no /dev/kvm"));
    }
}
