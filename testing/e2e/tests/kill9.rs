//! SIGKILL of `omnirun` at chosen points and at random ones. The next command, whichever it is, leaves nothing of it.
//!
//! The points are seen from outside, as the state that other processes can see: the owner's file, the VMM process, the
//! VM's row, the command's own output. `run.rs` has kills at fixed times.

use omnirun_e2e::{
    leftovers::{leftovers, vmms},
    omnirun_in, private_data, run,
    stage::{Sim, Worker},
    wait_until,
};
use omnirun_store::{DataDir, Db, VmKind, VmState, Vms};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// For a machine under heavy load; nothing waits for it to pass.
const BOUND: Duration = Duration::from_secs(180);

/// A private data folder with a snapshot of the size that these tests use, and a place where temporary files would show.
struct Host {
    private: tempfile::TempDir,
    tmp: tempfile::TempDir,
    mounts: String,
}

impl Host {
    fn new() -> Self {
        Self {
            private: private_data(),
            tmp: tempfile::tempdir().expect("a folder"),
            mounts: mounts(),
        }
    }

    fn data(&self) -> &Path {
        self.private.path()
    }

    fn omnirun(&self, args: &[&str]) -> Command {
        let mut command = omnirun_in(self.data(), args);
        command.env("TMPDIR", self.tmp.path());
        command
    }

    fn start(&self, script: &str) -> (Child, BufReader<ChildStdout>) {
        let mut child = self
            .omnirun(&[
                "run", "--memory", "256M", "--disk", "1G", "--", "sh", "-c", script,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("omnirun starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        (child, out)
    }

    fn vms(&self) -> Vec<(VmKind, VmState)> {
        let Some(db) = DataDir::open(Some(self.data().to_owned()))
            .ok()
            .and_then(|d| Db::open(&d).ok())
        else {
            return Vec::new();
        };
        let rows = Vms::new(&db).all().unwrap_or_default();
        rows.into_iter().map(|row| (row.kind, row.state)).collect()
    }

    /// The next command; then nothing is there.
    fn nothing_left_after(&self, point: &str, next: Next) {
        match next {
            Next::Clean => {
                let (code, _, err) = run(&mut self.omnirun(&["clean"]));
                assert_eq!(code, 0, "{point}: {err}");
            }
            Next::Run => {
                let args = ["run", "--memory", "256M", "--disk", "1G", "--", "echo", "fine"];
                let (code, out, err) = run(&mut self.omnirun(&args));
                assert_eq!((code, out.as_str()), (0, "fine\n"), "{point}: {err}");
            }
        }
        assert_eq!(leftovers(self.data()), Vec::<String>::new(), "{point}");
        assert_eq!(self.vms(), Vec::new(), "{point}");
        let temporary: Vec<_> = fs::read_dir(self.tmp.path())
            .expect("the folder")
            .flatten()
            .collect();
        assert!(temporary.is_empty(), "{point}: {temporary:?}");
        assert_eq!(mounts(), self.mounts, "{point}");
        let (_, out, _) = run(&mut self.omnirun(&["clean"]));
        assert_eq!(out, "nothing to clean\n", "{point}");
    }
}

#[derive(Clone, Copy)]
enum Next {
    Clean,
    Run,
}

/// Mounts of this host that a sandbox could have made.
fn mounts() -> String {
    let table = fs::read_to_string("/proc/mounts").expect("the mounts");
    let kinds = ["erofs", "overlay", "ext4", "/dev/loop"];
    let lines = table.lines().filter(|l| kinds.iter().any(|k| l.contains(k)));
    lines.map(|l| format!("{l}\n")).collect()
}

fn kill(mut child: Child) {
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
}

fn owners(data: &Path) -> usize {
    let listed = fs::read_dir(data.join("owners")).into_iter().flatten().flatten();
    listed
        .filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."))
        .count()
}

#[test]
fn a_run_that_is_killed_at_any_point_leaves_nothing() {
    let host = Host::new();
    // The snapshot's making, at three points: before its VMM, in its boot, and when it is being written.
    for (point, until) in [
        ("an owner before its first VMM", 0),
        ("the boot for a snapshot", 1),
        ("a snapshot half written", 2),
    ] {
        let (child, _out) = host.start("true");
        wait_until(point, BOUND, || match until {
            0 => owners(host.data()) > 0,
            1 => host.vms().iter().any(|(kind, _)| *kind == VmKind::Boot) && !vmms(host.data()).is_empty(),
            _ => half_made(host.data()),
        });
        kill(child);
        host.nothing_left_after(point, Next::Clean);
    }
    host.nothing_left_after("the snapshot is made anew", Next::Run);

    type Point<'a> = (&'a str, &'a str, fn(&Host) -> bool);
    let points: [Point<'_>; 4] = [
        ("before the VMM", "true", |h| owners(h.data()) > 0),
        ("the row is there", "true", |h| !h.vms().is_empty()),
        ("loading", "sleep 60", |h| !vmms(h.data()).is_empty()),
        ("claimed", "sleep 60", |h| {
            h.vms().iter().any(|(_, s)| *s == VmState::Claimed)
        }),
    ];
    for next in [Next::Clean, Next::Run] {
        for (point, script, reached) in points {
            let (child, _out) = host.start(script);
            wait_until(point, BOUND, || reached(&host));
            kill(child);
            host.nothing_left_after(point, next);
        }
        for (point, script) in [
            ("in the command", "echo ready; sleep 60"),
            ("as the command ends", "echo ready"),
        ] {
            let (child, mut out) = host.start(script);
            let mut line = String::new();
            out.read_line(&mut line).expect("a line");
            assert_eq!(line, "ready\n");
            kill(child);
            host.nothing_left_after(point, next);
        }
    }
}

/// Whether a snapshot is being written: device state or memory in a folder of work in progress.
fn half_made(data: &Path) -> bool {
    let mut stack = vec![data.join("tmp"), data.join("run"), data.join("snapshots")];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                stack.push(entry.path());
            } else if name.contains("state") || name.contains("device") {
                return true;
            }
        }
    }
    false
}

#[test]
fn many_creates_and_kills_at_random_leave_nothing() {
    let rounds = if std::env::var_os("OMNIRUN_SOAK").is_some() {
        100
    } else {
        24
    };
    let host = Host::new();
    host.nothing_left_after("before", Next::Run);
    let begun = Instant::now();
    let (child, _out) = host.start("true");
    let mut child = child;
    child.wait().expect("it ends");
    let whole = begun.elapsed();
    // A fixed sequence that looks like chance: each run kills at the same shares of what a run takes.
    let mut seed = 0x2545_f491_u32;
    for round in 0..rounds {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let share = f64::from(seed >> 8) / f64::from(1 << 24);
        let (child, _out) = host.start("echo x > /workspace/x; sleep 0.05");
        let at = Instant::now() + whole.mul_f64(share * 1.1);
        while let left = at.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            std::thread::park_timeout(left);
        }
        kill(child);
        // What several of them left is one pass's work too.
        if round % 4 == 3 {
            let next = if round % 8 == 3 { Next::Clean } else { Next::Run };
            host.nothing_left_after(&format!("round {round}, {share:.2} of a run"), next);
        }
    }
    host.nothing_left_after("the end", Next::Run);
}

/// A bench has VMs beside the engine's, which have no row.
#[test]
fn a_bench_that_is_killed_leaves_nothing() {
    let host = Host::new();
    let mut bench = host.omnirun(&["bench", "--memory", "256M", "--only", "boots", "--rounds", "1"]);
    let child = bench
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("omnirun starts");
    let floor = || {
        let tmp = host.data().join("tmp");
        let folders = fs::read_dir(tmp).into_iter().flatten().flatten();
        let mut within = folders
            .filter_map(|f| fs::read_dir(f.path()).ok())
            .flatten()
            .flatten();
        within.any(|e| e.file_name().as_encoded_bytes().starts_with(b"sbx_"))
    };
    wait_until("the floor's VM", BOUND, || {
        floor() && !vmms(host.data()).is_empty()
    });
    kill(child);
    host.nothing_left_after("a bench", Next::Clean);
}

const SCENARIO: &str = r#"
name: kill9
id_tag: e2ekill9
queue: {ttl_seconds: 3}
sessions:
  - name: a
    steps:
      - user: Work.
      - call: {name: one, tool: bash, input: {command: 'sleep 1; echo one'}, expect: {contains: [one]}}
      - wait: 6s
      # Killed before the journal has it started, it is run for good by the next worker, up to its own time limit.
      - call: {name: two, tool: bash, input: {command: 'sleep 600', timeout_ms: 15000}, expect: {any: true}}
      - call: {name: three, tool: bash, input: {command: 'echo three'}, expect: {contains: [three]}}
"#;

#[test]
fn a_worker_that_is_killed_at_any_point_leaves_nothing_but_its_sessions() {
    let host = Host::new();
    host.nothing_left_after("before", Next::Run);
    let stage = tempfile::tempdir().expect("a folder");
    let sim = Sim::start(stage.path(), SCENARIO);
    let args = ["--max-idle", "1s"];
    let claimed = |h: &Host| h.vms().iter().any(|(_, s)| *s == VmState::Claimed);
    // Each point is reached after the one before it: a spare while the model thinks comes after a call.
    type Reached<'a> = &'a dyn Fn(&Host) -> bool;
    let points: [(&str, &[Reached<'_>]); 4] = [
        ("before the VMM", &[&|h| owners(h.data()) > 0]),
        ("its first VMM", &[&|h| !vmms(h.data()).is_empty()]),
        (
            "a spare between two calls",
            &[&claimed, &|h| {
                // Beside it another may wait that has loaded nothing.
                h.vms().iter().any(|(_, s)| *s == VmState::Pooled) && !claimed(h)
            }],
        ),
        ("in a call", &[&claimed]),
    ];
    for (point, reached) in points {
        let mut worker = Worker::start_as(host.data(), &sim, &args, |c| {
            c.env("TMPDIR", host.tmp.path());
        });
        for reached in reached {
            wait_until(point, BOUND, || reached(&host) || !worker.lives());
        }
        assert!(worker.lives(), "{point}: {}", worker.log());
        worker.kill();
        host.nothing_left_after(point, Next::Clean);
    }
    let mut worker = Worker::start(host.data(), &sim, &args);
    let report = sim.wait(&mut worker, BOUND);
    report.assert_ok(&worker);
    worker.stop(Duration::from_secs(30));
    // In its teardown, or just after: a drained worker that is killed on its way out.
    host.nothing_left_after("the end", Next::Run);
    let (_, out, _) = run(&mut host.omnirun(&["session", "ls"]));
    assert!(
        out.contains("e2ekill9_a"),
        "the session's disk outlives all of it: {out}"
    );
}
