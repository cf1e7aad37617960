//! Sessions over real guests: what carries over from call to call in either mode, what goes in and comes out.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_e2e::{
    hands::{Worker, bash, call, key, run, run_call, runs, text},
    omnirun,
};
use omnirun_sessions::{HandsError, HandsFactory, Isolation, Release};
use omnirun_store::sessions::SessionHash;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

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
    hands.close(Release::Lost).await.unwrap();

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

/// Between two work items the VM is gone, and nobody in it notices but by the clock.
#[tokio::test(flavor = "multi_thread")]
async fn mode_session_goes_on_in_the_next_item_as_if_nothing_had_been() {
    let worker = Worker::start(Isolation::Session, None).await;
    let key = key("memory");
    let mut hands = worker.open(&key).await;
    let boot = run(
        &mut hands,
        "cat /proc/sys/kernel/random/boot_id; hostname; cat /etc/machine-id",
    )
    .await;
    // A shell, a process that counts in memory, another with a file of the session's disk open, one that was deleted.
    run(
        &mut hands,
        "v=7; cd /tmp; g() { echo from-g; }; (n=0; while sleep 0.2; do n=$((n+1)); echo $n > /run/count; done) & echo $! > \
         /workspace/pid; exec 9> /workspace/open; echo before >&9; exec 8<> /tmp/gone; rm /tmp/gone; echo unlinked >&8; \
         head -c 20000000 /dev/urandom > /dev/shm/bulk; md5sum < /dev/shm/bulk > /workspace/sum",
    )
    .await;
    for round in 0..3 {
        let counted: u64 = run(&mut hands, "cat /run/count").await.trim().parse().unwrap();
        let closing = Instant::now();
        hands.close(Release::Keep).await.unwrap();
        let closed = closing.elapsed();
        let row = worker
            .factory
            .store()
            .get(&SessionHash::of(&key))
            .unwrap()
            .unwrap();
        assert!(row.memory.is_some(), "it is not kept");
        let bytes = worker.factory.store().memory_bytes(&row.hash);
        let show = omnirun(["session", "show", key.session.as_str()])
            .output()
            .unwrap();
        let show = String::from_utf8_lossy(&show.stdout).into_owned();
        assert!(show.contains("kept for the next work item"), "{show}");

        let mut next = worker.open(&key).await;
        let opening = Instant::now();
        let date = run(&mut next, "date +%s").await;
        eprintln!(
            "round {round}: suspended in {closed:?}, {bytes} bytes, first call in {:?}",
            opening.elapsed()
        );
        assert!(!date.contains("was restarted"), "{date}");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let behind = now.as_secs().abs_diff(date.trim().parse().unwrap());
        assert!(behind <= 2, "the clock is {behind} s off");
        let same = run(
            &mut next,
            "cat /proc/sys/kernel/random/boot_id; hostname; cat /etc/machine-id",
        )
        .await;
        assert_eq!(same, boot);
        let state = run(
            &mut next,
            "echo $v; pwd; g; kill -0 $(cat /workspace/pid) && echo lives; echo after >&9; cat /workspace/open | sort -u; \
             cat /proc/$$/fd/8; md5sum < /dev/shm/bulk | cmp - /workspace/sum && echo whole; dmesg | grep -ci 'ext4.*error'",
        )
        .await;
        let lines: Vec<_> = state.lines().take(9).collect();
        assert_eq!(
            lines,
            [
                "7", "/tmp", "from-g", "lives", "after", "before", "unlinked", "whole", "0"
            ],
            "{state}"
        );
        let moved: u64 = run(&mut next, "sleep 1; cat /run/count")
            .await
            .trim()
            .parse()
            .unwrap();
        assert!(moved > counted, "{counted} {moved}");
        hands = next;
    }
    // Another process serves it next; and what that one draws is not what the first one would have.
    hands.close(Release::Keep).await.unwrap();
    worker.stop().await;
    let worker = Worker::start(Isolation::Session, None).await;
    let mut hands = worker.open(&key).await;
    assert_eq!(run(&mut hands, "echo $v").await.trim(), "7");

    // Files that go in mean a disk that its memory would not know.
    hands.close(Release::Keep).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "from outside").unwrap();
    let source = file.path().to_str().unwrap().to_owned();
    let copied = omnirun(["session", "cp", &source, &format!("{}:came", key.session)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(copied.status.success() && said.contains("is dropped"), "{said}");
    let mut hands = worker.open(&key).await;
    let last = run(&mut hands, "cat /workspace/came; echo \"v=$v\"").await;
    assert!(
        last.starts_with("from outside") && last.contains("was restarted"),
        "{last}"
    );
    let removed = hands.close(Release::Remove).await.unwrap();
    assert!(
        removed.iter().any(|r| r.contains("disk of session")),
        "{removed:?}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_keeps_its_partial_output_and_its_files() {
    for isolation in [Isolation::Call, Isolation::Session] {
        let worker = Worker::start(isolation, None).await;
        let key = key(&format!("cancel_{}", isolation.as_str()));
        let mut hands = worker.open(&key).await;
        run(&mut hands, "true").await;
        let cancel = CancellationToken::new();
        let running = bash("echo begun | tee /workspace/f; sleep 1000; echo never");
        let begun = Instant::now();
        let stop = async {
            runs(&worker, &key, running.id.as_str()).await;
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(hands.call(&running, cancel.clone()), stop);
        let outcome = outcome.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
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
async fn a_copy_may_wait_until_the_session_is_idle() {
    let tmp = tempfile::tempdir().unwrap();
    let (worker, key) = (Worker::start(Isolation::Call, None).await, key("wait"));
    let mut hands = worker.open(&key).await;
    run(&mut hands, "echo kept > f").await;
    let mut copy = omnirun(["session", "cp", "--wait"])
        .arg(format!("{}:f", key.session))
        .arg(tmp.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(copy.stderr.take().unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = said.lines().map_while(Result::ok);
        let waits = lines.any(|l| l.contains("waiting until it is idle"));
        // Read on, so that it can say what it wants.
        (waits, tokio::task::spawn_blocking(move || lines.count()))
    });
    let (waits, _rest) = reading.await.unwrap();
    assert!(waits && copy.try_wait().unwrap().is_none());
    hands.close(Release::Keep).await.unwrap();
    let status = tokio::task::spawn_blocking(move || copy.wait().unwrap());
    assert!(status.await.unwrap().success());
    assert_eq!(fs::read_to_string(tmp.path().join("f")).unwrap(), "kept\n");
    worker.open(&key).await.close(Release::Remove).await.unwrap();
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
