//! The engine over the fake: lives of sandboxes, and that nothing is left of them, wherever they go wrong.

mod network;
mod pool;
mod snapshots;
mod suspended;
mod takeover;

use crate::{
    Begun, ClaimSpec, Engine, EngineError, First, Notice, Sandbox, State, Why,
    testing::{FakeVmm, Fault, Heard, Step, config, spec},
};
use omnirun_guest_client::message::{Exec, Tool};
use omnirun_ids::ByteSize;
use omnirun_store::{VmState, Vms};
use std::{fs::File, future::Future, path::PathBuf, sync::Arc, time::Duration};

struct Bench {
    _tmp: tempfile::TempDir,
    root: PathBuf,
    vmm: FakeVmm,
    heard: Heard,
    engine: Arc<Engine>,
}

async fn bench() -> Bench {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("d");
    let (vmm, heard) = (FakeVmm::default(), Heard::default());
    let engine = Engine::open(config(&root, &vmm, &heard).unwrap()).await.unwrap();
    Bench {
        _tmp: tmp,
        root,
        vmm,
        heard,
        engine,
    }
}

impl Bench {
    /// Another process on the same data folder.
    async fn other(&self) -> Arc<Engine> {
        Engine::open(config(&self.root, &self.vmm, &self.heard).unwrap())
            .await
            .unwrap()
    }

    fn claim(&self) -> ClaimSpec {
        ClaimSpec {
            disk: File::open("/dev/null").unwrap().into(),
            disk_bytes: 1 << 20,
            env: vec![("A".into(), "b".into())],
            user: String::new(),
            cwd: String::new(),
            egress: None,
            purpose: "session s".into(),
        }
    }

    /// Nothing is left: no process, no row, no run folder, nothing half-made.
    fn assert_nothing_left(&self, context: &str) {
        assert_eq!(self.vmm.living(), 0, "{context}: a process lives");
        assert_eq!(
            Vms::new(self.engine.db()).all().unwrap(),
            [],
            "{context}: a row is left"
        );
        for folder in ["run", "tmp", "owners"] {
            let left: Vec<_> = std::fs::read_dir(self.root.join(folder))
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .filter(|name| !name.to_string_lossy().starts_with('.'))
                .collect();
            assert!(left.is_empty(), "{context}: left in {folder}: {left:?}");
        }
    }
}

fn exec() -> First {
    First::Exec(Exec {
        argv: vec![b"hello".to_vec()],
        ..Exec::default()
    })
}

/// One whole life: create, claim, exec, kill.
async fn life(engine: &Engine, claim: ClaimSpec) -> Result<(), EngineError> {
    let sandbox = engine.create(spec()).await?;
    let (_, begun) = sandbox.claim_with(claim, exec()).await?;
    let Begun::Exec(mut exec) = begun else {
        panic!("{begun:?}")
    };
    assert_eq!(exec.wait().await.unwrap().code, Some(0));
    assert!(sandbox.kill().await.is_clean());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_lives_and_leaves_nothing() {
    let b = bench().await;
    let sandbox = b.engine.create(spec()).await.unwrap();
    assert_eq!(sandbox.state(), State::Pooled);
    let claimed = sandbox.claim(b.claim()).await.unwrap();
    assert!(claimed.fresh);
    let row = Vms::new(b.engine.db()).get(sandbox.id()).unwrap().unwrap();
    assert_eq!((row.state, row.purpose.as_str()), (VmState::Claimed, "session s"));
    let seen = b.vmm.seen().pop().unwrap();
    let names: Vec<_> = seen.claims[0].env.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["FROM_TEMPLATE", "A"]);
    assert_eq!(
        (seen.claims[0].user.as_str(), seen.claims[0].cwd.as_str()),
        ("root", "/workspace")
    );

    let again = sandbox.claim(b.claim()).await.unwrap_err();
    assert!(matches!(again, EngineError::Denied { .. }), "{again}");
    let tool = sandbox.guest().tool(Tool::default()).await.unwrap();
    assert!(tool.synced);
    let phases: Vec<_> = sandbox.timings().into_iter().map(|(phase, _)| phase).collect();
    assert_eq!(
        phases,
        [
            "record", "restore", "resume", "connect", "wake", "attach", "claim"
        ]
    );
    let report = sandbox.kill().await;
    assert!(
        report.is_clean() && report.to_string().contains("run folder"),
        "{report}"
    );
    b.engine.shutdown().await;
    b.assert_nothing_left("after a life");
}

#[tokio::test(start_paused = true)]
async fn a_clone_whose_connection_is_reset_is_dialled_again() {
    let b = bench().await;
    b.engine.prepare(&spec()).await.unwrap();
    b.vmm.set_fault(Step::Preface, Fault::Errors(2));
    life(&b.engine, b.claim()).await.unwrap();
    // Not for ever.
    b.vmm.set_fault(Step::Preface, Fault::Errors(3));
    let error = b.engine.create(spec()).await.unwrap_err();
    assert!(
        matches!(error, EngineError::Guest { step: "answer", .. }),
        "{error}"
    );
    b.engine.shutdown().await;
    b.assert_nothing_left("after resets");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_with_the_clone_is_one_exchange() {
    let b = bench().await;
    let claim = b.claim();
    let made = b
        .engine
        .create_claimed(spec(), async move { Ok(claim) }, exec())
        .await
        .unwrap();
    let (sandbox, _, Begun::Exec(mut exec)) = made else {
        panic!("no exec")
    };
    assert_eq!(exec.wait().await.unwrap().code, Some(0));
    assert!(matches!(sandbox.state(), State::Claimed { .. }));
    // A disk that cannot be had ends it before anything ran.
    let failing = async { Err(EngineError::ShuttingDown) };
    assert!(
        b.engine
            .create_claimed(spec(), failing, First::Nothing)
            .await
            .is_err()
    );
    b.engine.shutdown().await;
    b.assert_nothing_left("after create_claimed");
}

#[tokio::test(start_paused = true)]
async fn no_two_wakes_are_alike() {
    let b = bench().await;
    for _ in 0..3 {
        b.engine.create(spec()).await.unwrap();
    }
    let wakes: Vec<_> = b.vmm.seen().into_iter().flat_map(|s| s.wakes).collect();
    assert_eq!(wakes.len(), 3);
    for (i, a) in wakes.iter().enumerate() {
        assert_eq!(a.entropy.len(), 64);
        assert_eq!(a.machine_id.len(), 32);
        for b in &wakes[..i] {
            assert!(a.entropy != b.entropy && a.machine_id != b.machine_id && a.hostname != b.hostname);
        }
    }
    b.engine.shutdown().await;
}

/// Every step of a life, going wrong in every way, leaves nothing; and the next life is a good one.
#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_leaves_nothing() {
    for step in Step::ALL {
        for fault in [Fault::Error, Fault::Hang, Fault::Die] {
            let context = format!("{step:?} {fault:?}");
            let b = bench().await;
            b.vmm.set_fault(step, fault);
            // A VMM that hangs has its own bounds in the driver; here its user gives up.
            let outcome = tokio::time::timeout(Duration::from_secs(1000), life(&b.engine, b.claim())).await;
            assert!(!matches!(outcome, Ok(Ok(()))), "{context}: it went well");
            if matches!(step, Step::Wake | Step::Claim) {
                assert!(
                    b.vmm.seen().iter().all(|s| s.execs == 0),
                    "{context}: it was used"
                );
            }
            b.vmm.clear_faults();
            // With a clock that runs ahead, what nobody ends fails at once and by its name.
            let then = async {
                life(&b.engine, b.claim())
                    .await
                    .unwrap_or_else(|e| panic!("{context}: then {e}"));
                b.engine.shutdown().await;
            };
            let ended = tokio::time::timeout(Duration::from_secs(1000), then).await;
            ended.unwrap_or_else(|_| panic!("{context}: then it stands still"));
            b.assert_nothing_left(&context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_boot_makes_nothing_and_leaves_nothing() {
    let b = bench().await;
    b.engine.try_boot(&spec()).await.unwrap();
    assert_eq!(b.vmm.counts(), (1, 0));
    assert_eq!(b.engine.snapshots().unwrap(), []);
    for step in [Step::Start, Step::Channel, Step::Preface, Step::Warm] {
        for fault in [Fault::Error, Fault::Hang, Fault::Die] {
            b.vmm.set_fault(step, fault);
            let tried = tokio::time::timeout(Duration::from_secs(1000), b.engine.try_boot(&spec())).await;
            assert!(!matches!(tried, Ok(Ok(_))), "{step:?} {fault:?}: it went well");
            b.vmm.clear_faults();
        }
    }
    b.engine.try_boot(&spec()).await.unwrap();
    b.engine.shutdown().await;
    b.assert_nothing_left("after trials");
}

/// Polls a future so many times at most, then drops it.
async fn drop_after(polls: usize, future: impl Future<Output = Result<(), EngineError>>) -> bool {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(cx).map(|_| true)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_at_any_point_leaves_nothing() {
    let b = bench().await;
    life(&b.engine, b.claim()).await.unwrap();
    let mut polls = 0;
    while !drop_after(polls, life(&b.engine, b.claim())).await {
        polls += 1;
        assert!(polls < 1000);
    }
    assert!(polls > 3, "it was dropped at several points");
    b.engine.shutdown().await;
    b.assert_nothing_left("after many were dropped");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_at_any_point_leaves_nothing() {
    for yields in 0..60 {
        let b = bench().await;
        let engine = b.engine.clone();
        let claim = b.claim();
        let busy = tokio::spawn(async move { life(&engine, claim).await });
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        b.engine.shutdown().await;
        let _ = busy.await.unwrap();
        b.assert_nothing_left(&format!("after {yields} yields"));
        let late = b.engine.create(spec()).await.unwrap_err();
        assert!(matches!(late, EngineError::ShuttingDown), "{late}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_dies_is_an_event() {
    let b = bench().await;
    let sandbox = b.engine.create(spec()).await.unwrap();
    sandbox.claim(b.claim()).await.unwrap();
    b.vmm.kill_all();
    assert_eq!(
        sandbox.exited().await,
        Why::Exited {
            code: None,
            signal: Some(9)
        }
    );
    assert!(!sandbox.is_alive());
    let error = sandbox.memory().await.unwrap_err();
    assert!(matches!(error, EngineError::Ended { .. }), "{error}");
    assert!(sandbox.kill().await.is_clean());
    b.engine.shutdown().await;
    b.assert_nothing_left("after a death");
}

#[tokio::test(start_paused = true)]
async fn one_boot_serves_all_who_come_at_once() {
    let b = bench().await;
    let other = b.other().await;
    let (a, c, d) = tokio::join!(
        b.engine.create(spec()),
        b.engine.create(spec()),
        other.create(spec())
    );
    let all: [Sandbox; 3] = [a.unwrap(), c.unwrap(), d.unwrap()];
    assert_eq!(b.vmm.counts(), (1, 3));
    assert!(b.heard.all().contains(&Notice::Waiting), "{:?}", b.heard.all());
    let mut group = spec();
    group.group = crate::IsolationGroup("another".into());
    b.engine.prepare(&group).await.unwrap();
    assert_eq!(b.vmm.counts().0, 2, "another group has a snapshot of its own");
    drop(all);
    b.engine.shutdown().await;
    other.shutdown().await;
    b.assert_nothing_left("after two processes");
}

#[tokio::test(start_paused = true)]
async fn a_truncated_snapshot_is_made_anew_with_a_word() {
    let b = bench().await;
    let template = b.engine.prepare(&spec()).await.unwrap();
    let memory = b
        .root
        .join("snapshots")
        .join(template.digest().as_str())
        .join("memory");
    File::options()
        .write(true)
        .open(&memory)
        .unwrap()
        .set_len(10)
        .unwrap();
    let other = b.other().await;
    life(&other, b.claim()).await.unwrap();
    let said: Vec<_> = b.heard.all().iter().map(ToString::to_string).collect();
    assert!(
        said.iter()
            .any(|s| s.contains("memory has 10 bytes instead of 100000): making")),
        "{said:?}"
    );
    b.engine.shutdown().await;
    other.shutdown().await;
    b.assert_nothing_left("after a truncated snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_the_vmm_refuses_is_made_anew_by_the_next_use() {
    let b = bench().await;
    b.engine.prepare(&spec()).await.unwrap();
    b.vmm.set_fault(Step::Restore, Fault::Error);
    let error = b.engine.create(spec()).await.unwrap_err();
    assert!(matches!(error, EngineError::Vmm { .. }), "{error}");
    b.vmm.clear_faults();
    life(&b.engine, b.claim()).await.unwrap();
    assert_eq!(b.vmm.counts().0, 2, "it was booted again");
    // What fails elsewhere is no fault of the snapshot's.
    b.vmm.set_fault(Step::Resume, Fault::Error);
    assert!(b.engine.create(spec()).await.is_err());
    b.vmm.clear_faults();
    life(&b.engine, b.claim()).await.unwrap();
    assert_eq!(b.vmm.counts().0, 2);
    b.engine.shutdown().await;
    b.assert_nothing_left("after a refused snapshot");
}

#[tokio::test(start_paused = true)]
async fn absurd_sizes_are_refused_before_anything_is_made() {
    let b = bench().await;
    let mut huge = spec();
    huge.size.memory = ByteSize::gib(1 << 20);
    let error = b.engine.create(huge).await.unwrap_err();
    assert!(matches!(error, EngineError::Size(_)), "{error}");
    assert_eq!(b.vmm.counts(), (0, 0));
    b.engine.shutdown().await;
}

/// Waits for a level, within a bound.
async fn until(level: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !level() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("it never came to that");
}
