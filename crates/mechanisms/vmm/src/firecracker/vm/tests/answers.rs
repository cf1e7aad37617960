//! What a driver makes of every answer at every step, and of none.

use super::*;
use crate::Nic;
use omnirun_sys::host::{net, ready::Readable};
use tokio::task::JoinSet;

/// All that fail at once, or as soon as the clock is ahead.
const BAD: [Answer; 5] = [
    Answer::Fault,
    Answer::Garbage,
    Answer::Death,
    Answer::LastBreath,
    Answer::Silence,
];

/// The calls of a boot, in their order.
const BOOT: [&str; 7] = [
    "machine-config",
    "boot-source",
    "drives",
    "drives",
    "vsock",
    "entropy",
    "InstanceStart",
];

/// What is asked of a clone that is there.
const LIFE: [&str; 5] = [
    "version",
    "pause",
    "resume",
    "attaching the session disk",
    "snapshot",
];

/// That an answer at this step came to what it should.
fn check(answer: Answer, at: &'static str, error: &VmmError) {
    match (answer, error) {
        (Answer::Fault, VmmError::Refused { step, reason }) => assert_eq!((*step, &**reason), (at, "No.")),
        (Answer::Garbage, VmmError::Io { step, .. }) => assert_eq!(*step, at),
        (Answer::Death | Answer::LastBreath | Answer::Hangup, VmmError::Gone { step, tail }) => {
            assert_eq!((*step, &**tail), (at, "last words"));
        }
        (Answer::Silence, VmmError::Timeout { step, seconds }) => {
            assert_eq!(*step, at);
            assert!([30, 120].contains(seconds), "{seconds}");
        }
        other => panic!("{other:?}"),
    }
    if answer == Answer::Silence {
        tokio::time::resume();
    }
}

/// A boot of which one call is answered so.
async fn boot(bench: &Bench, number: usize, answer: Answer, step: &'static str, network: Option<Nic>) {
    let identity = bench.identity();
    let mut answers = vec![Answer::Good; number];
    answers.push(answer);
    let _double = Double::start(&identity, &answers);
    let run_dir = identity.run_dir.clone();
    let spec = BootSpec {
        network,
        ..bench.boot_spec(identity)
    };
    let booted = Machine::boot(&bench.host, spec).await;
    check(answer, step, &booted.map(drop).expect_err(step));
    gone(&run_dir).await;
}

#[tokio::test]
async fn whatever_is_said_at_each_step_of_a_boot_names_the_step() {
    let Some(bench) = Bench::new() else { return };
    for (number, step) in BOOT.into_iter().enumerate() {
        for answer in BAD {
            boot(&bench, number, answer, step, None).await;
        }
    }
    let (machine, _double) = bench.boot(&[Answer::Slow; 7]).await.expect("it boots");
    let (run_dir, started) = (machine.run_dir().to_owned(), Instant::now());
    drop(machine);
    gone(&run_dir).await;
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_card_is_asked_for_last_of_all_devices() {
    let Some(bench) = Bench::new() else { return };
    let namespace = net::in_new_namespace(|| {
        net::create_tap(omnirun_guest_net::TAP)?;
        net::namespace()
    });
    let nic = match namespace {
        Ok(namespace) => Nic {
            namespace: Arc::new(namespace),
        },
        Err(error) => return eprintln!("SKIPPED: a tap cannot be had here: {error}"),
    };
    for answer in BAD {
        boot(&bench, 6, answer, "network-interfaces", Some(nic.clone())).await;
    }
    boot(&bench, 7, Answer::Fault, "InstanceStart", Some(nic)).await;
}

/// What is asked of a clone that is there, by its step.
async fn ask(bench: &Bench, machine: &Machine, step: &str) -> Result<(), VmmError> {
    match step {
        "version" => machine.version().await.map(drop),
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
    }
}

/// A load that is answered so.
async fn load(bench: &Bench, answer: Answer) {
    let error = bench.restore(&[answer]).await.map(drop).expect_err("no load");
    check(answer, "loading the snapshot", &error);
}

/// A clone's life in which one call is answered so.
async fn live(bench: &Bench, step: &'static str, answer: Answer) {
    let (machine, double) = bench.restore(&[Answer::Good, answer]).await.expect("a clone");
    let error = ask(bench, &machine, step).await;
    check(answer, step, &error.expect_err(step));
    match answer {
        Answer::Death | Answer::LastBreath => assert_eq!(machine.wait().await.code, Some(3)),
        // Of no use to anyone any more.
        Answer::Hangup => assert_eq!(machine.wait().await.signal, Some(9)),
        // It is up to its owner.
        _ => machine.kill(),
    }
    drop(double);
    gone(machine.run_dir()).await;
    // Whatever is asked of it now, nobody waits.
    for step in ["pause", "attaching the session disk", "snapshot"] {
        let begun = Instant::now();
        ask(bench, &machine, step).await.expect_err("it is gone");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{answer:?}, then {step}"
        );
    }
}

#[tokio::test]
async fn whatever_is_said_in_a_clones_life_names_the_step() {
    let Some(bench) = Bench::new() else { return };
    for answer in BAD {
        load(&bench, answer).await;
        for step in LIFE {
            live(&bench, step, answer).await;
        }
    }
    let (machine, _double) = bench.restore(&[Answer::Slow; 4]).await.expect("a clone");
    for step in ["pause", "resume", "attaching the session disk"] {
        ask(&bench, &machine, step).await.expect(step);
    }
}

/// The end of a connection is news from outside, which a clock that runs ahead may overtake: it takes its time here, at
/// all steps at once.
#[tokio::test]
async fn one_that_hangs_up_has_a_second_to_end_at_whichever_step() {
    let Some(bench) = Bench::new() else { return };
    let (bench, mut all) = (Arc::new(bench), JoinSet::new());
    for (number, step) in BOOT.into_iter().enumerate() {
        let bench = bench.clone();
        all.spawn(async move { boot(&bench, number, Answer::Hangup, step, None).await });
    }
    for step in LIFE {
        let bench = bench.clone();
        all.spawn(async move { live(&bench, step, Answer::Hangup).await });
    }
    load(&bench, Answer::Hangup).await;
    while let Some(one) = all.join_next().await {
        one.expect("it went well");
    }
}

#[tokio::test]
async fn a_snapshot_has_the_size_that_it_must_have() {
    let Some(bench) = Bench::new() else { return };
    let to = DeviceState {
        memory: bench.path("to.memory"),
        state: bench.path("to.state"),
    };
    let (memory, most) = (SIZE.memory_mib << 20, 16 << 20);
    // The first: the double says that it is written, and has written nothing.
    for (written, good) in [
        (Answer::Good, false),
        (Answer::Written(memory, 0), false),
        (Answer::Written(0, 1), false),
        (Answer::Written(memory - 1, 1), false),
        (Answer::Written(memory + 1, 1), false),
        (Answer::Written(memory, most + 1), false),
        (Answer::Written(memory, most), true),
        (Answer::Written(memory, 1), true),
    ] {
        let (machine, _double) = bench.restore(&[Answer::Good, written]).await.expect("a clone");
        match (machine.snapshot(&to).await, good) {
            (Ok(()), true) => {
                assert_eq!(fs::metadata(&to.memory).expect("it is there").len(), memory);
                fs::remove_file(&to.memory).expect("ours");
                fs::remove_file(&to.state).expect("ours");
            }
            (Err(VmmError::Io { step: "snapshot", .. }), false) => {
                assert!(!to.memory.exists() && !to.state.exists(), "{written:?}");
            }
            other => panic!("{written:?}: {other:?}"),
        }
        let left: Vec<_> = fs::read_dir(machine.jail.path())
            .expect("the jail")
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("snapshot."))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn an_api_that_never_comes_or_takes_no_connection_has_a_bound() {
    let Some(bench) = Bench::new() else { return };
    let identity = bench.identity();
    let (run_dir, started) = (identity.run_dir.clone(), identity.run_dir.join("started"));
    let restored = restore(&bench.host, bench.clone_spec(identity));
    let waited = async {
        until("the jailer runs", || started.exists()).await;
        tokio::time::pause();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        restored = restored => restored.map(drop).expect_err("no API"),
        () = waited => unreachable!("it never ends"),
    };
    tokio::time::resume();
    assert!(
        matches!(
            error,
            VmmError::Timeout {
                step: "starting Firecracker",
                seconds: 30
            }
        ),
        "{error:?}"
    );
    gone(&run_dir).await;

    // There is a socket, and its process ends before it has taken the connection.
    let identity = bench.identity();
    let there = identity.clone();
    let dying = tokio::spawn(async move {
        until("the jailer runs", || there.run_dir.join("started").exists()).await;
        let socket = jail_of(&there).join("run/api.sock");
        let listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
        // Until there is a connection, which is never accepted.
        let arrival = Readable::new(Arc::new(listener.into())).expect("ours");
        arrival.wait().await.expect("a connection");
        fs::write(there.run_dir.join("die"), "\n").expect("it reads");
    });
    let error = restore(&bench.host, bench.clone_spec(identity)).await;
    match error.map(drop).expect_err("it ends") {
        VmmError::Gone { tail, .. } => assert_eq!(tail, "last words"),
        other => panic!("{other:?}"),
    }
    dying.await.expect("it went well");
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
