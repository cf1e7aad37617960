//! The driver with a real QEMU and a guest of a few bytes.

#[allow(dead_code, reason = "the guest of these tests does not use its card")]
mod port;
mod tiny;

use omnirun_vmm::{AttachDisk, BootSpec, CloneSpec, DeviceState, DriverChoice, Vm, Vmm, VmmError};
use port::Port;
use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use tiny::{
    Bench, alive, alive_with, ends_at_once, goes_on_with_its_disk, needs_its_base, refuses_another_disk,
    snapshot, status, until, waits_to_load,
};

async fn qemu() -> Arc<dyn Vmm> {
    omnirun_vmm::detect(DriverChoice::Qemu, None, &std::env::temp_dir())
        .await
        .expect("QEMU")
}

/// Root of a container may lack the capability to limit another user's process.
fn may_limit() -> bool {
    let text = fs::read_to_string("/proc/self/status").expect("our status");
    let caps = text
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .expect("capabilities");
    let caps = u64::from_str_radix(caps.trim(), 16).expect("a number");
    const SYS_RESOURCE: u32 = 24;
    !rustix::process::geteuid().is_root() || caps & (1 << SYS_RESOURCE) != 0
}

#[tokio::test]
async fn a_process_waits_to_load_a_snapshot() {
    let bench = Bench::new();
    let vmm = qemu().await;
    let files = snapshot(&bench, &*vmm).await;
    waits_to_load(&bench, &*vmm, &files, |sandbox| format!("omnirun-{sandbox}\0")).await;
}

#[tokio::test]
async fn clones_of_a_snapshot_stay_paused_and_go_on_where_it_was() {
    let bench = Bench::new();
    let vmm = qemu().await;
    let files = snapshot(&bench, &*vmm).await;
    let digest = || fs::read(bench.path("memory")).expect("the memory");
    let before = digest();

    // At the same moment: they share the files, and each must read them from the start.
    let clones = futures_join(
        &*vmm,
        [
            bench.clone_of(&files),
            bench.clone_of(&files),
            bench.clone_of(&files),
        ],
    )
    .await;
    for vm in &clones {
        assert_eq!(vm.console_tail(), "", "nothing runs before it is resumed");
        vm.resume().await.expect("it resumes");
    }
    for vm in &clones {
        until("the clone runs", || vm.console_tail().contains("...")).await;
        assert!(
            !vm.console_tail().contains('B'),
            "it was not booted again: {}",
            vm.console_tail()
        );
    }

    // Confined as its driver says.
    let vm = &*clones[0];
    assert_eq!(status(vm.pid(), "", "Seccomp"), "2");
    assert_eq!(status(vm.pid(), "", "NoNewPrivs"), "1");
    assert_eq!(status(vm.pid(), "", "CapEff"), "0000000000000000");
    if vmm.facts().confinement.starts_with("a uid of its own") {
        let ids: Vec<String> = clones.iter().map(|vm| status(vm.pid(), "", "Uid")).collect();
        assert!(
            ids[0] != ids[1] && ids[1] != ids[2] && !ids[0].starts_with("0\t"),
            "{ids:?}"
        );
    }
    // An ordinary user may not read what belongs to a subordinate id.
    if let Ok(environment) = fs::read(format!("/proc/{}/environ", vm.pid())) {
        assert!(environment.is_empty());
    }
    let (pss, private) = vm.memory().expect("its memory");
    assert!(pss > 0 && private > 0);

    ends_at_once(vm).await;
    let after = vm.resume().await.expect_err("it is gone");
    assert!(matches!(after, VmmError::Gone { step: "cont", .. }), "{after:?}");

    // The others do not notice; a handle that is dropped takes its process along.
    assert!(alive(clones[1].pid()));
    let pids: Vec<u32> = clones.iter().map(|vm| vm.pid()).collect();
    drop(clones);
    until("dropped machines are gone", || {
        !pids.iter().any(|pid| alive(*pid))
    })
    .await;
    assert!(before == digest(), "no clone writes to the snapshot");
}

async fn futures_join(vmm: &dyn Vmm, specs: [CloneSpec; 3]) -> [Box<dyn Vm>; 3] {
    let [a, b, c] = specs;
    let (a, b, c) = tokio::join!(vmm.restore(a), vmm.restore(b), vmm.restore(c));
    [a.expect("a clone"), b.expect("a clone"), c.expect("a clone")]
}

#[tokio::test]
async fn a_clone_goes_on_from_a_snapshot_of_its_own() {
    let bench = Bench::new();
    let vmm = qemu().await;
    let files = snapshot(&bench, &*vmm).await;
    goes_on_with_its_disk(&bench, &*vmm, files, true).await;
}

#[tokio::test]
async fn a_card_is_a_descriptor_and_says_nothing_by_itself() {
    let Some(first) = Port::new() else { return };
    let (bench, vmm) = (Bench::new(), qemu().await);
    let spec = BootSpec {
        network: Some(first.nic()),
        ..bench.boot(bench.identity("boot"))
    };
    let booted = vmm.start(spec).await.expect("it boots");
    until("the guest has booted", || booted.console_tail().contains("B.")).await;
    assert!(!first.is_free() && !first.has(booted.pid()));
    booted.pause().await.expect("it pauses");
    let to = DeviceState {
        memory: bench.path("memory"),
        state: bench.path("state"),
    };
    booted.snapshot(&to).await.expect("it is snapshot");
    ends_at_once(&*booted).await;
    assert!(first.is_free(), "the tap goes back");
    let files = (
        vmm.open_memory(&to.memory).await.expect("the memory opens"),
        Arc::new(File::open(&to.state).expect("the state").into()),
    );

    let second = Port::new().expect("another");
    let spec = CloneSpec {
        network: Some(second.nic()),
        ..bench.clone_of(&files)
    };
    let clone = vmm.restore(spec).await.expect("a clone");
    clone.resume().await.expect("it resumes");
    until("the clone runs", || clone.console_tail().contains("...")).await;
    assert!(!second.is_free() && !second.has(clone.pid()));
    assert_eq!(status(clone.pid(), "", "CapEff"), "0000000000000000");
    // It would announce itself five times within this time, beginning when it runs.
    let speaks = until("it says something", || first.frames() + second.frames() > 0);
    let spoke = tokio::time::timeout(Duration::from_secs(2), speaks).await;
    assert!(spoke.is_err());
    ends_at_once(&*clone).await;

    // The device state knows of a card.
    let error = vmm
        .restore(bench.clone_of(&files))
        .await
        .map(drop)
        .expect_err("no card");
    assert!(
        matches!(error, VmmError::Gone { .. } | VmmError::Refused { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_disk_is_attached_to_a_paused_and_to_a_running_clone() {
    let bench = Bench::new();
    let vmm = qemu().await;
    let files = snapshot(&bench, &*vmm).await;
    for running in [false, true] {
        let vm = vmm.restore(bench.clone_of(&files)).await.expect("a clone");
        if running {
            vm.resume().await.expect("it resumes");
        }
        let bytes = 64 << 20;
        let disk = tempfile::tempfile().expect("a disk");
        disk.set_len(bytes).expect("sized");
        vm.attach_disk(AttachDisk {
            file: disk.into(),
            bytes,
        })
        .await
        .expect("it is attached");
        if may_limit() {
            let limits = fs::read_to_string(format!("/proc/{}/limits", vm.pid())).expect("its limits");
            let line = limits
                .lines()
                .find(|l| l.starts_with("Max file size"))
                .unwrap_or_default();
            assert_eq!(
                line.split_whitespace()
                    .filter(|w| *w == bytes.to_string())
                    .count(),
                2,
                "{line}"
            );
        }
        refuses_another_disk(&bench, &*vm, bytes).await;
        vm.kill();
        vm.wait().await;
    }
}

#[tokio::test]
async fn a_new_channel_replaces_the_earlier_one() {
    use tokio::io::AsyncReadExt;
    let bench = Bench::new();
    let vmm = qemu().await;
    let vm = vmm
        .start(bench.boot(bench.identity("channel")))
        .await
        .expect("it boots");
    let mut first = vm.channel().await.expect("a channel");
    let mut second = vm.channel().await.expect("another");
    assert_eq!(first.read(&mut [0u8; 8]).await.expect("its end is seen"), 0);
    vm.kill();
    // It ends with the VMM: as an end or, for bytes never read, as a reset.
    let end = tokio::time::timeout(Duration::from_secs(10), second.read(&mut [0u8; 8]))
        .await
        .expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn what_a_dead_owner_left_is_ended_and_nothing_else() {
    let bench = Bench::new();
    let vmm = qemu().await;
    let (left, other) = (bench.identity("left"), bench.identity("other"));
    let vm = vmm.start(bench.boot(left.clone())).await.expect("it boots");
    let bystander = vmm.start(bench.boot(other)).await.expect("it boots");
    let ended = vmm.reap(&left).await.expect("reaped");
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert!(ended[0].contains(&vm.pid().to_string()));
    assert_eq!(vm.wait().await.signal, Some(9));
    assert!(vmm.reap(&left).await.expect("again").is_empty());
    assert!(alive(bystander.pid()));
}

#[tokio::test]
async fn what_cannot_be_is_said_and_leaves_no_process() {
    let bench = Bench::new();
    let vmm = qemu().await;
    let files = snapshot(&bench, &*vmm).await;

    fs::write(bench.path("kernel"), b"not a kernel").expect("written");
    let identity = bench.identity("nokernel");
    let error = vmm
        .start(bench.boot(identity.clone()))
        .await
        .map(drop)
        .expect_err("no kernel");
    assert!(
        matches!(&error, VmmError::Gone { tail, .. } if tail.contains("kernel")),
        "{error:?}"
    );
    assert!(vmm.reap(&identity).await.expect("reaped").is_empty());

    let state = fs::read(bench.path("state")).expect("the state");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut", state[..state.len() / 2].to_vec()),
        ("garbage", vec![0xa5; 4096]),
    ] {
        let path = bench.path(what);
        fs::write(&path, bytes).expect("written");
        let broken = (
            Arc::clone(&files.0),
            Arc::new(OwnedFd::from(File::open(&path).expect("opened"))),
        );
        let spec = bench.clone_of(&broken);
        let identity = spec.identity.clone();
        let started = Instant::now();
        let error = vmm.restore(spec).await.map(drop).expect_err(what);
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{what} took {:?}",
            started.elapsed()
        );
        assert!(
            matches!(error, VmmError::Gone { .. } | VmmError::Refused { .. }),
            "{what}: {error:?}"
        );
        until("the process is gone", || {
            !alive_with(&format!("omnirun-{}\0", identity.sandbox))
        })
        .await;
    }

    needs_its_base(&bench, &*vmm, &files).await;
}
