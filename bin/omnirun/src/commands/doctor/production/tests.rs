//! Judges before hosts made of files, and the reading of odd ones.

use super::*;
use omnirun_vmm::{CardRate, DiskRate};
use std::{fs, path::Path};

fn host(files: &[(&str, &str)]) -> Facts {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Facts {
        arch: "x86_64",
        ..Facts::read_below(root.path(), &[])
    }
}

fn on_kvm() -> Driver {
    Driver {
        name: Some("firecracker"),
        kvm: true,
        confinement: "a uid of its own per VM, seccomp".into(),
        controllers: vec!["memory", "cpu", "pids", "io"],
        disk: Some(DiskRate::default()),
        card: Some(CardRate::default()),
    }
}

fn line(files: &[(&str, &str)], number: u8) -> Finding {
    let list = List::judge(&host(files), &on_kvm());
    list.findings.into_iter().find(|f| f.line == number).unwrap()
}

const INTEL: (&str, &str) = (
    "proc/cpuinfo",
    "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse\n\nprocessor\t: 1\n",
);
const VIRTUAL: (&str, &str) = (
    "proc/cpuinfo",
    "vendor_id\t: AuthenticAMD\nflags\t\t: fpu hypervisor svm\n",
);
const V61: (&str, &str) = ("proc/sys/kernel/osrelease", "6.1.0-30-amd64\n");
const SWAPS: &str = "Filename\tType\tSize\tUsed\tPriority\n";
const VULNERABLE: &str = "sys/devices/system/cpu/vulnerabilities/";

#[test]
fn all_lines_are_there_once_in_order_whatever_the_host() {
    for (facts, driver) in [
        (Facts::default(), Driver::default()),
        (host(&[INTEL, V61]), on_kvm()),
        (Facts::read(Vec::new(), None), on_kvm()),
    ] {
        let list = List::judge(&facts, &driver);
        let numbers: Vec<u8> = list.findings.iter().map(|f| f.line).collect();
        assert_eq!(numbers, (1..=21).collect::<Vec<u8>>());
        assert_eq!(list.ok + list.warnings + list.not_applicable, 21);
        for finding in &list.findings {
            assert!(!finding.reason.is_empty());
            let warning = finding.rating == Rating::Warning;
            assert!(
                warning || (finding.mend.is_none() && !finding.serious),
                "{finding:?}"
            );
        }
    }
}

#[test]
fn each_rating_has_its_word() {
    let json = serde_json::to_value(List::judge(&Facts::default(), &Driver::default())).unwrap();
    assert_eq!(json["findings"][0]["rating"], "n/a");
    assert_eq!(json["findings"][0]["name"], "seccomp");
    assert_eq!(
        json["not_applicable"].as_u64().unwrap()
            + json["ok"].as_u64().unwrap()
            + json["warnings"].as_u64().unwrap(),
        21
    );
}

#[test]
fn swap_in_memory_and_encrypted_swap_are_none() {
    let swaps = |rows: &str| format!("{SWAPS}{rows}");
    for (rows, rating) in [
        ("", Rating::Ok),
        ("/dev/zram0 partition 1 0 -2\n", Rating::Ok),
        ("/dev/sda2 partition 1 0 -2\n", Rating::Warning),
        ("/swap.img file 1 0 -2\n", Rating::Warning),
    ] {
        assert_eq!(line(&[("proc/swaps", &swaps(rows))], 12).rating, rating, "{rows}");
    }
    let rows = swaps("/dev/dm-0 partition 1 0 -2\n");
    let crypt = ("sys/class/block/dm-0/dm/uuid", "CRYPT-PLAIN-swap\n");
    let plain = ("sys/class/block/dm-0/dm/uuid", "LVM-abc\n");
    assert_eq!(line(&[("proc/swaps", &rows), crypt], 12).rating, Rating::Ok);
    assert_eq!(line(&[("proc/swaps", &rows), plain], 12).rating, Rating::Warning);
    assert_eq!(line(&[], 12).rating, Rating::NotApplicable);
}

#[test]
fn merged_pages_are_serious_only_while_they_are_made() {
    let ksm = |run: &str, pages: &str| {
        line(
            &[
                ("sys/kernel/mm/ksm/run", run),
                ("sys/kernel/mm/ksm/pages_shared", pages),
            ],
            14,
        )
    };
    assert!(ksm("1\n", "0\n").serious);
    assert_eq!(
        (ksm("0\n", "5\n").rating, ksm("0\n", "5\n").serious),
        (Rating::Warning, false)
    );
    assert_eq!(ksm("0\n", "0\n").rating, Rating::Ok);
    assert_eq!(ksm("2\n", "0\n").rating, Rating::Ok);
    assert_eq!(line(&[], 14).rating, Rating::Ok);
}

#[test]
fn memory_chips_are_asked_for_where_somebody_knows() {
    let array = |use_of: u8, correction: u8| vec![16, 23, 0, 0, 3, use_of, correction];
    let judge = |arrays: Vec<Vec<u8>>, edac| {
        let facts = Facts {
            memory_arrays: arrays,
            edac,
            ..host(&[INTEL])
        };
        List::judge(&facts, &on_kvm()).findings[14].rating
    };
    assert_eq!(judge(vec![], 0), Rating::NotApplicable);
    assert_eq!(judge(vec![], 2), Rating::Ok);
    assert_eq!(judge(vec![array(3, 6)], 0), Rating::Ok);
    assert_eq!(judge(vec![array(3, 3)], 0), Rating::Warning);
    // A cache's array, one that is too short, and one that does not know.
    assert_eq!(
        judge(vec![array(7, 3), vec![16, 4], array(3, 2)], 0),
        Rating::NotApplicable
    );
    assert_eq!(line(&[VIRTUAL], 15).rating, Rating::NotApplicable);
    let edac = [
        INTEL,
        ("sys/devices/system/edac/mc/mc0/mc_name", "x"),
        ("sys/devices/system/edac/mc/power/x", "x"),
    ];
    assert_eq!(line(&edac, 15).rating, Rating::Ok);
}

#[test]
fn siblings_and_open_vulnerabilities_are_seen() {
    let smt = "sys/devices/system/cpu/smt/active";
    assert_eq!(line(&[(smt, "1\n")], 13).rating, Rating::Warning);
    assert_eq!(line(&[(smt, "0\n")], 13).rating, Rating::Ok);
    assert_eq!(line(&[], 13).rating, Rating::NotApplicable);

    let (meltdown, itlb) = (
        format!("{VULNERABLE}meltdown"),
        format!("{VULNERABLE}itlb_multihit"),
    );
    let open = line(
        &[
            (&meltdown, "Vulnerable\n"),
            (&itlb, "KVM: Mitigation: Split huge pages\n"),
        ],
        18,
    );
    assert!(open.serious && open.reason.contains("open: meltdown"), "{open:?}");
    assert!(line(&[(&itlb, "KVM: Vulnerable\n")], 18).serious);
    let off = ("proc/cmdline", "quiet mitigations=off\n");
    let mend = line(&[(&meltdown, "Vulnerable\n"), off], 18).mend.unwrap();
    assert!(mend.contains("mitigations=off"), "{mend}");
    // What follows `--` is not the kernel's.
    let inits = ("proc/cmdline", "quiet -- mitigations=off\n");
    let mend = line(&[(&meltdown, "Vulnerable\n"), inits], 18).mend.unwrap();
    assert!(!mend.contains("mitigations=off"), "{mend}");
    assert_eq!(line(&[(&meltdown, "Mitigation: PTI\n")], 18).rating, Rating::Ok);
    assert_eq!(line(&[], 18).rating, Rating::NotApplicable);
}

#[test]
fn microcode_is_somebodys_matter() {
    let srso = format!("{VULNERABLE}spec_rstack_overflow");
    let lacking = (srso.as_str(), "Vulnerable: Safe RET, no microcode\n");
    assert_eq!(line(&[VIRTUAL], 16).rating, Rating::NotApplicable);
    let there = line(&[VIRTUAL, lacking], 16);
    assert_eq!((there.rating, there.serious), (Rating::Warning, false));
    assert!(line(&[INTEL, lacking], 16).serious);
    let mend = line(&[INTEL], 16).mend.unwrap();
    assert!(mend.contains("intel-microcode"), "{mend}");
    assert_eq!(
        line(&[INTEL, ("lib/firmware/intel-ucode/06-55-04", "x")], 16).rating,
        Rating::Ok
    );
    assert_eq!(line(&[], 16).rating, Rating::NotApplicable);
}

#[test]
fn the_time_to_create_a_vm_is_mended_by_what_the_cpu_allows() {
    let itlb = format!("{VULNERABLE}itlb_multihit");
    let (unaffected, affected) = (
        (itlb.as_str(), "Not affected\n"),
        (itlb.as_str(), "KVM: Mitigation: VMX disabled\n"),
    );
    let nx = |value| ("sys/module/kvm/parameters/nx_huge_pages", value);
    let rating = |files: &[(&str, &str)]| line(files, 19).rating;
    assert!(line(&[V61, affected, nx("never\n")], 19).serious);
    // A kernel that does not say is taken at its worst.
    assert!(line(&[V61, nx("never\n")], 19).serious);
    assert_eq!(rating(&[V61, unaffected, nx("never\n")]), Rating::Ok);
    let mend = |files: &[(&str, &str)]| line(files, 19).mend.unwrap();
    assert!(mend(&[V61, unaffected, nx("N\n")]).contains("nx_huge_pages=never"));
    assert!(mend(&[V61, affected, nx("Y\n")]).contains("favordynmods"));
    let mounts = (
        "proc/self/mounts",
        "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,favordynmods 0 0\n",
    );
    assert_eq!(rating(&[V61, affected, mounts]), Rating::Ok);
    assert_eq!(
        rating(&[V61, affected, ("proc/cmdline", "cgroup_favordynmods=true")]),
        Rating::Ok
    );
    assert_eq!(
        rating(&[("proc/sys/kernel/osrelease", "5.10.0-30\n")]),
        Rating::Ok
    );
    let emulated = List::judge(
        &host(&[V61]),
        &Driver {
            kvm: false,
            ..on_kvm()
        },
    );
    assert_eq!(emulated.findings[18].rating, Rating::NotApplicable);
}

#[test]
fn a_slow_console_matters_only_to_a_kernel_that_talks() {
    let consoles = |text| ("proc/consoles", text);
    let serial = "ttyS0                -W- (EC  p a)    4:64\n";
    assert_eq!(line(&[consoles(serial)], 4).rating, Rating::Warning);
    assert_eq!(
        line(&[consoles(serial), ("proc/cmdline", "quiet")], 4).rating,
        Rating::Warning
    );
    assert_eq!(
        line(&[consoles(serial), ("proc/cmdline", "quiet loglevel=1")], 4).rating,
        Rating::Ok
    );
    assert_eq!(
        line(&[consoles(serial), ("proc/sys/kernel/printk", "1\t4\t1\t7\n")], 4).rating,
        Rating::Ok
    );
    assert_eq!(line(&[consoles("tty0 -WU (EC p) 4:1\n")], 4).rating, Rating::Ok);
    assert_eq!(line(&[], 4).rating, Rating::NotApplicable);
}

#[test]
fn a_guests_timer_and_the_arm_counter() {
    let period = |text| ("sys/module/kvm/parameters/min_timer_period_us", text);
    assert_eq!(line(&[period("200\n")], 9).rating, Rating::Warning);
    assert_eq!(line(&[period("1000\n")], 9).rating, Rating::Ok);
    assert_eq!(line(&[period("what\n")], 9).rating, Rating::NotApplicable);

    let on_arm = |release: &str| {
        let facts = Facts {
            arch: "aarch64",
            kernel: Some(release.into()),
            ..Facts::default()
        };
        List::judge(&facts, &on_kvm()).findings[16].rating
    };
    assert_eq!(on_arm("6.1.0-1-arm64"), Rating::Warning);
    assert_eq!(on_arm("6.4.0"), Rating::Ok);
    assert_eq!(on_arm("odd"), Rating::Warning);
    assert_eq!(line(&[], 17).rating, Rating::NotApplicable);
}

#[test]
fn control_groups_and_owners_of_paths() {
    let limited_by = |controllers: &[&'static str], files: &[_]| {
        let driver = Driver {
            controllers: controllers.to_vec(),
            ..on_kvm()
        };
        List::judge(&host(files), &driver).findings[7].clone()
    };
    // What the driver does counts, not what the host could do.
    let host_has = [("sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n")];
    assert_eq!(
        limited_by(&["memory", "cpu", "pids", "io"], &[]).rating,
        Rating::Ok
    );
    let lacking = limited_by(&["cpu", "memory"], &host_has);
    assert!(lacking.reason.ends_with("without io, pids"), "{}", lacking.reason);
    let outside = limited_by(&[], &host_has);
    assert_eq!(outside.rating, Rating::Warning);
    assert!(outside.mend.is_some_and(|m| m.contains("run omnirun where")));
    assert!(limited_by(&[], &[]).mend.is_some_and(|m| m.contains("systemd")));

    let disk = |disk| List::judge(&Facts::default(), &Driver { disk, ..on_kvm() }).findings[9].clone();
    let limited = disk(Some(DiskRate::default()));
    assert_eq!(limited.rating, Rating::Ok);
    for rate in [
        "512 MiB and 25000 operations a second",
        "256 MiB and 100000 packets a second each way",
    ] {
        assert!(limited.reason.contains(rate), "{}", limited.reason);
    }
    assert_eq!(disk(None).rating, Rating::Warning);

    let judge = |uid, gid, mode| {
        let facts = Facts {
            paths: vec![facts::Owned {
                path: Path::new("/opt/bin/firecracker").into(),
                uid,
                gid,
                mode,
            }],
            ..Facts::default()
        };
        List::judge(&facts, &on_kvm()).findings[5].clone()
    };
    assert_eq!(judge(0, 0, 0o100_755).rating, Rating::Ok);
    assert_eq!(judge(0, 0, 0o041_777).rating, Rating::Ok);
    for finding in [
        judge(1234, 0, 0o100_755),
        judge(0, 0, 0o100_757),
        judge(0, 50, 0o040_775),
        judge(0, 0, 0o040_777),
    ] {
        assert!(
            finding.serious && finding.reason.contains("/opt/bin/firecracker"),
            "{finding:?}"
        );
    }
}

#[test]
fn what_the_driver_says_of_itself_counts() {
    let with = |confinement: &str| {
        let driver = Driver {
            confinement: confinement.into(),
            ..on_kvm()
        };
        List::judge(&Facts::default(), &driver).findings
    };
    let good = with("a uid of its own per VM, seccomp, Landlock");
    assert_eq!((good[0].rating, good[6].rating), (Rating::Ok, Rating::Ok));
    let bad = with("the uid of the caller, no seccomp");
    assert!(bad[0].serious && bad[6].serious);
    let own_build =
        "a uid of its own per VM, chroot, seccomp off (a build for the gnu target filters nothing by itself)";
    assert!(with(own_build)[0].serious);
}

#[test]
fn odd_files_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let proc = root.path().join("proc");
    fs::create_dir_all(&proc).unwrap();
    // A pipe that nobody writes to, a folder, bytes that are no text, and far too much of it.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        proc.join("cmdline"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::create_dir(proc.join("consoles")).unwrap();
    fs::write(proc.join("swaps"), [0xff, 0xfe, b'\n', 0xc0]).unwrap();
    fs::write(proc.join("cpuinfo"), vec![b'x'; 4 << 20]).unwrap();
    let facts = Facts::read_below(root.path(), &[]);
    assert_eq!(
        (facts.cmdline.as_deref(), facts.consoles.as_deref()),
        (None, None)
    );
    assert!(facts.cpuinfo.as_ref().is_some_and(|t| t.len() <= 256 << 10));
    assert_eq!(List::judge(&facts, &Driver::default()).findings.len(), 21);
}
