//! The VMMs: which one would run sandboxes here, how it is confined, and what keeps the others from it.

use super::{
    report::{Check, Status},
    sandboxes::{chain, sudo},
};
use crate::host::{self, DriverArgs};
use omnirun_store::DataDir;
use omnirun_vmm::{
    Vmm, VmmError, VmmFacts,
    accel::{self, Accel},
    firecracker::{self, Firecracker},
    qemu::Qemu,
};
use std::{fs, path::Path};

/// What was found.
pub struct Drivers {
    /// The checks.
    pub checks: Vec<Check>,
    /// What sandboxes would run on.
    pub facts: Option<VmmFacts>,
}

/// Looks at all of them.
pub async fn look(args: DriverArgs, data: Option<&DataDir>) -> Drivers {
    let (installed, damaged) = match data.map(host::installed) {
        None => (None, None),
        Some(Ok(installed)) => (installed, None),
        Some(Err(error)) => (None, Some(format!("{error:#}"))),
    };
    let scratch = data.map_or_else(std::env::temp_dir, DataDir::tmp);
    let accelerator = accel::detect();
    let chosen = omnirun_vmm::detect(args.driver, installed.as_deref(), &scratch).await;
    let facts = chosen.as_ref().ok().map(|vmm| vmm.facts().clone());
    let needs_qemu = facts.as_ref().is_none_or(|facts| facts.driver == "qemu");

    let mut checks = vec![match &facts {
        Some(facts) => Check::ok(
            "driver",
            format!("sandboxes run on {} {}", facts.driver, facts.version),
        ),
        None => Check::missing(
            "driver",
            chosen.as_ref().err().map(|e| chain(e)).unwrap_or_default(),
        ),
    }];
    // The one that was chosen has been found already.
    let version = |driver| {
        let found = facts.as_ref().filter(|facts| facts.driver == driver);
        found.map(|facts| facts.version.clone())
    };
    checks.push(match version("firecracker").filter(|_| damaged.is_none()) {
        Some(version) => Check::ok("Firecracker", version),
        None => firecracker(&accelerator, installed.as_deref(), damaged, &scratch).await,
    });
    checks.push(match version("qemu") {
        Some(version) => Check::ok("QEMU", version),
        None => qemu(&Qemu::find().await, needs_qemu),
    });
    checks.push(accelerator_check(&accelerator));
    if let Some(facts) = &facts {
        checks.extend(confinement(facts));
    }
    Drivers { checks, facts }
}

async fn firecracker(
    accelerator: &Accel,
    installed: Option<&Path>,
    damaged: Option<String>,
    scratch: &Path,
) -> Check {
    let name = "Firecracker";
    if let Some(words) = damaged {
        return Check::warn(name, words).mend("omnirun setup");
    }
    let there = firecracker::is_there(installed);
    match (there, accelerator) {
        (false, Accel::Kvm) => {
            Check::warn(name, "not there, though KVM would run it").mend("omnirun setup --sha256 HEX")
        }
        (false, Accel::Emulation { .. }) => Check::ok(name, "not there; of no use here, since it needs KVM"),
        (true, Accel::Emulation { .. }) => Check::ok(name, "there; not used, since it needs KVM"),
        (true, Accel::Kvm) => match Firecracker::find(installed, scratch).await {
            Ok(found) => Check::ok(name, found.facts().version.clone()),
            Err(error) => Check::warn(name, chain(&error)),
        },
    }
}

fn qemu(found: &Result<Qemu, VmmError>, needed: bool) -> Check {
    let check = match found {
        Ok(qemu) => Check::ok("QEMU", qemu.facts().version.clone()),
        Err(error @ VmmError::Missing { install, .. }) => {
            let words = error.to_string();
            let words = words.split(';').next().unwrap_or_default().to_owned();
            Check::missing("QEMU", words).mend(sudo(install))
        }
        Err(error) => Check::missing("QEMU", chain(error)),
    };
    match check.status {
        Status::Missing if !needed => Check {
            status: Status::Ok,
            found: format!("{}; not needed here", check.found),
            mend: None,
            ..check
        },
        _ => check,
    }
}

fn accelerator_check(found: &Accel) -> Check {
    match found {
        Accel::Kvm => Check::ok("accelerator", "KVM, and its probe's guest ran as on hardware"),
        Accel::Emulation { reason } => {
            let check = Check::warn(
                "accelerator",
                format!("emulation: {reason}. Everything works, only slower"),
            );
            match (reason.contains("usermod"), module()) {
                (true, _) => check.mend(sudo("usermod -aG kvm $USER")),
                (false, Some(module)) if reason.starts_with("there is no") => {
                    check.mend(sudo(&format!("modprobe {module}")))
                }
                _ => check,
            }
        }
    }
}

/// The module that would give this CPU a `/dev/kvm`.
fn module() -> Option<&'static str> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = info.lines().find(|l| l.starts_with("flags"))?;
    let has = |flag| flags.split_whitespace().any(|f| f == flag);
    if has("vmx") {
        Some("kvm_intel")
    } else {
        has("svm").then_some("kvm_amd")
    }
}

fn confinement(facts: &VmmFacts) -> Vec<Check> {
    let words = &facts.confinement;
    let name = "confinement";
    if facts.driver == "firecracker" {
        let text = format!("each Firecracker process: {words}");
        let weaker = ["seccomp off", "no control group", "without limits", "; no "];
        return vec![match weaker.iter().any(|w| words.contains(w)) {
            true => Check::warn(name, text),
            false => Check::ok(name, text),
        }];
    }
    let text = format!("each QEMU process: {words}");
    let landlocked = words.contains("Landlock");
    let of_caller = words.starts_with("the uid of the caller");
    let check = match landlocked && !of_caller {
        true => Check::ok(name, text),
        false => Check::warn(name, text),
    };
    let check = match of_caller && !rustix::process::geteuid().is_root() {
        true => check.mend("sudo apt-get install --yes uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"),
        false => check,
    };
    let landlock = match landlocked {
        true => Check::ok(
            "Landlock",
            "in force: a QEMU process opens nothing of the data folder or of anybody's home",
        ),
        false => Check::warn(
            "Landlock",
            "not in this kernel, or switched off: needs Linux 5.13 and lsm=landlock,... when it boots",
        ),
    };
    vec![check, landlock]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(driver: &'static str, words: &str) -> Status {
        let facts = VmmFacts {
            driver,
            version: "1".into(),
            accelerator: "kvm",
            cpu: String::new(),
            devices: "",
            card: "",
            confinement: words.into(),
            controllers: Vec::new(),
            disk: omnirun_vmm::DiskRate::default(),
            card_rate: None,
        };
        confinement(&facts)[0].status
    }

    #[test]
    fn of_qemu_confinement_by_uid_and_landlock_is_what_is_wanted() {
        let of = |words| status("qemu", words);
        assert_eq!(of("a uid of its own per VM, seccomp, Landlock"), Status::Ok);
        assert_eq!(of("a uid of its own per VM, seccomp"), Status::Warn);
        assert_eq!(of("the uid of the caller, seccomp, Landlock"), Status::Warn);
    }

    #[test]
    fn of_firecracker_the_whole_jail_is() {
        let of = |words: &str| {
            status(
                "firecracker",
                &format!("a uid of its own per VM, chroot, {words}"),
            )
        };
        assert_eq!(
            of("seccomp, a control group with limits (memory, cpu, pids)"),
            Status::Ok
        );
        assert_eq!(
            of("seccomp, a control group with limits (pids; no memory, cpu)"),
            Status::Warn
        );
        assert_eq!(
            of("seccomp, a control group without limits (no memory)"),
            Status::Warn
        );
        assert_eq!(of("seccomp, no control group (none is mounted)"), Status::Warn);
        assert_eq!(of("seccomp off (why), a control group with limits"), Status::Warn);
    }

    #[test]
    fn a_qemu_that_nobody_needs_may_be_missing() {
        let missing = || {
            Err(VmmError::Missing {
                program: "qemu".into(),
                install: "apt-get install",
            })
        };
        assert_eq!(qemu(&missing(), true).status, Status::Missing);
        assert!(qemu(&missing(), true).mend.is_some());
        assert_eq!(qemu(&missing(), false).status, Status::Ok);
    }
}
