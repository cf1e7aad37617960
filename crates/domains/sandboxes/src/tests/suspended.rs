//! A sandbox that is suspended goes on once, as what it was, or not at all.

use super::*;
use crate::{SandboxSize, SandboxSpec};
use std::{fs, path::Path};

const BINDING: &str = "session s, the first time";

struct Host {
    bench: Bench,
    disk: PathBuf,
    to: PathBuf,
}

impl Host {
    async fn new() -> Self {
        let bench = bench().await;
        let disk = bench.root.join("sessions/disk.raw");
        fs::write(&disk, [0; 4096]).unwrap();
        let to = bench.root.join("sessions/memory");
        Self { bench, disk, to }
    }

    fn claim(&self) -> ClaimSpec {
        ClaimSpec {
            disk: File::open(&self.disk).unwrap().into(),
            disk_bytes: 4096,
            ..self.bench.claim()
        }
    }

    async fn suspended(&self) -> Result<ByteSize, EngineError> {
        let sandbox = self.bench.engine.create(spec()).await.unwrap();
        sandbox.claim(self.claim()).await.unwrap();
        self.suspend(sandbox).await
    }

    async fn suspend(&self, sandbox: Sandbox) -> Result<ByteSize, EngineError> {
        let Self { bench, disk, to } = self;
        bench.engine.suspend(sandbox, BINDING, disk, to).await
    }

    async fn resumed(&self) -> Result<Sandbox, EngineError> {
        let engine = &self.bench.engine;
        engine.resume(&spec(), BINDING, &self.to, self.claim()).await
    }

    async fn assert_nothing_left(self, context: &str) {
        assert!(!self.to.exists(), "{context}: files are left");
        self.bench.engine.shutdown().await;
        self.bench.assert_nothing_left(context);
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_as_what_it_was_again_and_again() {
    let host = Host::new().await;
    let bytes = host.suspended().await.unwrap();
    assert!(bytes >= ByteSize(100_000), "{bytes}");
    assert_eq!(host.bench.vmm.living(), 0, "its memory is free");
    for round in 0..3 {
        let sandbox = host.resumed().await.unwrap();
        assert!(!host.to.exists(), "it is used up");
        assert!(matches!(sandbox.state(), State::Claimed { purpose } if purpose == "session s"));
        let row = Vms::new(host.bench.engine.db())
            .get(sandbox.id())
            .unwrap()
            .unwrap();
        assert_eq!((row.state, row.purpose.as_str()), (VmState::Claimed, "session s"));
        assert!(sandbox.guest().tool(Tool::default()).await.unwrap().synced);
        let seen = host.bench.vmm.seen().pop().unwrap();
        assert!(seen.goes_on && seen.claims.is_empty(), "round {round}");
        assert!(seen.wakes[0].entropy.len() >= 32 && seen.wakes[0].realtime_ns > 0);
        host.suspend(sandbox).await.unwrap();
    }
    let wakes = host.bench.vmm.seen().into_iter().flat_map(|seen| seen.wakes);
    let mut entropy: Vec<_> = wakes.map(|wake| wake.entropy).collect();
    let drawn = entropy.len();
    entropy.sort();
    entropy.dedup();
    assert_eq!(entropy.len(), drawn, "the same entropy twice");
    assert_eq!(host.bench.vmm.damaged(), 0);
    host.resumed().await.unwrap().kill().await;
    // What is used up is not used again.
    host.resumed().await.unwrap_err();
    host.assert_nothing_left("after its end").await;
}

/// Another file with the same name, in which one bit differs.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    let mode = fs::metadata(path).unwrap().permissions();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_or_was_changed_is_refused_and_gone() {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 7] = [
        ("memory", |to, _| flip(&to.join("memory"))),
        ("state", |to, _| flip(&to.join("state"))),
        ("manifest", |to, _| flip(&to.join("manifest.json"))),
        ("no manifest", |to, _| {
            fs::remove_file(to.join("manifest.json")).unwrap()
        }),
        ("no memory", |to, _| fs::remove_file(to.join("memory")).unwrap()),
        ("a link", |to, disk| {
            fs::remove_file(to.join("state")).unwrap();
            std::os::unix::fs::symlink(disk, to.join("state")).unwrap();
        }),
        ("the disk", |_, disk| flip(disk)),
    ];
    for (what, change) in changes {
        let host = Host::new().await;
        host.suspended().await.unwrap();
        change(&host.to, &host.disk);
        let error = host.resumed().await.expect_err(what);
        assert!(matches!(error, EngineError::Snapshot(_)), "{what}: {error}");
        host.assert_nothing_left(what).await;
    }
    // Another's, or of another machine.
    let larger = SandboxSpec {
        size: SandboxSize {
            vcpus: 2,
            ..spec().size
        },
        ..spec()
    };
    for (spec, binding) in [(spec(), "session s, the second time"), (larger, BINDING)] {
        let host = Host::new().await;
        host.suspended().await.unwrap();
        let engine = &host.bench.engine;
        let error = engine.resume(&spec, binding, &host.to, host.claim()).await;
        assert!(matches!(error, Err(EngineError::Snapshot(_))), "{error:?}");
        host.assert_nothing_left(binding).await;
    }
    // A template is none, though its manifest has the same key.
    let host = Host::new().await;
    let template = host.bench.engine.prepare(&spec()).await.unwrap();
    let folder = host.bench.root.join("snapshots").join(template.digest().as_str());
    fs::rename(folder, &host.to).unwrap();
    host.resumed().await.unwrap_err();
    host.assert_nothing_left("a template").await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_on_the_way_leaves_nothing() {
    for fault in [Fault::Error, Fault::Die, Fault::Hang] {
        for step in [Step::Pause, Step::Snapshot] {
            let host = Host::new().await;
            let sandbox = host.bench.engine.create(spec()).await.unwrap();
            sandbox.claim(host.claim()).await.unwrap();
            host.bench.vmm.set_fault(step, fault);
            if fault == Fault::Hang {
                // Only its end ends it.
                let ended = tokio::time::timeout(Duration::from_secs(5), host.suspend(sandbox)).await;
                assert!(ended.is_err());
            } else {
                host.suspend(sandbox).await.unwrap_err();
            }
            host.assert_nothing_left(&format!("{step:?} {fault:?}")).await;
        }
        for step in [
            Step::OpenMemory,
            Step::Restore,
            Step::Channel,
            Step::Resume,
            Step::Wake,
        ] {
            let host = Host::new().await;
            host.suspended().await.unwrap();
            host.bench.vmm.set_fault(step, fault);
            if fault == Fault::Hang {
                let _ = tokio::time::timeout(Duration::from_secs(5), host.resumed()).await;
            } else {
                host.resumed().await.unwrap_err();
            }
            host.bench.vmm.clear_faults();
            // The template is not to blame.
            let (boots, _) = host.bench.vmm.counts();
            life(&host.bench.engine, host.claim()).await.unwrap();
            assert_eq!(host.bench.vmm.counts().0, boots);
            host.assert_nothing_left(&format!("{step:?} {fault:?}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_nobodys_is_not_suspended() {
    let host = Host::new().await;
    let sandbox = host.bench.engine.create(spec()).await.unwrap();
    let error = host.suspend(sandbox).await.unwrap_err();
    assert!(matches!(error, EngineError::Denied { .. }), "{error}");
    host.assert_nothing_left("nobody's").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_process_was_writing_when_it_died_is_cleared_up() {
    let host = Host::new().await;
    let dead = host.bench.other().await;
    let left = host
        .bench
        .root
        .join("tmp")
        .join(format!("memory-x.{}", dead.owner()));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("memory"), [1; 100]).unwrap();
    dead.die();
    host.bench.engine.take_over().await.unwrap();
    assert!(!left.exists());
    host.assert_nothing_left("a dead process's").await;
}
