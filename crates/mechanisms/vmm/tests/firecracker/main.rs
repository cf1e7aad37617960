//! The driver with the real Firecracker, the real jailer and a guest of a few bytes.
//!
//! The programs are those of `FIRECRACKER_BIN` and `JAILER_BIN`, else the ones on PATH; without them, or without
//! `/dev/kvm`, or as another user than root, a test says that it is skipped. A KVM that runs no stock kernel is enough.

mod card;
mod deaths;
mod jail;
#[path = "../port/mod.rs"]
mod port;
#[path = "../tiny/mod.rs"]
mod tiny;
mod traffic;

use omnirun_ids::SandboxId;
use omnirun_vmm::{
    AttachDisk, BootSpec, CloneSpec, DeviceState, Reap, Vm, Vmm, VmmError,
    firecracker::{self, Firecracker},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use tiny::{
    Bench, Files, alive, alive_with, booted, ends_at_once, goes_on_with_its_disk, needs_its_base,
    refuses_another_disk, status, until, waits_to_load,
};

/// The driver; `None`, with a word, where it cannot be.
async fn driver() -> Option<Firecracker> {
    let lacks = if !firecracker::is_there(None) {
        "there is no firecracker or jailer (FIRECRACKER_BIN, JAILER_BIN, PATH)"
    } else if !Path::new("/dev/kvm").exists() {
        "there is no /dev/kvm"
    } else if !rustix::process::geteuid().is_root() {
        "only root builds jails"
    } else {
        return Some(
            Firecracker::find(None, &std::env::temp_dir())
                .await
                .expect("Firecracker"),
        );
    };
    eprintln!("SKIPPED: {lacks}");
    None
}

fn bench() -> Bench {
    let bench = Bench::new();
    // Whoever owns a run folder keeps others out of it.
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o700)).expect("ours");
    bench
}

/// Boots the guest, waits until it runs, and takes its snapshot.
async fn snapshot(bench: &Bench, vmm: &dyn Vmm) -> Files {
    let files = tiny::snapshot(bench, vmm).await;
    let memory = fs::metadata(bench.path("memory")).expect("the memory");
    assert_eq!((memory.uid(), memory.mode() & 0o777), (0, 0o444));
    assert!(
        memory.blocks() * 512 < memory.len() / 2,
        "what is zero takes no room"
    );
    files
}

#[tokio::test]
async fn clones_of_a_snapshot_stay_paused_and_go_on_where_it_was() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let files = snapshot(&bench, &vmm).await;
    let digest = || fs::read(bench.path("memory")).expect("the memory");
    let touched = || {
        let seen = fs::metadata(bench.path("memory")).expect("the memory");
        (seen.ctime(), seen.ctime_nsec(), seen.mtime(), seen.nlink())
    };
    let before = (digest(), touched());

    let (mut clones, mut sandboxes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let spec = bench.clone_of(&files);
        sandboxes.push(spec.identity.sandbox.clone());
        let vm = vmm.restore(spec).await.expect("a clone");
        assert_eq!(vm.console_tail(), "", "nothing runs before it is resumed");
        clones.push(vm);
    }
    for vm in &clones {
        vm.resume().await.expect("it resumes");
    }
    for vm in &clones {
        until("the clone runs", || vm.console_tail().contains("...")).await;
        assert!(!vm.console_tail().contains('B'), "it was not booted again");
    }
    let uids: BTreeSet<String> = clones.iter().map(|vm| status(vm.pid(), "", "Uid")).collect();
    assert_eq!(uids.len(), 3, "{uids:?}");

    // Paused, it stands still; what it has written comes out first.
    let vm = &*clones[0];
    vm.pause().await.expect("it pauses");
    let written = vm.console_tail().len();
    vm.resume().await.expect("it goes on");
    until("it runs again", || vm.console_tail().len() > written).await;
    let (pss, private) = vm.memory().expect("its memory");
    assert!(pss > 0 && private > 0);

    ends_at_once(vm).await;
    let after = vm.resume().await.expect_err("it is gone");
    assert!(
        matches!(after, VmmError::Gone { step: "resume", .. }),
        "{after:?}"
    );

    assert!(alive(clones[1].pid()));
    let pids: Vec<u32> = clones.iter().map(|vm| vm.pid()).collect();
    drop(clones);
    until("dropped machines are gone", || {
        !pids.iter().any(|pid| alive(*pid)) && !sandboxes.iter().any(has_control_group)
    })
    .await;
    assert!(before == (digest(), touched()), "no clone touches the snapshot");
}

#[tokio::test]
async fn a_disk_is_attached_to_a_paused_and_to_a_running_clone() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let files = snapshot(&bench, &vmm).await;
    for running in [false, true] {
        let vm = vmm.restore(bench.clone_of(&files)).await.expect("a clone");
        if running {
            vm.resume().await.expect("it resumes");
        }
        let bytes = 64 << 20;
        // Once with a name, once without one.
        let file = if running {
            File::create_new(bench.path("disk")).expect("a disk")
        } else {
            tempfile::tempfile_in(bench.dir.path()).expect("a disk")
        };
        file.set_len(bytes).expect("sized");
        let disk = AttachDisk {
            file: file.into(),
            bytes,
        };
        vm.attach_disk(disk).await.expect("it is attached");
        refuses_another_disk(&bench, &*vm, bytes).await;
        vm.kill();
        vm.wait().await;
    }
}

#[tokio::test]
async fn a_snapshot_that_lost_its_name_is_still_cloned_and_a_clone_is_snapshot() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let files = snapshot(&bench, &vmm).await;
    for name in ["memory", "state"] {
        fs::remove_file(bench.path(name)).expect("removed");
    }
    let vm = vmm.restore(bench.clone_of(&files)).await.expect("a clone");
    let to = DeviceState {
        memory: bench.path("memory"),
        state: bench.path("state"),
    };
    vm.snapshot(&to).await.expect("it is paused");
    let second = (
        vmm.open_memory(&to.memory).await.expect("it opens"),
        Arc::new(File::open(&to.state).expect("the state").into()),
    );
    ends_at_once(&*vm).await;
    let vm = vmm
        .restore(bench.clone_of(&second))
        .await
        .expect("a clone's clone");
    vm.resume().await.expect("it resumes");
    until("it runs", || vm.console_tail().contains("...")).await;
    ends_at_once(&*vm).await;
}

#[tokio::test]
async fn a_clone_goes_on_from_a_snapshot_of_its_own() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    for tracked in [true, false] {
        let files = snapshot(&bench, &vmm).await;
        let first = fs::read(bench.path("memory")).expect("the memory");
        goes_on_with_its_disk(&bench, &vmm, files, tracked).await;
        // Its guest writes to no memory of its own: what was written is what the devices have in there.
        let last = fs::read(bench.path("memory_2")).expect("the memory");
        let differ = first.chunks(4096).zip(last.chunks(4096)).filter(|(a, b)| a != b);
        assert!(differ.count() < 64, "tracked: {tracked}");
    }
}

#[tokio::test]
async fn a_guest_that_resets_ends_its_machine() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let code: &[u8] = &[
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al: as a kernel that panics does, or one that is told to reboot
        0xf4, 0xeb, 0xfd, // 1: hlt; jmp 1b
    ];
    fs::write(bench.path("vmlinux"), tiny::elf(code)).expect("the kernel");
    let vm = vmm
        .start(bench.boot(bench.identity("reset")))
        .await
        .expect("it boots");
    let exit = vm.wait().await;
    assert_eq!((exit.code, exit.signal), (Some(0), None), "{}", exit.stderr_tail);
}

#[tokio::test]
async fn what_a_dead_owner_left_is_ended_and_nothing_else() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let (left, other) = (bench.identity("left"), bench.identity("other"));
    let vm = vmm.start(bench.boot(left.clone())).await.expect("it boots");
    let bystander = vmm.start(bench.boot(other)).await.expect("it boots");
    let ended = vmm.reap(&left).await.expect("reaped");
    // Its owner lives here, and either of us removes the control group.
    assert!(ended[0].contains(&vm.pid().to_string()), "{ended:?}");
    assert_eq!(vm.wait().await.signal, Some(9));
    assert!(!has_control_group(&left.sandbox));
    assert!(vmm.reap(&left).await.expect("again").is_empty());
    fs::remove_dir_all(&left.run_dir).expect("nothing is mounted in it");
    assert!(alive(bystander.pid()));
    ends_at_once(&*bystander).await;
}

#[tokio::test]
async fn what_cannot_be_is_said_and_leaves_no_process() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let files = snapshot(&bench, &vmm).await;

    fs::write(bench.path("vmlinux"), b"not a kernel").expect("written");
    let identity = bench.identity("nokernel");
    let error = vmm
        .start(bench.boot(identity.clone()))
        .await
        .map(drop)
        .expect_err("no kernel");
    assert!(matches!(error, VmmError::Refused { .. }), "{error:?}");
    until("the process is gone", || {
        !alive_with(&jailed(&identity.sandbox)) && !has_control_group(&identity.sandbox)
    })
    .await;

    let state = fs::read(bench.path("state")).expect("the state");
    let mut flipped = state.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut", state[..state.len() / 2].to_vec()),
        ("garbage", vec![0xa5; 4096]),
        ("flipped", flipped),
    ] {
        let path = bench.path(what);
        fs::write(&path, bytes).expect("written");
        let broken = (
            Arc::clone(&files.0),
            Arc::new(OwnedFd::from(File::open(&path).expect("opened"))),
        );
        let spec = bench.clone_of(&broken);
        let identity = spec.identity.clone();
        let error = vmm.restore(spec).await.map(drop).expect_err(what);
        assert!(
            matches!(error, VmmError::Gone { .. } | VmmError::Refused { .. }),
            "{what}: {error:?}"
        );
        until("the process is gone", || {
            !alive_with(&jailed(&identity.sandbox)) && !has_control_group(&identity.sandbox)
        })
        .await;
    }

    needs_its_base(&bench, &vmm, &files).await;
}

#[tokio::test]
async fn a_process_waits_in_its_jail_to_load_a_snapshot() {
    let Some(vmm) = driver().await else { return };
    let bench = bench();
    let files = snapshot(&bench, &vmm).await;
    waits_to_load(&bench, &vmm, &files, jailed).await;
}

/// What the command line of a sandbox's jailer and Firecracker has in it.
fn jailed(sandbox: &SandboxId) -> String {
    format!("--id\0{}\0", sandbox.as_str().replace('_', "-"))
}

fn has_control_group(sandbox: &SandboxId) -> bool {
    control_groups(sandbox).next().is_some()
}

/// The sandbox's control group, while there is one.
fn control_groups(sandbox: &SandboxId) -> impl Iterator<Item = PathBuf> {
    let id = sandbox.as_str().replace('_', "-");
    let paths = hierarchies()
        .into_iter()
        .map(move |root| root.join("omnirun").join(&id));
    paths.filter(|path| path.exists())
}

/// Where unified hierarchies of control groups are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("our mounts");
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
    });
    roots.collect()
}
