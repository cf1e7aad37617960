//! What the VMM and its surroundings do: the lines that OmniRun itself answers for.

use super::{Facts, Finding, Line, facts::Owned};
use omnirun_vmm::{CardRate, DiskRate, VmmFacts};
use std::path::Path;

const SECCOMP: Line = Line(1, "seccomp");
const SERIAL: Line = Line(2, "serial console");
const LOGS: Line = Line(3, "logs of the VMM");
const WATCHDOG: Line = Line(5, "watchdog");
const JAILER: Line = Line(6, "jailer");
const UIDS: Line = Line(7, "a uid for each VM");
const LIMITS: Line = Line(8, "resource limits");
const RATES: Line = Line(10, "rates of disk and network");
const EGRESS: Line = Line(11, "egress filter");
const TENANTS: Line = Line(20, "one tenant for each process");

/// Controllers that a VM's limits need.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "io", "pids"];

/// The VMM that would run sandboxes here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Driver {
    /// `firecracker` or `qemu`; nothing if none works.
    pub name: Option<&'static str>,
    /// Whether it runs guests on KVM.
    pub kvm: bool,
    /// How it is confined, in its own words.
    pub confinement: String,
    /// The controllers that limit each VM in a control group of its own.
    pub controllers: Vec<&'static str>,
    /// What a session disk passes.
    pub disk: Option<DiskRate>,
    /// What a network card passes.
    pub card: Option<CardRate>,
}

impl From<&VmmFacts> for Driver {
    fn from(facts: &VmmFacts) -> Self {
        Self {
            name: Some(facts.driver),
            kvm: facts.accelerator == "kvm",
            confinement: facts.confinement.clone(),
            controllers: facts.controllers.clone(),
            disk: Some(facts.disk),
            card: facts.card_rate,
        }
    }
}

impl Driver {
    fn firecracker(&self) -> bool {
        self.name == Some("firecracker")
    }

    fn says(&self, word: &str) -> bool {
        self.confinement.contains(word)
    }
}

pub(super) fn findings(facts: &Facts, driver: &Driver) -> Vec<Finding> {
    let lines = [SECCOMP, SERIAL, LOGS, WATCHDOG, UIDS, LIMITS, RATES, TENANTS];
    let mut findings = vec![
        jailer(facts, driver),
        EGRESS.ok("a sandbox has no network card: there is nothing to filter"),
    ];
    if driver.name.is_none() {
        let none = "no VMM works on this host yet";
        findings.extend(lines.map(|line| line.not_applicable(none)));
        return findings;
    }
    findings.extend([
        seccomp(driver),
        SERIAL.ok("bounded: the end of what a guest prints is kept in memory, the rest is thrown away"),
        LOGS.ok("bounded, in the same way: no file grows with what a guest does"),
        WATCHDOG
            .ok("every question to a VMM and its guest has a time limit, and a VMM that misses it is killed"),
        uids(driver),
        limits(facts, driver),
        rates(driver),
        TENANTS.ok("each sandbox has a process of its own, and no snapshot serves two environments"),
    ]);
    findings
}

fn seccomp(driver: &Driver) -> Finding {
    match driver.says("seccomp") && !driver.says("no seccomp") && !driver.says("seccomp off") {
        true => SECCOMP.ok(format!("in force: {}", driver.confinement)),
        false => SECCOMP
            .warn(format!("not in force: {}", driver.confinement))
            .mend("omnirun setup, which puts a release in place that has its filter built in")
            .serious(),
    }
}

fn jailer(facts: &Facts, driver: &Driver) -> Finding {
    let loose: Vec<_> = facts.paths.iter().filter_map(loose).collect();
    if !loose.is_empty() {
        return JAILER
            .warn(format!(
                "others can change what runs as root: {}",
                loose.join(", ")
            ))
            .mend("chown root and chmod go-w, on each of them")
            .serious();
    }
    match driver.name {
        Some("firecracker") => {
            JAILER.ok("every VM is started by it; its folders and programs are nobody else's to change")
        }
        Some(_) => JAILER.not_applicable("comes with Firecracker; nobody else can change the data folder"),
        None => JAILER.not_applicable("no VMM works on this host yet"),
    }
}

/// A path that somebody else can change, in words. A folder like `/tmp` lets nobody change what is another's.
fn loose(owned: &Owned) -> Option<String> {
    let me = rustix::process::geteuid().as_raw();
    let path = owned.path.display();
    let sticky_folder = owned.mode & 0o170_000 == 0o040_000 && owned.mode & 0o1000 != 0;
    if owned.uid != 0 && owned.uid != me {
        return Some(format!("{path} (owned by uid {})", owned.uid));
    }
    if owned.mode & 0o002 != 0 && !sticky_folder {
        return Some(format!("{path} (writable by all)"));
    }
    if owned.mode & 0o020 != 0 && owned.gid != 0 && !sticky_folder && owned.path != Path::new("/") {
        return Some(format!("{path} (writable by group {})", owned.gid));
    }
    None
}

fn uids(driver: &Driver) -> Finding {
    match driver.says("uid of its own") {
        true => UIDS.ok("each VM has one, from a range"),
        false => UIDS
            .warn(format!("VMs share one: {}", driver.confinement))
            .mend("run omnirun as root, or give this user subordinate ids (see confinement)")
            .serious(),
    }
}

fn limits(facts: &Facts, driver: &Driver) -> Finding {
    if !driver.firecracker() {
        return LIMITS.warn(
            "those of a process (address space, files, no cores); QEMU has no control group of its own",
        );
    }
    if driver.controllers.is_empty() {
        let mend = match facts.controllers {
            None => {
                "systemd.unified_cgroup_hierarchy=1 on the kernel command line, or a distribution of these years"
            }
            // Where there is a hierarchy and none of it is ours, as in many a container.
            Some(_) => "run omnirun where it may make control groups",
        };
        return LIMITS
            .warn(format!(
                "those of a process, and nothing for a VM's memory, CPU and I/O: {}",
                driver.confinement
            ))
            .mend(mend);
    }
    let missing: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|c| !driver.controllers.contains(c))
        .collect();
    match missing.is_empty() {
        true => LIMITS.ok(
            "those of a process, and a control group for each VM: memory, CPU, processes, and I/O where the data folder's \
             file system is on one disk",
        ),
        false => LIMITS
            .warn(format!(
                "a control group for each VM, but without {}",
                missing.join(", ")
            ))
            .mend("a kernel, or a container, that has these controllers"),
    }
}

fn rates(driver: &Driver) -> Finding {
    let card = match driver.card {
        Some(rate) => rate.to_string(),
        None => "what one thread of its VMM can move".to_owned(),
    };
    match driver.disk {
        Some(rate) => RATES.ok(format!(
            "a session disk passes {rate}, and {} seconds' worth at once; a network card passes {card}",
            DiskRate::BURST
        )),
        None => RATES.warn("a sandbox's disk has no limit, so one that writes much slows the others down"),
    }
}
