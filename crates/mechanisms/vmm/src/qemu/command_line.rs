//! What QEMU is started with. Pure; the golden test shows the whole line.
//!
//! The machine has what the anatomy asks for and nothing else: two virtio disks, a virtio-serial port, virtio-rng, a
//! serial console, VMGENID. No file is named: what QEMU may open, it is handed as a descriptor ([`Fd`]).

use super::version::{READONLY_MEMORY, Release};
use crate::{DiskRate, MachineSize, accel::Accel, api::guest_mac};
use std::ffi::CString;

/// What a guest sees, in order; see [`crate::VmmFacts::devices`].
pub(super) const DEVICES: &str = "base:virtio-blk,session:virtio-blk,agent:virtio-serial,rng:virtio-rng";

/// The network card, likewise.
pub(super) const CARD: &str = "net:virtio-net";

/// The descriptors of the process, by their numbers. 0 and 1 are `/dev/null`, 2 is a pipe that its owner reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Fd {
    /// Control: one end of a socket pair.
    Control = 3,
    /// Agent: a listening socket.
    Agent = 4,
    /// Console: one end of a socket pair.
    Console = 5,
    /// Base disk, read-only.
    Base = 6,
    /// Guest memory.
    Memory = 7,
    /// Device state to load, or the kernel.
    First = 8,
    /// The initramfs.
    Second = 9,
}

/// What a machine begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begin {
    /// A kernel (in [`Fd::First`]), an initramfs ([`Fd::Second`]) and this command line.
    Boot(String),
    /// A device state ([`Fd::First`]), to be loaded by command.
    Incoming,
    /// The same, and the memory comes with it: what is in [`Fd::Memory`] is of no use.
    Whole,
}

impl Begin {
    /// The number of the tap's descriptor, which comes last.
    fn tap(&self) -> i32 {
        match self {
            Self::Boot(_) => Fd::Second as i32 + 1,
            Self::Incoming | Self::Whole => Fd::First as i32 + 1,
        }
    }
}

/// Node and filter names that the driver's later commands use.
pub(super) const SESSION_FILTER: &str = "session";
pub(super) const THROTTLE_GROUP: &str = "session-limits";

/// Size of the placeholder behind the second drive. The guest sees a change of capacity when a disk is attached.
const PLACEHOLDER: u64 = 1 << 20;

/// How much memory translated code may take. The default is a good part of the host's memory, for the guest to fill.
const TRANSLATED_MIB: u32 = 128;

/// The argument that names a sandbox's VMM process for whoever must find it later.
pub(super) fn name(sandbox: &str) -> String {
    format!("omnirun-{sandbox}")
}

/// The command line's arguments, program name included.
pub(super) fn build(
    release: Release,
    accel: &Accel,
    sandbox: &str,
    size: MachineSize,
    begin: &Begin,
    card: bool,
) -> Vec<String> {
    let mut args: Vec<String> = Vec::with_capacity(64);
    let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
    add(&["qemu-system-x86_64", "-name", &name(sandbox)]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&[
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    add(&[
        "-machine",
        "q35,memory-backend=ram,usb=off,vmport=off,sata=off,smbus=off,i8042=off,hpet=off,graphics=off,smm=off",
    ]);
    match accel {
        Accel::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accel::Emulation { .. } => {
            // With one virtual CPU a thread of its own buys nothing and costs atomic instructions in translated code.
            let thread = if size.vcpus == 1 { "single" } else { "multi" };
            add(&[
                "-accel",
                &format!("tcg,thread={thread},tb-size={TRANSLATED_MIB}"),
                "-cpu",
                "max",
            ]);
        }
    }
    add(&[
        "-smp",
        &size.vcpus.to_string(),
        "-m",
        &size.memory_mib.to_string(),
    ]);
    let memory = Fd::Memory as i32;
    let file = |share| format!("memory-backend-file,mem-path=/proc/self/fd/{memory},{share}");
    let backend = match begin {
        Begin::Boot(_) => file("share=on"),
        Begin::Incoming if release >= READONLY_MEMORY => file("share=off,readonly=on,rom=off"),
        Begin::Incoming => file("share=off"),
        // A page of a mapped file would be there twice once it is loaded.
        Begin::Whole => "memory-backend-ram,share=off".to_owned(),
    };
    add(&[
        "-object",
        &format!("{backend},id=ram,size={}M,prealloc=off", size.memory_mib),
    ]);
    add(&[
        "-chardev",
        &format!("socket,id=control,fd={}", Fd::Control as i32),
        "-mon",
        "chardev=control,mode=control",
    ]);
    add(&[
        "-chardev",
        &format!("socket,id=console,fd={}", Fd::Console as i32),
        "-serial",
        "chardev:console",
    ]);
    add(&["-add-fd", &format!("fd={},set=1", Fd::Base as i32)]);
    add(&[
        "-blockdev",
        r#"{"driver":"raw","node-name":"base","read-only":true,"file":{"driver":"file","filename":"/dev/fdset/1","read-only":true,"locking":"off"}}"#,
        "-device",
        "virtio-blk-pci,drive=base,disable-legacy=on",
    ]);
    add(&[
        "-blockdev",
        &format!(
            r#"{{"driver":"raw","node-name":"placeholder","file":{{"driver":"null-co","size":{PLACEHOLDER},"read-zeroes":true}}}}"#
        ),
        "-object",
        &throttle_group(DiskRate::default()),
        "-blockdev",
        &format!(
            r#"{{"driver":"throttle","node-name":"{SESSION_FILTER}","throttle-group":"{THROTTLE_GROUP}","file":"placeholder"}}"#
        ),
        "-device",
        // A host whose disk is full is an error for the guest, as on Firecracker. QEMU would stop the machine and say
        // nothing that anybody waits for.
        &format!("virtio-blk-pci,drive={SESSION_FILTER},disable-legacy=on,rerror=report,werror=report"),
    ]);
    add(&[
        "-chardev",
        &format!("socket,id=agent,fd={},server=on,wait=off", Fd::Agent as i32),
    ]);
    add(&["-device", "virtio-serial-pci,disable-legacy=on,max_ports=2"]);
    add(&["-device", "virtserialport,chardev=agent,name=omnirun.agent"]);
    add(&[
        "-object",
        "rng-builtin,id=rng",
        "-device",
        "virtio-rng-pci,rng=rng,disable-legacy=on",
    ]);
    add(&["-device", "vmgenid,guid=auto"]);
    if card {
        let mac = guest_mac();
        add(&[
            // A clone that has loaded its state would send frames of its own accord, for switches to learn where it is now.
            "-global",
            "migration.announce-rounds=0",
            "-netdev",
            &format!("tap,id=net,fd={},vhost=off", begin.tap()),
            "-device",
            // Without its boot program, which is no business of a guest that has a kernel; and the guest is not asked to
            // announce itself either.
            &format!("virtio-net-pci,netdev=net,mac={mac},romfile=,guest_announce=off,disable-legacy=on"),
        ]);
    }
    match begin {
        Begin::Boot(cmdline) => {
            let file = |fd: Fd| format!("/proc/self/fd/{}", fd as i32);
            add(&[
                "-kernel",
                &file(Fd::First),
                "-initrd",
                &file(Fd::Second),
                "-append",
                cmdline,
            ]);
        }
        // -S: a machine that was snapshot while it ran would run at once.
        Begin::Incoming | Begin::Whole => add(&["-S", "-incoming", "defer"]),
    }
    args
}

/// The group of the session drive's filter: what it passes.
fn throttle_group(rate: DiskRate) -> String {
    let DiskRate { bytes, operations } = rate;
    // For a second it may be as many times as fast.
    let (bytes_max, operations_max) = (bytes * DiskRate::BURST, operations * DiskRate::BURST);
    format!(
        r#"{{"qom-type":"throttle-group","id":"{THROTTLE_GROUP}","limits":{{"bps-total":{bytes},"bps-total-max":{bytes_max},"iops-total":{operations},"iops-total-max":{operations_max}}}}}"#
    )
}

/// The driver's own part of the kernel's command line.
///
/// A panic must end the VMM: `panic=-1` restarts at once, and a restart is an exit (`-no-reboot`).
pub(super) fn kernel(accel: &Accel, appended: &str) -> String {
    let mut line = String::from("console=ttyS0 quiet panic=-1 oops=panic reboot=t");
    if let Accel::Emulation { .. } = accel {
        // Emulated timers are slow enough to fail the kernel's check, and there is no speculation to mitigate.
        line.push_str(" no_timer_check mitigations=off");
    }
    if !appended.is_empty() {
        line.push(' ');
        line.push_str(appended);
    }
    line
}

/// For `exec`. An argument with a NUL in it would have been cut: it is refused by its absence.
pub(super) fn as_c(args: Vec<String>) -> Option<Vec<CString>> {
    args.into_iter().map(|a| CString::new(a).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: MachineSize = MachineSize {
        vcpus: 1,
        memory_mib: 1024,
    };

    #[test]
    fn the_whole_line_of_a_clone() {
        let accel = Accel::Emulation {
            reason: "no /dev/kvm".into(),
        };
        let line = build(Release(7, 2), &accel, "sb1", SIZE, &Begin::Incoming, false).join("\n") + "\n";
        assert_eq!(line, include_str!("golden/clone-tcg-7.2.txt"));
    }

    #[test]
    fn what_differs_with_kvm_and_a_later_release() {
        let line = build(Release(10, 0), &Accel::Kvm, "sb1", SIZE, &Begin::Incoming, false).join(" ");
        assert!(line.contains("-accel kvm -cpu host"));
        assert!(line.contains("share=off,readonly=on,rom=off"));
    }

    #[test]
    fn a_boot_shares_its_memory_and_names_no_file() {
        let size = MachineSize { vcpus: 2, ..SIZE };
        let accel = Accel::Emulation {
            reason: String::new(),
        };
        let cmdline = kernel(&accel, "omnirun.x=1");
        let line = build(Release(7, 2), &accel, "sb1", size, &Begin::Boot(cmdline), false).join(" ");
        assert!(line.contains("share=on") && line.contains("thread=multi") && line.contains("-smp 2"));
        assert!(line.ends_with("-append console=ttyS0 quiet panic=-1 oops=panic reboot=t no_timer_check mitigations=off omnirun.x=1"));
        for path in line.split([' ', '=', '"', ',']).filter(|w| w.starts_with('/')) {
            assert!(
                path.starts_with("/proc/self/fd/") || path.starts_with("/dev/fdset/"),
                "{path}"
            );
        }
    }

    #[test]
    fn a_card_comes_last_and_moves_no_other_device() {
        let of = |begin: &Begin, card| build(Release(7, 2), &Accel::Kvm, "sb1", SIZE, begin, card).join(" ");
        for (begin, fd) in [
            (Begin::Incoming, 9),
            (Begin::Whole, 9),
            (Begin::Boot(String::new()), 10),
        ] {
            let (with, without) = (of(&begin, true), of(&begin, false));
            let card = format!(
                " -global migration.announce-rounds=0 -netdev tap,id=net,fd={fd},vhost=off -device \
                 virtio-net-pci,netdev=net,mac=02:4f:52:00:00:02,romfile=,guest_announce=off,disable-legacy=on"
            );
            assert_eq!(with.replace(&card, ""), without);
            let behind = with.split(&card).nth(1).unwrap();
            assert!(!behind.contains("-device"), "{behind}");
            assert!(!without.contains("net"), "{without}");
        }
    }

    #[test]
    fn a_comma_cannot_come_in_by_an_id() {
        assert!("a,b".parse::<omnirun_ids::SandboxId>().is_err());
    }
}
