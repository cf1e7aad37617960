//! What a driver makes of every answer at every step, and of none.

use super::*;

/// That an answer at this step came to what it should.
fn check(answer: Answer, at: &'static str, error: &VmmError) {
    match (answer, error) {
        (Answer::Fault, VmmError::Refused { step, reason }) => assert_eq!((*step, &**reason), (at, "No.")),
        (Answer::Garbage, VmmError::Io { step, .. }) => assert_eq!(*step, at),
        (Answer::Death, VmmError::Gone { step, tail }) => assert_eq!((*step, &**tail), (at, "last words")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whatever_is_said_at_each_step_of_a_boot_names_the_step() {
    let Some(bench) = Bench::new() else { return };
    let steps = [
        "machine-config",
        "boot-source",
        "drives",
        "drives",
        "vsock",
        "entropy",
        "InstanceStart",
    ];
    for (number, step) in steps.into_iter().enumerate() {
        for answer in [Answer::Fault, Answer::Garbage, Answer::Death] {
            let mut answers = vec![Answer::Good; number];
            answers.push(answer);
            let error = bench.boot(&answers).await.map(drop).expect_err(step);
            check(answer, step, &error);
        }
    }
    let (machine, _double) = bench.boot(&[]).await.expect("it boots");
    let (pid, started) = (machine.pid(), Instant::now());
    drop(machine);
    until("a dropped machine is gone", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn whatever_is_said_in_a_clones_life_names_the_step() {
    let Some(bench) = Bench::new() else { return };
    for answer in [Answer::Fault, Answer::Garbage, Answer::Death] {
        let error = bench.restore(&[answer]).await.map(drop).expect_err("no load");
        check(answer, "loading the snapshot", &error);

        for step in ["pause", "resume", "attaching the session disk", "snapshot"] {
            let (machine, _double) = bench.restore(&[Answer::Good, answer]).await.expect("a clone");
            let error = match step {
                "pause" => machine.pause().await,
                "resume" => machine.resume().await,
                "snapshot" => {
                    let to = DeviceState {
                        memory: bench.path("to.memory"),
                        state: bench.path("to.state"),
                    };
                    machine.snapshot(&to).await
                }
                _ => {
                    let file = tempfile::tempfile_in(bench.dir.path()).expect("a disk").into();
                    machine.attach_disk(AttachDisk { file, bytes: 512 }).await
                }
            };
            check(answer, step, &error.expect_err(step));
            if answer == Answer::Death {
                assert_eq!(machine.wait().await.code, Some(3));
            }
        }
    }
}

#[tokio::test]
async fn an_empty_snapshot_is_none() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let to = DeviceState {
        memory: bench.path("to.memory"),
        state: bench.path("to.state"),
    };
    // The double says that it is written, and has written nothing.
    let error = machine.snapshot(&to).await.expect_err("nothing was written");
    assert!(
        matches!(error, VmmError::Io { step: "snapshot", .. }),
        "{error:?}"
    );
    assert!(!to.memory.exists());
    let left: Vec<_> = fs::read_dir(machine.jail.path())
        .expect("the jail")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("snapshot."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_jailer_that_ends_before_there_is_an_api_is_heard() {
    let Some(bench) = Bench::new() else { return };
    fs::write(
        bench.path("jailer"),
        "#!/bin/sh\necho no such thing >&2\nexit 7\n",
    )
    .expect("written");
    let error = bench.restore(&[]).await.map(drop).expect_err("it ends");
    match error {
        VmmError::Gone { step, tail } => {
            assert_eq!((step, &*tail), ("starting Firecracker", "no such thing"))
        }
        other => panic!("{other:?}"),
    }
}
