//! The official SDK's worker, unmodified, against `omnirun sim`: that the double is faithful enough for it, and that what
//! the protocol reference says about that worker (its table of outcomes) can be seen here.
//!
//! The tools run on the bare host, in a folder of the test's own; no sandbox is involved.

use omnirun_e2e::{bin, text, wait_until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// The release that the protocol reference describes.
const SDK: &str = "anthropic==2.12.0";
/// Much longer than a scenario takes.
const BOUND: Duration = Duration::from_secs(90);

/// Python with the SDK: a virtual environment made once and kept.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(&root).expect("the target's folder for tests");
        // Another test run may be making it.
        let lock = fs::File::create(root.join("python-sdk.lock")).expect("a lock file");
        lock.lock().expect("a lock");
        let dir = root.join(format!(
            "python-sdk-{}",
            SDK.rsplit('=').next().expect("a version")
        ));
        let python = dir.join("bin/python");
        let ready = dir.join("ready");
        if !ready.exists() {
            let _ = fs::remove_dir_all(&dir);
            step(
                "python3 -m venv (Debian: apt-get install python3-venv)",
                Command::new("python3").args(["-m", "venv"]).arg(&dir),
            );
            step(
                "pip install of the official SDK from PyPI: is PyPI reachable?",
                Command::new(&python).args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    SDK,
                ]),
            );
            fs::write(&ready, SDK).expect("the mark that it is whole");
        }
        python
    })
}

fn step(what: &str, command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(
        output.status.success(),
        "{what}\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn end(&mut self, what: &str) -> i32 {
        let mut code = None;
        wait_until(what, BOUND, || {
            code = self.0.try_wait().expect("a child can be waited for");
            code.is_some()
        });
        code.and_then(|c| c.code()).unwrap_or(-1)
    }
}

/// What a run showed.
struct Outcome {
    report: Value,
    code: i32,
    /// The worker's exit code and output, when it ended by itself.
    worker: String,
}

/// Starts the simulator with a scenario and one SDK worker, and waits for the simulator's end.
fn run(scenario: &str) -> Outcome {
    run_until(scenario, false)
}

fn run_until(scenario: &str, worker_ends: bool) -> Outcome {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("scenario.yaml");
    fs::write(&file, scenario).expect("the scenario");
    let report = dir.path().join("report.json");
    let mut command = Command::new(bin());
    command
        .arg("sim")
        .arg("--scenario")
        .arg(&file)
        .arg("--report")
        .arg(&report);
    command
        .args(["--json", "--timeout", "80s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if !worker_ends {
        command.arg("--exit-when-done");
    }
    let mut sim = Running(command.spawn().expect("omnirun starts"));
    let mut lines = BufReader::new(sim.0.stdout.take().expect("piped")).lines();
    let first = lines
        .next()
        .expect("omnirun sim says where it listens")
        .expect("text");
    let start: Value = serde_json::from_str(&first).expect("JSON");
    let value = |name: &str| start[name].as_str().expect(name).to_owned();

    let workdir = dir.path().join("work");
    fs::create_dir(&workdir).expect("a working directory");
    let output = fs::File::create(dir.path().join("worker.out")).expect("a file");
    let log = fs::File::create(dir.path().join("worker.log")).expect("a file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/run_worker.py");
    let mut command = Command::new(python());
    command.arg(script).arg(&workdir).env_remove("ANTHROPIC_API_KEY");
    command.env("ANTHROPIC_BASE_URL", value("url"));
    command.env("ANTHROPIC_ENVIRONMENT_ID", value("environment_id"));
    command.env("ANTHROPIC_ENVIRONMENT_KEY", value("environment_key"));
    let mut worker = Running(
        command
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(log)
            .spawn()
            .expect("python starts"),
    );
    if worker_ends {
        worker.end("the SDK's worker to end by itself");
        let pid = i32::try_from(sim.0.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }
    // Its last line is the whole report; reading on keeps it from blocking.
    let rest = lines.map_while(Result::ok).count();
    let code = sim.end("the simulator to end");
    assert!(rest > 0, "no report on standard output");
    drop(worker.0.stdin.take());
    worker.end("the SDK's worker to end");
    let log = fs::read_to_string(dir.path().join("worker.log")).unwrap_or_default();
    let report = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
    if code != 0 {
        eprintln!("{log}\n{report:#}");
    }
    let worker = fs::read_to_string(dir.path().join("worker.out")).unwrap_or_default();
    Outcome { report, code, worker }
}

impl Outcome {
    fn held(self) -> Self {
        assert_eq!(self.code, 0, "{:#}", self.report["failures"]);
        assert_eq!(self.report["ok"], true);
        self
    }

    /// Requests to an endpoint: each one's status, `null` for a dropped connection.
    fn statuses(&self, endpoint: &str) -> Vec<Value> {
        self.requests(endpoint).map(|r| r["status"].clone()).collect()
    }

    fn requests<'a>(&'a self, endpoint: &'a str) -> impl Iterator<Item = &'a Value> {
        let all = self.report["requests"].as_array().expect("requests");
        all.iter().filter(move |r| r["endpoint"] == endpoint)
    }

    fn items(&self) -> Vec<&Value> {
        let sessions = self.report["sessions"].as_array().expect("sessions");
        sessions
            .iter()
            .flat_map(|s| s["items"].as_array().expect("items"))
            .collect()
    }
}

#[test]
fn a_tour_of_all_that_it_has_to_cope_with() {
    let outcome = run("
name: tour
clock_scale: 2
queue: {ttl_seconds: 2}
events: {page_size: 4, noise: true, keep_alive: ping, keep_alive_interval: 500ms}
healthchecks: [{after: 0s}]
faults:
  - {endpoint: events_stream, stream: {close_after: 6}}
  - {endpoint: events_stream, stream: {break_after: 2}}
  - {endpoint: events_stream, stream: {duplicate: true, dribble: true}}
  - {endpoint: events_stream, stream: {error_after: 7}}
  - {endpoint: events_send, skip: 1, drop: after}
  - {endpoint: events_list, skip: 2, truncate: 20}
  - {endpoint: heartbeat, skip: 2, statuses: [500]}
  - {endpoint: session_get, statuses: [503]}
sessions:
  - name: main
    steps:
      - user: Try everything.
      - say: Starting.
      - call: {name: hello, tool: bash, input: {command: 'echo hello; pwd'}, expect: {contains: [hello]}, capture: {dir: '(/\\S+)'}}
      - calls:
          - {name: write, tool: write, input: {file_path: a.txt, content: 'one two'}, expect: {contains: [a.txt]}}
          - {name: list, tool: bash, input: {command: 'cat ${captures.dir}/a.txt; echo; echo ${results.hello.is_error}'}, expect: {contains: [one two, 'false']}}
          - {name: weather, tool: weather, kind: custom, owner: client, answer: {after: 1s, text: sunny}}
      - calls:
          - {name: allowed, tool: bash, input: {command: echo yes >> ran}, permission: ask, confirm: {verdict: allow, after: 1s}}
          - {name: before, tool: bash, input: {command: echo before >> ran}, permission: ask, confirm: {verdict: allow, when: before}}
          - {name: denied, tool: bash, input: {command: echo no >> ran}, permission: ask, confirm: {verdict: deny, after: 500ms}, expect: {none: true}}
          - {name: refused, tool: bash, input: {command: echo never >> ran}, permission: deny, expect: {none: true}}
      - call: {name: ran, tool: bash, input: {command: sort ran}, expect: {exact: \"before\\nyes\"}}
      - call: {name: fails, tool: read, input: {file_path: missing}, expect: {is_error: true, contains: [no such file]}}
      - call: {name: unasked, tool: read, input: {file_path: a.txt, nonsense: 1}, expect: {is_error: true}}
      - until_released: {within: 40s}
      - user: And again.
      - call: {name: second, tool: grep, input: {pattern: two}, expect: {contains: [a.txt]}}
")
    .held();
    assert_eq!(
        outcome.items().len(),
        2,
        "the second message queued a second item"
    );
    let check = &outcome.report["healthchecks"][0];
    assert_eq!(
        (&check["force_stopped"], &check["heartbeats"]),
        (&true.into(), &0.into())
    );
    let twice = &outcome.report["sessions"][0]["calls"][1];
    assert_eq!(
        (&twice["received"], &twice["repeats"]),
        (&2.into(), &1.into()),
        "the lost answer was asked for again"
    );
    let faults = outcome.report["faults"].as_object().expect("faults");
    assert_eq!(faults.len(), 5, "each kind hit: {faults:?}");
    assert!(faults["EventsStream: stream"].as_u64() >= Some(3), "{faults:?}");
}

#[test]
fn a_lost_lease_is_left_alone_and_stopping_is_confirmed_by_force() {
    let outcome = run("
name: leases
queue: {ttl_seconds: 2, stop_answer: no_content, secret: none}
sessions:
  - name: main
    steps:
      - user: go
      - calls:
          of: [{name: slow, tool: bash, input: {command: sleep 2; echo over}}]
          meanwhile: [{after: 200ms, held: true, do: lose_lease}]
      - calls:
          of: [{name: last, tool: bash, input: {command: sleep 2; echo done}, expect: {contains: [done]}}]
          meanwhile: [{after: 200ms, held: true, do: stop}]
      - call: {name: after, tool: bash, input: {command: echo new item}}
")
    .held();
    let items = outcome.items();
    assert_eq!(
        (&items[0]["lost"], &items[0]["claims"]),
        (&1.into(), &2.into()),
        "{}",
        items[0]
    );
    // Only the second tenure ended by a stop: after its 412 the worker sent none.
    let stops = outcome.requests("stop").filter(|r| {
        r["path"]
            .as_str()
            .is_some_and(|p| p.contains(items[0]["id"].as_str().expect("id")))
    });
    assert_eq!(stops.count(), 1);
    assert!(outcome.statuses("stop").iter().all(|s| *s == 204));
    assert!(
        outcome
            .requests("events_send")
            .all(|r| r["credential"] == "environment")
    );
    assert_eq!(
        outcome.report["sessions"][0]["calls"][1]["outcome"], "answered",
        "the running tool was finished"
    );
}

#[test]
fn a_refused_key_ends_the_worker_after_one_request() {
    for status in [401, 403, 404] {
        let scenario =
            format!("name: refused\nfaults: [{{endpoint: poll, statuses: [{status}], times: 0}}]\n");
        let outcome = run_until(&scenario, true);
        assert_eq!(outcome.statuses("poll"), [status]);
        assert!(
            outcome.worker.contains(&format!("Error code: {status}")),
            "{}",
            outcome.worker
        );
    }
}

#[test]
fn refused_acknowledgements_sessions_and_streams_fail_the_item_not_the_worker() {
    let session = "
sessions:
  - name: main
    steps:
      - user: go
      - call: {name: c, tool: bash, input: {command: echo x}}
";
    // An acknowledgement refused for good is followed by a forced stop, so the session needs another item.
    let outcome = run(&format!(
        "name: ack\nfaults: [{{endpoint: ack, statuses: [404]}}]{session}"
    ))
    .held();
    assert_eq!(outcome.statuses("ack"), [404, 200]);
    assert_eq!(outcome.items()[0]["force_stopped"], true);
    assert_eq!(outcome.items().len(), 2);

    // 409 is tried three times, then left to the reclaim rule.
    let outcome = run(&format!(
        "name: ack409\nfaults: [{{endpoint: ack, statuses: [409, 409, 409]}}]{session}"
    ))
    .held();
    assert_eq!(outcome.statuses("ack"), [409, 409, 409, 200]);
    assert_eq!(outcome.items().len(), 1);

    for (endpoint, status) in [("session_get", 403), ("events_stream", 404), ("heartbeat", 404)] {
        let fault = format!("faults: [{{endpoint: {endpoint}, statuses: [{status}]}}]");
        let outcome = run(&format!("name: refused\n{fault}{session}")).held();
        assert_eq!(outcome.items()[0]["force_stopped"], true, "{endpoint}");
        assert_eq!(outcome.statuses(endpoint)[0], status, "{endpoint}");
    }
}

#[test]
fn a_refused_result_is_posted_once_a_failed_one_again_and_again() {
    let outcome = run("
name: results
faults:
  - {endpoint: events_send, statuses: [400]}
  - {endpoint: events_stream, stream: {close_after: 4}}
  - {endpoint: events_send, skip: 1, statuses: [500, 500, 500, 500]}
sessions:
  - name: main
    steps:
      - user: go
      - calls:
          of: [{name: refused, tool: bash, input: {command: echo x}}]
          meanwhile: [{after: 3s, held: true, do: drop_streams}]
      - call: {name: failed, tool: bash, input: {command: echo y}}
")
    .held();
    let statuses = outcome.statuses("events_send");
    assert_eq!(statuses[..2], [400, 200], "not repeated until the reconnect");
    assert_eq!(statuses[2..], [500, 500, 500, 500, 200]);
}

#[test]
fn a_terminated_session_is_not_served() {
    let outcome = run("
name: dead
sessions:
  - name: main
    steps: [{user: go}, {do: terminate}]
")
    .held();
    assert_eq!(outcome.requests("events_stream").count(), 0);
    assert_eq!(outcome.requests("session_get").count(), 1);
    assert_eq!(outcome.items()[0]["force_stopped"], true);
}
