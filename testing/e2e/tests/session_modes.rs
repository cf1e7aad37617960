//! Sessions over real guests: what carries over from call to call in either mode, and what survives which death.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_e2e::{data, wait_until};
use omnirun_ids::{ByteSize, SessionKey};
use omnirun_images::ImageStore;
use omnirun_redact::Guest;
use omnirun_sandboxes::{Engine, EngineConfig, SandboxSize, SnapshotLimits};
use omnirun_sessions::{
    CallOutcome, EnginePlatform, Hands, HandsError, HandsFactory, Isolation, Release, SessionFactory,
    SessionsConfig, ToolCall,
};
use omnirun_store::{DataDir, Db, sessions::SessionHash};
use omnirun_vmm::qemu::Qemu;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// What a worker process has, without the queue protocol.
struct Worker {
    engine: Arc<Engine>,
    factory: SessionFactory,
}

impl Worker {
    async fn start(isolation: Isolation, seed: Option<PathBuf>) -> Self {
        let dir = DataDir::open(Some(data().to_owned())).unwrap();
        let db = Db::open(&dir).unwrap();
        let engine = Engine::open(EngineConfig {
            data: dir.clone(),
            db: db.clone(),
            vmm: Arc::new(Qemu::find().await.unwrap()),
            command: "session_modes".to_owned(),
            pool_memory: None,
            snapshots: SnapshotLimits::default(),
            say: Arc::new(|notice| eprintln!("{notice}")),
        })
        .await
        .unwrap();
        let platform = EnginePlatform::new(engine.clone(), ImageStore::open(dir.root()).unwrap());
        let config = SessionsConfig {
            isolation,
            seed,
            size: SandboxSize {
                vcpus: 1,
                memory: ByteSize::mib(256),
            },
            disk: ByteSize::gib(1),
            ..SessionsConfig::new("default".parse().unwrap())
        };
        let factory = SessionFactory::new(config, Arc::new(platform), &db, &dir).unwrap();
        Self { engine, factory }
    }

    async fn open(&self, key: &SessionKey) -> Box<dyn Hands> {
        self.factory.open(key, &BTreeMap::new()).await.unwrap()
    }

    async fn stop(self) {
        let reports = self.engine.shutdown().await;
        assert!(reports.iter().all(|r| r.is_clean()), "{reports:?}");
    }
}

/// A session of this test run alone.
fn key(name: &str) -> SessionKey {
    SessionKey {
        origin: "http://e2e".to_owned(),
        environment: "env_e2e".parse().unwrap(),
        session: format!("sesn_{name}_{}", std::process::id()).parse().unwrap(),
    }
}

fn bash(command: &str) -> ToolCall {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    call(&format!("sevt_{n}"), "bash", &json!({ "command": command }))
}

fn call(id: &str, name: &str, input: &serde_json::Value) -> ToolCall {
    ToolCall {
        id: id.parse().unwrap(),
        name: name.to_owned(),
        input: Guest(input.to_string()),
    }
}

fn text(outcome: &CallOutcome) -> String {
    let blocks = outcome.content_json();
    blocks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|b| b["text"].as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs a call, posts it as a worker does, and returns what the model would see.
async fn run(hands: &mut Box<dyn Hands>, command: &str) -> String {
    run_call(hands, &bash(command)).await
}

async fn run_call(hands: &mut Box<dyn Hands>, call: &ToolCall) -> String {
    let outcome = hands.call(call, CancellationToken::new()).await.unwrap();
    eprintln!("{:?} {:?}", outcome.sandbox, outcome.timings);
    hands.posted(&call.id).await.unwrap();
    text(&outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_call_carries_files_and_the_shell_but_no_kernel() {
    let worker = Worker::start(Isolation::Call, None).await;
    let key = key("call");
    let mut hands = worker.open(&key).await;

    let first = run(&mut hands, "cat /proc/sys/kernel/random/boot_id; echo kept > f; mkdir -p sub; cd sub; v=7; \
                                 export e=8; g() { echo from-g; }; umask 027; alias ll='ls -l'; echo planted > /tmp/t")
        .await;
    let boot = first.lines().next().unwrap().to_owned();
    assert_eq!(boot.len(), 36, "{first}");
    let second = run(
        &mut hands,
        "cat /proc/sys/kernel/random/boot_id; cat ../f; pwd; echo $v; printenv e; g; umask",
    )
    .await;
    let lines: Vec<_> = second.lines().collect();
    assert_ne!(lines[0], boot, "two calls shared a kernel");
    assert_eq!(
        &lines[1..],
        ["kept", "/workspace/sub", "7", "8", "from-g", "0027"],
        "{second}"
    );

    // What is in a kernel's memory alone goes with it.
    let planted = run(
        &mut hands,
        "sysctl -w kernel.panic_print=3 2>&1 || echo 3 > /proc/sys/kernel/panic_print; \
                                   cat /proc/sys/kernel/panic_print",
    )
    .await;
    let after = run(&mut hands, "cat /proc/sys/kernel/panic_print").await;
    eprintln!("planted {planted:?}, after {after:?}");
    assert_eq!(after.trim(), "0", "{planted}");

    let left = run(&mut hands, "sleep 1000 & echo started").await;
    assert!(
        left.contains("started") && left.contains("still running at the end of this call"),
        "{left}"
    );
    let failed = run(&mut hands, "cd /tmp; exit 7").await;
    assert!(failed.contains('7'), "{failed}");
    assert_eq!(
        run(&mut hands, "pwd").await.trim(),
        "/tmp",
        "an exit keeps the state"
    );

    // The file tools see the same files.
    let read = run_call(
        &mut hands,
        &call("sevt_read", "read", &json!({ "file_path": "/workspace/f" })),
    )
    .await;
    assert_eq!(read.trim(), "kept");
    hands.close(Release::Keep).await.unwrap();

    // Another work item of the same session, another process: all of it is still there.
    let mut hands = worker.open(&key).await;
    assert_eq!(run(&mut hands, "cat /workspace/f; pwd").await, "kept\n/tmp");
    let removed = hands.close(Release::Remove).await.unwrap();
    assert!(
        removed.iter().any(|r| r.contains("disk of session")),
        "{removed:?}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_session_keeps_one_vm_until_it_is_closed() {
    let worker = Worker::start(Isolation::Session, None).await;
    let key = key("session");
    let mut hands = worker.open(&key).await;
    let boot = run(&mut hands, "cat /proc/sys/kernel/random/boot_id; echo kept > f").await;
    run(&mut hands, "v=7; cd /tmp; sleep 1000 & echo $! > /workspace/pid").await;
    let second = run(
        &mut hands,
        "cat /proc/sys/kernel/random/boot_id; echo $v; pwd; kill -0 $(cat /workspace/pid) && echo lives",
    )
    .await;
    let lines: Vec<_> = second.lines().collect();
    assert_eq!(lines, [boot.trim(), "7", "/tmp", "lives"], "{second}");
    hands.close(Release::Keep).await.unwrap();

    let mut hands = worker.open(&key).await;
    let third = run(&mut hands, "cat /workspace/f; echo \"v=$v\"").await;
    assert!(
        third.starts_with("kept\nv=") && third.contains("was restarted"),
        "{third}"
    );
    assert!(!run(&mut hands, "true").await.contains("was restarted"));
    hands.close(Release::Remove).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_keeps_its_partial_output_and_its_files() {
    for isolation in [Isolation::Call, Isolation::Session] {
        let worker = Worker::start(isolation, None).await;
        let mut hands = worker.open(&key(&format!("cancel_{}", isolation.as_str()))).await;
        run(&mut hands, "true").await;
        let cancel = CancellationToken::new();
        let running = bash("echo begun | tee /workspace/f; sleep 1000; echo never");
        let begun = Instant::now();
        let stop = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(hands.call(&running, cancel.clone()), stop);
        let outcome = outcome.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
        let seen = text(&outcome);
        assert!(
            outcome.is_error && seen.contains("begun") && !seen.contains("never"),
            "{seen}"
        );
        assert!(
            run(&mut hands, "cat /workspace/f; echo next")
                .await
                .starts_with("begun\nnext")
        );
        hands.close(Release::Remove).await.unwrap();
        worker.stop().await;
    }
}

/// Run by the tests below as another process: a worker that serves one call and then waits to be killed.
#[test]
fn child_that_serves_one_call() {
    let (Some(name), Some(command)) = (std::env::var_os("E2E_SESSION"), std::env::var_os("E2E_COMMAND"))
    else {
        return;
    };
    let key = SessionKey {
        session: name.into_string().unwrap().parse().unwrap(),
        ..key("x")
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let worker = Worker::start(Isolation::Call, None).await;
        let mut hands = worker.open(&key).await;
        let running = call(
            "sevt_child",
            "bash",
            &json!({ "command": command.to_str().unwrap() }),
        );
        println!("\ncalling");
        let outcome = hands.call(&running, CancellationToken::new()).await.unwrap();
        println!("\ndone {}", text(&outcome).replace('\n', " "));
        std::future::pending::<()>().await;
    });
}

/// Starts that child and kills it after a line that it prints; `after` more.
fn kill_child(key: &SessionKey, command: &str, line: &str, after: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_serves_one_call", "--nocapture"])
        .env("E2E_SESSION", key.session.as_str())
        .env("E2E_COMMAND", command)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let seen = out.lines().map_while(Result::ok).any(|l| l.starts_with(line));
    std::thread::park_timeout(after);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "the child ended before {line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_and_its_files_outlive_a_sigkill_of_everything() {
    let key = key("sigkill");
    let command = "echo written > f; echo ran >> runs; cat f";
    let at = key.clone();
    tokio::task::spawn_blocking(move || kill_child(&at, command, "done", Duration::ZERO))
        .await
        .unwrap();

    let worker = Worker::start(Isolation::Call, None).await;
    let mut hands = worker.open(&key).await;
    // The server asks again, since it has no answer: the very same one.
    let again = run_call(
        &mut hands,
        &call("sevt_child", "bash", &json!({ "command": command })),
    )
    .await;
    assert_eq!(again.trim(), "written");
    assert_eq!(run(&mut hands, "cat f runs").await, "written\nran");
    hands.close(Release::Remove).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_killed_half_way_is_answered_and_not_run_again() {
    let key = key("halfway");
    let command = "echo ran >> runs; sync; sleep 1000";
    let store = Worker::start(Isolation::Call, None).await;
    let at = key.clone();
    let hash = SessionHash::of(&key);
    let killing =
        tokio::task::spawn_blocking(move || kill_child(&at, command, "calling", Duration::from_secs(25)));
    killing.await.unwrap();
    let rows = store.factory.store().calls(&hash).unwrap();
    assert_eq!(
        rows.len(),
        1,
        "it was to be killed after its start; give it more time on this machine"
    );

    let mut hands = store.open(&key).await;
    let again = run_call(
        &mut hands,
        &call("sevt_child", "bash", &json!({ "command": command })),
    )
    .await;
    assert!(
        again.contains("interrupted") && again.contains("check"),
        "{again}"
    );
    assert_eq!(run(&mut hands, "cat runs").await, "ran");
    hands.close(Release::Remove).await.unwrap();
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_killed_under_a_call_is_an_error_and_the_session_goes_on() {
    let worker = Worker::start(Isolation::Call, None).await;
    let mut hands = worker.open(&key("vmkill")).await;
    run(&mut hands, "echo kept > f").await;
    let crash = run(&mut hands, "echo c > /proc/sysrq-trigger; sleep 1000").await;
    if crash.contains("Permission denied") || crash.contains("Read-only") {
        // Then the kernel cannot be crashed that way from inside: kill the VMM from outside.
        let running = bash("sleep 1000");
        let kill = tokio::task::spawn_blocking(|| {
            let own = std::process::id();
            wait_until("a VMM of ours", Duration::from_secs(60), || {
                !children(own).is_empty()
            });
            std::thread::park_timeout(Duration::from_secs(8));
            for pid in children(own) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        let outcome = hands.call(&running, CancellationToken::new()).await.unwrap();
        kill.await.unwrap();
        assert!(
            outcome.is_error && text(&outcome).contains("check what it did"),
            "{}",
            text(&outcome)
        );
    } else {
        assert!(crash.contains("check what it did"), "{crash}");
    }
    assert_eq!(run(&mut hands, "cat f").await, "kept");
    hands.close(Release::Remove).await.unwrap();
    worker.stop().await;
}

/// QEMU processes that this process has started.
fn children(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let ours = rest.split_whitespace().nth(1) == Some(&parent.to_string());
        if ours && name.contains("qemu") {
            found.push(pid);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruined_disk_is_the_same_clear_error_each_time() {
    let worker = Worker::start(Isolation::Call, None).await;
    let key = key("ruined");
    worker.open(&key).await.close(Release::Keep).await.unwrap();
    let disk = worker.factory.store().disk_path(&SessionHash::of(&key));
    let size = fs::metadata(&disk).unwrap().len();
    // As root in a guest could have left it.
    fs::write(&disk, vec![0xa5; 8 << 20]).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(size)
        .unwrap();
    let mut hands = worker.open(&key).await;
    let (one, two) = (run(&mut hands, "true").await, run(&mut hands, "true").await);
    assert!(one == two && one.contains("cannot be mounted"), "{one}\n{two}");
    hands.close(Release::Keep).await.unwrap();
    assert!(disk.exists());
    worker.open(&key).await.close(Release::Remove).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_go_in_and_copies_go_both_ways() {
    let tmp = tempfile::tempdir().unwrap();
    let seed = tmp.path().join("seed");
    fs::create_dir_all(seed.join("src")).unwrap();
    fs::write(seed.join("src/main.py"), "print('hello')\n").unwrap();
    std::os::unix::fs::symlink("src/main.py", seed.join("link")).unwrap();
    let worker = Worker::start(Isolation::Call, Some(seed)).await;
    let key = key("seed");
    let mut hands = worker.open(&key).await;
    assert_eq!(
        run(
            &mut hands,
            "python3 link; mkdir out; echo 1 > out/a; ln -s a out/b; ln -s /etc/passwd bad"
        )
        .await,
        "hello"
    );
    let held = worker
        .factory
        .copy_out(&SessionHash::of(&key), "out", tmp.path())
        .await;
    assert!(held.unwrap_err().to_string().contains("in use"));
    hands.close(Release::Keep).await.unwrap();

    let hash = SessionHash::of(&key);
    worker.factory.copy_out(&hash, "out", tmp.path()).await.unwrap();
    assert_eq!(fs::read_to_string(tmp.path().join("out/b")).unwrap(), "1\n");
    let refused = worker.factory.copy_out(&hash, "bad", tmp.path()).await;
    assert!(refused.unwrap_err().to_string().contains("leads outside"));
    assert!(!tmp.path().join("bad").exists());
    fs::write(tmp.path().join("new"), "from the host").unwrap();
    worker
        .factory
        .copy_in(&hash, &tmp.path().join("new"), "out/c")
        .await
        .unwrap();
    let mut hands = worker.open(&key).await;
    assert_eq!(run(&mut hands, "cat out/c").await, "from the host");
    hands.close(Release::Remove).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_served_by_one_process() {
    let worker = Worker::start(Isolation::Call, None).await;
    let other = Worker::start(Isolation::Call, None).await;
    let key = key("held");
    let hands = worker.open(&key).await;
    assert!(matches!(
        other.factory.open(&key, &BTreeMap::new()).await.err(),
        Some(HandsError::Held { .. })
    ));
    hands.close(Release::Remove).await.unwrap();
    other.open(&key).await.close(Release::Remove).await.unwrap();
    worker.stop().await;
    other.stop().await;
}
