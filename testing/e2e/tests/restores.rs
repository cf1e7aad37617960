//! The channel to a guest while its machine is paused, saved and restored in the middle of traffic: what was said goes on
//! where the machine goes on, and a clone answers whoever dials it anew.
//!
//! Below the engine, which saves only machines that are quiet. (Firecracker's vsock has been dead after restores with
//! traffic in flight, and has lost wake-ups over a pause: firecracker#5969, firecracker#6100.)

use omnirun_e2e::machines::{Machines, bounded, dial, end, output};
use omnirun_guest_client::{ClientError, ExecEvent, GuestClient, message::Exec};
use omnirun_vmm::Vm;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Requests that are under way at any time: more, and a slow guest has time for nothing else.
const AT_ONCE: usize = 12;

/// How often. `OMNIRUN_SOAK=1` is a thousand times, another number is itself.
fn rounds() -> u32 {
    match std::env::var("OMNIRUN_SOAK") {
        Ok(number) => number.parse().ok().filter(|n| *n > 1).unwrap_or(1000),
        Err(_) => 5,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_a_machine_that_was_saved_amid_traffic_answer() {
    let machines = Machines::new().await;
    let (vm, guest) = machines.boot(None).await;
    let traffic = Traffic::start(&guest);
    traffic.flows(100).await;
    let files = machines.save(&*vm).await;
    // It can go on as well.
    vm.resume().await.expect("it resumes");
    let (guest, traffic) = goes_on(&machines, &*vm, guest, traffic).await;
    vm.kill();
    vm.wait().await;
    traffic.ends_with_the_connection().await;
    drop(guest);

    let (mut slowest, mut redialled) = (Duration::ZERO, 0);
    for round in 0..rounds() {
        let begun = Instant::now();
        let (clone, guest, dials) = machines.restore(machines.clone_of(&files, None)).await;
        let pong = bounded("a clone's ping", guest.ping()).await.expect("it answers");
        assert_eq!(pong.boot_id, "", "it was not awake");
        machines.claim(&*clone, &guest).await;
        let out = output(&guest, "echo round $((6 * 7))").await;
        assert_eq!(out, b"round 42\n", "round {round}");
        slowest = slowest.max(begun.elapsed());
        redialled += dials - 1;
        drop(guest);
        end(clone).await;
    }
    eprintln!(
        "{} restores: the slowest took {slowest:?}, {redialled} were dialled again",
        rounds()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_paused_amid_traffic_goes_on() {
    let machines = Machines::new().await;
    let (vm, mut guest) = machines.boot(None).await;
    machines.claim(&*vm, &guest).await;
    let mut traffic = Traffic::start(&guest);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds() {
        // Bytes both ways, which have to come back as they went, beside many small requests.
        let echoed = Arc::new(AtomicU64::new(0));
        let echo = tokio::spawn(echo(guest.clone(), Arc::clone(&echoed)));
        passes("what is echoed", &echoed, 1000).await;
        traffic.flows(20).await;
        vm.pause().await.expect("it pauses");
        let begun = Instant::now();
        vm.resume().await.expect("it resumes");
        (guest, traffic) = goes_on(&machines, &*vm, guest, traffic).await;
        slowest = slowest.max(begun.elapsed());
        if keeps_connections(&machines) {
            passes("what is echoed", &echoed, 1000).await;
            echo.abort();
        } else {
            bounded("the echo's end", echo)
                .await
                .expect("what came back is what went");
        }
        assert_eq!(output(&guest, "echo fine").await, b"fine\n");
    }
    eprintln!(
        "{} pauses: the slowest took {slowest:?} until it went on",
        rounds()
    );

    let (second, dials) = dial(&*vm).await;
    assert_eq!(dials, 1);
    assert_eq!(output(&second, "echo the new one").await, b"the new one\n");
    bounded("the old connection's end", guest.closed()).await;
    traffic.ends_with_the_connection().await;
    vm.kill();
    vm.wait().await;
}

/// Sends a stream through `cat` until the connection ends, and compares what comes back, in words.
async fn echo(guest: GuestClient, echoed: Arc<AtomicU64>) {
    let exec = Exec {
        argv: vec![b"cat".to_vec()],
        stdin: true,
        ..Exec::default()
    };
    let mut cat = guest.exec(exec).await.expect("it is asked");
    let mut input = cat.stdin().expect("its input");
    // Not the reader's: it holds the connection open no longer than the other side does.
    drop(guest);
    let writer = tokio::spawn(async move {
        let mut next = 0u64;
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            for _ in 0..4096 {
                chunk.extend_from_slice(&next.to_le_bytes());
                next += 1;
            }
            if !matches!(input.write(&chunk).await, Ok(true)) {
                return;
            }
        }
    });
    let (mut seen, mut rest) = (0u64, Vec::new());
    while let Some(event) = cat.next().await {
        let ExecEvent::Stdout(bytes) = event else {
            panic!("{event:?}")
        };
        rest.extend_from_slice(&bytes);
        let whole = rest.len() / 8 * 8;
        for word in rest.drain(..whole).as_slice().chunks_exact(8) {
            assert_eq!(word, seen.to_le_bytes(), "after {seen} words");
            seen += 1;
        }
        echoed.store(seen, Ordering::Relaxed);
    }
    writer.abort();
}

/// Waits until a count has grown by so much.
async fn passes(what: &str, count: &AtomicU64, more: u64) {
    let until = count.load(Ordering::Relaxed) + more;
    bounded(what, async {
        while count.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Requests that are asked without pause, some of them large.
struct Traffic {
    answered: Arc<AtomicU64>,
    askers: JoinSet<ClientError>,
}

impl Traffic {
    fn start(guest: &GuestClient) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let mut askers = JoinSet::new();
        for number in 0..AT_ONCE {
            let (guest, answered) = (guest.clone(), Arc::clone(&answered));
            askers.spawn(async move {
                loop {
                    let asked = match number % 4 {
                        // Before a claim it is refused, after it fails; either is an answer.
                        0 => guest.stat(vec![b'/'; 4096]).await.map(drop),
                        _ => guest.ping().await.map(drop),
                    };
                    match asked {
                        Ok(()) | Err(ClientError::Guest { .. }) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return error,
                    };
                }
            });
        }
        Self { answered, askers }
    }

    /// Waits for so many more answers.
    async fn flows(&self, more: u64) {
        passes("requests", &self.answered, more).await;
    }

    async fn ends_with_the_connection(mut self) {
        while let Some(ended) = bounded("the traffic's end", self.askers.join_next()).await {
            let error = ended.expect("no panic");
            assert!(matches!(error, ClientError::Closed), "{error:?}");
        }
    }
}

/// Whether a connection outlives a pause. Firecracker has its guest reset all of them.
fn keeps_connections(machines: &Machines) -> bool {
    machines.vmm.facts().driver == "qemu"
}

/// What is asked is answered again after a resume: on the same connection, or on a new one where that has ended.
async fn goes_on(
    machines: &Machines,
    vm: &dyn Vm,
    guest: GuestClient,
    traffic: Traffic,
) -> (GuestClient, Traffic) {
    let (guest, traffic) = match keeps_connections(machines) {
        true => (guest, traffic),
        false => {
            traffic.ends_with_the_connection().await;
            let (guest, _) = dial(vm).await;
            let traffic = Traffic::start(&guest);
            (guest, traffic)
        }
    };
    traffic.flows(100).await;
    (guest, traffic)
}
