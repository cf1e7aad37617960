//! All that a jailed Firecracker is, has and can reach, as the kernel tells it, against a list of what it should be. What
//! is new in a jail is in one of these lists, or fails here.

mod seen;

use super::*;
use crate::port::Port;

/// What there is of a machine that was restored, runs and has its session disk.
const CLONE: &[&str] = &[
    "file f 0444 root memory",
    "file f 0444 root state",
    "file f 0600 vm session",
    "mount /memory ro,nosuid,nodev,noexec",
    "mount /state ro,nosuid,nodev,noexec",
    "open r /memory",
    "open rw /session",
];

/// What there is of one that was booted.
const BOOTED: &[&str] = &[
    "file f 0644 root initramfs",
    "file f 0644 root vmlinux",
    "mount /initramfs ro,nosuid,nodev,noexec",
    "mount /vmlinux ro,nosuid,nodev,noexec",
    "open rw /placeholder",
];

/// Without a network card.
const AIR_GAP: &[&str] = &["interface lo, down"];

/// With one: it is in that one's namespace. No system call that its filter allows makes a socket of it.
const CARD: &[&str] = &["interface lo, down", "interface tap0, up", "open rw /dev/net/tun"];

/// What there is of either.
const ALL: &[&str] = &[
    // Its folders and devices are made by the jailer, which gives them away. What starts the program is the VM's own as
    // well: nobody else runs it.
    "file c 0600 vm dev/kvm",
    "file c 0600 vm dev/net/tun",
    "file c 0600 vm dev/urandom",
    "file d 0700 vm ",
    "file d 0700 vm dev",
    "file d 0700 vm dev/net",
    "file d 0700 vm run",
    "file f 0600 vm placeholder",
    "file f 0644 root base",
    "file f 0644 root firecracker.pid",
    "file d 0755 root bin",
    "file f 0755 root bin/firecracker",
    "file f 0755 vm firecracker",
    "file p 0600 vm log",
    "file p 0600 vm metrics",
    "file s 0755 vm run/agent.sock",
    "file s 0755 vm run/api.sock",
    "mount / rw",
    "mount /base ro,nosuid,nodev,noexec",
    "mount /bin/firecracker ro,nosuid,nodev",
    "open r /base",
    "open r /dev/null",
    "open rw /dev/kvm",
    "open rw /log",
    "open rw /metrics",
    "open rw anon_inode:[eventfd]",
    "open rw anon_inode:[eventpoll]",
    "open rw anon_inode:[timerfd]",
    "open rw anon_inode:kvm-vcpu:0",
    "open rw anon_inode:kvm-vm",
    // Two that it listens on, and the owner's connection to its API.
    "open rw socket: 3",
    // The console, and the log for what is said before the log is open.
    "open w pipe: 1",
    "open w the log",
    "socket listens /run/agent.sock",
    "socket listens /run/api.sock",
    "namespace cgroup the host's",
    "namespace ipc its own",
    "namespace mnt its own",
    "namespace net its own",
    "namespace pid its own",
    "namespace pid_for_children its own",
    "namespace time the host's",
    "namespace time_for_children the host's",
    "namespace user the host's",
    // Its system calls have none that asks for the host's name.
    "namespace uts the host's",
    "place cwd /",
    "place exe /bin/firecracker",
    "place root /",
    "identity Groups ",
    "identity Gid vm vm vm vm",
    "identity Uid vm vm vm vm",
    "identity first of its pid namespace, and of a session",
    "oom_score_adj 500",
    "thread fc_api",
    "thread fc_vcpu 0",
    "thread firecracker",
    "limit Max core file size 0 0",
    "limit Max open files 1024 1024",
];

#[tokio::test]
async fn a_jail_has_only_what_its_machine_needs() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    for name in ["base", "vmlinux", "initramfs"] {
        fs::set_permissions(bench.path(name), fs::Permissions::from_mode(0o644)).expect("ours");
    }
    let files = snapshot(&bench, &vmm).await;
    let identity = bench.identity("booted");
    let booted = vmm.start(bench.boot(identity.clone())).await.expect("it boots");
    // A snapshot of its memory, and little else.
    let writes = (tiny::SIZE.memory_mib << 20) + (64 << 20);
    compare(&vmm, &*booted, &identity.sandbox, [BOOTED, AIR_GAP], writes);
    ends_at_once(&*booted).await;
    assert!(!has_control_group(&identity.sandbox), "it goes with the process");

    let spec = bench.clone_of(&files);
    let sandbox = spec.identity.sandbox.clone();
    let clone = vmm.restore(spec).await.expect("a clone");
    clone.resume().await.expect("it resumes");
    let bytes = 8 << 20;
    let file = File::create_new(bench.path("disk")).expect("a disk");
    fs::set_permissions(bench.path("disk"), fs::Permissions::from_mode(0o600)).expect("ours");
    file.set_len(bytes).expect("sized");
    let disk = AttachDisk {
        file: file.into(),
        bytes,
    };
    clone.attach_disk(disk).await.expect("it is attached");
    compare(&vmm, &*clone, &sandbox, [CLONE, AIR_GAP], bytes);
    ends_at_once(&*clone).await;

    if let Some(port) = Port::new() {
        let identity = bench.identity("card");
        let spec = BootSpec {
            network: Some(port.nic()),
            ..bench.boot(identity.clone())
        };
        let booted = vmm.start(spec).await.expect("it boots");
        compare(&vmm, &*booted, &identity.sandbox, [BOOTED, CARD], writes);
        ends_at_once(&*booted).await;
    }

    let ours = fs::read_to_string("/proc/self/mountinfo").expect("our mounts");
    assert!(!ours.contains("/root/base"), "nothing is mounted on the host");
}

#[tokio::test]
async fn its_group_has_limits_though_another_owner_has_only_just_made_the_parent() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    // What another owner has done when it is about to open the parent to the controllers.
    for root in hierarchies() {
        let _ = fs::create_dir(root.join("omnirun"));
    }
    let identity = bench.identity("booted");
    let booted = vmm.start(bench.boot(identity.clone())).await.expect("it boots");
    let confinement = &vmm.facts().confinement;
    let limited = confinement.split("with limits (").nth(1).unwrap_or_default();
    for (controller, file) in [("memory", "memory.max"), ("cpu", "cpu.max"), ("pids", "pids.max")] {
        for group in control_groups(&identity.sandbox).filter(|_| limited.contains(controller)) {
            let limit = fs::read_to_string(group.join(file)).expect("its limit");
            assert!(!limit.starts_with("max"), "{file}: {limit}");
        }
    }
    ends_at_once(&*booted).await;
}

/// `writes` is how large a file may become that it writes to.
fn compare(vmm: &Firecracker, vm: &dyn Vm, sandbox: &SandboxId, kinds: [&[&str]; 2], writes: u64) {
    let pid = vm.pid();
    let mut expected: BTreeSet<String> = ALL
        .iter()
        .chain(kinds.concat().iter())
        .map(|line| (*line).to_owned())
        .collect();
    let mut also = |line: &str| expected.insert(line.to_owned());
    if vmm.facts().confinement.contains("OmniRun's filter") {
        also("file f 0444 root seccomp.bpf");
    }
    if fs::read_to_string("/proc/misc").is_ok_and(|m| m.contains("userfaultfd")) {
        also("file c 0600 vm dev/userfaultfd");
    }
    let mut caps = u64::from_str_radix(&status(std::process::id(), "", "CapEff"), 16).expect("a number");
    caps &= 1 << 24;
    if caps != 0 {
        // Only who has CAP_SYS_RESOURCE may set it for another user's process.
        also(&format!("limit Max file size {writes} {writes}"));
    }
    let hierarchy = !vmm.facts().confinement.contains("no control group");
    assert_eq!(has_control_group(sandbox), hierarchy);
    if hierarchy {
        let id = sandbox.as_str().replace('_', "-");
        also(&format!("cgroup /omnirun/{id}"));
    }

    let mut seen = seen::all(pid);
    // The kernel's own, where it counts one of KVM's workers among the process's threads.
    seen.remove("thread kvm-nx-lpage-re");
    let new: Vec<_> = seen.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    assert!(
        new.is_empty() && missing.is_empty(),
        "new: {new:#?}\nmissing: {missing:#?}"
    );
}
