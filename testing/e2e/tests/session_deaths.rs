//! Sessions over real guests, and what survives which death: of the worker, of a VM, of the disk.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_e2e::hands::{Worker, bash, call, key, run, run_call, runs, text};
use omnirun_ids::SessionKey;
use omnirun_sessions::{Isolation, Release};
use omnirun_store::sessions::SessionHash;
use serde_json::json;
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};
use tokio_util::sync::CancellationToken;

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

/// Starts that child, and kills it when `ready` says so, after a line that it prints.
fn kill_child(key: &SessionKey, command: &str, line: &str, ready: impl FnOnce()) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_serves_one_call", "--nocapture"])
        .env("E2E_SESSION", key.session.as_str())
        .env("E2E_COMMAND", command)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let seen = out.lines().map_while(Result::ok).any(|l| l.starts_with(line));
    if seen {
        ready();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "the child ended before {line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_and_its_files_outlive_a_sigkill_of_everything() {
    let key = key("sigkill");
    let command = "echo written > f; echo ran >> runs; cat f";
    let at = key.clone();
    tokio::task::spawn_blocking(move || kill_child(&at, command, "done", || ()))
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
    let (ready, go) = std::sync::mpsc::channel();
    let killing =
        tokio::task::spawn_blocking(move || kill_child(&at, command, "calling", || go.recv().unwrap()));
    runs(&store, &key, "sevt_child").await;
    ready.send(()).unwrap();
    killing.await.unwrap();

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
    let key = key("vmkill");
    let mut hands = worker.open(&key).await;
    run(&mut hands, "echo kept > f").await;
    let crash = run(&mut hands, "echo c > /proc/sysrq-trigger; sleep 1000").await;
    if crash.contains("Permission denied") || crash.contains("Read-only") {
        // Then the kernel cannot be crashed that way from inside: kill the VMM from outside.
        let running = bash("sleep 1000");
        let kill = async {
            runs(&worker, &key, running.id.as_str()).await;
            for pid in children(std::process::id()) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        };
        let (outcome, ()) = tokio::join!(hands.call(&running, CancellationToken::new()), kill);
        let outcome = outcome.unwrap();
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

/// VMMs that this process has started.
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
        if ours
            && ["qemu", "firecracker", "jailer"]
                .iter()
                .any(|vmm| name.contains(vmm))
        {
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
