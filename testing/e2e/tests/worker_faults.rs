//! A worker whose surroundings fail: killed itself, its VMs killed under it, its session disk ruined, the API dropping
//! and refusing. Each call is answered once, none runs twice, and nothing that an answer spoke of is lost.

use omnirun_e2e::{
    journal::Journal,
    leftovers::{leftovers, vmms},
    omnirun_in, private_data,
    processes::kill,
    run,
    stage::{Report, Sim, Worker},
    wait_until,
};
use omnirun_store::sessions::CallState;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

const BOUND: Duration = Duration::from_secs(120);

fn kill_vmms(data: &Path) -> usize {
    let found = vmms(data);
    for (pid, _) in &found {
        kill(*pid);
    }
    found.len()
}

fn answered_once(report: &Report) {
    for session in report.sessions() {
        for call in session["calls"].as_array().expect("calls") {
            assert_eq!(call["outcome"], "answered", "{call:#}");
            let (received, repeats) = (call["received"].as_u64(), call["repeats"].as_u64());
            assert_eq!(received.zip(repeats).map(|(a, b)| a - b), Some(1), "{call:#}");
        }
    }
    assert_eq!(
        report.0["violations"].as_array().map(Vec::len),
        Some(0),
        "{:#}",
        report.0["violations"]
    );
}

fn end(data: &Path, mut worker: Worker) {
    assert!(worker.stop(Duration::from_secs(30)).success(), "{}", worker.log());
    assert_eq!(leftovers(data), Vec::<String>::new(), "{}", worker.log());
}

const KILLED: &str = r#"
name: killed
id_tag: e2ekilled
queue: {ttl_seconds: 4}
sessions:
  - name: main
    steps:
      - user: Go on whatever happens.
      - call: {name: one, tool: bash, input: {command: 'echo 1 >> counter; echo first > first'}, expect: {any: true}}
      - call: {name: two, tool: bash, input: {command: 'echo 2 >> counter; sync; sleep 600'}, expect: {is_error: true, contains: ["The worker was interrupted"]}}
      - call: {name: three, tool: bash, input: {command: 'echo 3 >> counter; cat first; head -c 3000000 /dev/zero > big; echo done'}, expect: {contains: [first, done]}}
      - call: {name: four, tool: bash, input: {command: 'echo 4 >> counter; stat -c %s big; sleep 3; echo slept'}, expect: {any: true}}
      - call: {name: five, tool: bash, input: {command: 'cat counter; cat first; stat -c %s big'}, expect: {contains: [first, "3000000"]}}
"#;

fn killed(mode: &str) {
    let private = private_data();
    let data = private.path();
    let stage = tempfile::tempdir().expect("a folder");
    let sim = Sim::start(stage.path(), KILLED);
    let args = ["--isolation", mode, "--max-idle", "1s"];
    // Before anything is claimed; then as soon as the first call has an answer, posted or not.
    let mut worker = Worker::start(data, &sim, &args);
    wait_until("a VMM", BOUND, || !vmms(data).is_empty());
    worker.kill();
    let mut worker = Worker::start(data, &sim, &args);
    let journal = Journal::open(data);
    journal.wait("main", CallState::Finished, 1);
    worker.kill();
    // In the middle of the second one's tool.
    let mut worker = Worker::start(data, &sim, &args);
    journal.wait("main", CallState::Started, 2);
    let under_way = Instant::now();
    wait_until("the call has begun", BOUND, || {
        under_way.elapsed() > Duration::from_millis(700)
    });
    worker.kill();
    // After the third one's answer.
    let mut worker = Worker::start(data, &sim, &args);
    journal.wait("main", CallState::Posted, 3);
    worker.kill();
    // The VM under the fourth, and nothing else; the next one may be under way already.
    let mut worker = Worker::start(data, &sim, &args);
    journal.wait("main", CallState::Started, 4);
    kill_vmms(data);
    let report = sim.wait(&mut worker, BOUND);
    report.assert_ok(&worker);
    answered_once(&report);
    let counter: Vec<&str> = report.text("main", "five").lines().collect();
    for n in ["1", "2", "3", "4"] {
        let times = counter.iter().filter(|l| **l == n).count();
        // What was answered as done was done once; what was cut off, at most once.
        let done = report.call(
            "main",
            ["one", "two", "three", "four"][n.parse::<usize>().expect("n") - 1],
        );
        let sure = done["seen"]["is_error"] == false;
        assert!(times == 1 || (times == 0 && !sure), "{n}: {counter:?}\n{done:#}");
    }
    end(data, worker);
}

#[test]
fn a_killed_worker_loses_no_answered_work_and_repeats_none_in_mode_call() {
    killed("call");
}

#[test]
fn a_killed_worker_loses_no_answered_work_and_repeats_none_in_mode_session() {
    killed("session");
}

const RUINED: &str = r#"
name: ruined
id_tag: e2eruined
queue: {ttl_seconds: 30}
sessions:
  - name: main
    steps:
      - user: Ruin it.
      - call: {name: fine, tool: bash, input: {command: 'echo fine > f; ls /dev | grep -c "^vd" || true'}, expect: {regex: "^0"}}
      - until_released: {within: 60s}
      - user: And now.
      - call: {name: one, tool: bash, input: {command: echo never}, expect: {is_error: true, contains: ["The disk of this session cannot be mounted"], lacks: [never]}}
      - call: {name: two, tool: read, input: {file_path: f}, expect: {is_error: true, exact: "${results.one.text}"}}
      - call: {name: three, tool: bash, input: {restart: true}, expect: {is_error: true, exact: "${results.one.text}"}}
"#;

#[test]
fn a_ruined_disk_is_the_same_clear_error_to_each_later_call() {
    let private = private_data();
    let data = private.path();
    let stage = tempfile::tempdir().expect("a folder");
    let sim = Sim::start(stage.path(), RUINED);
    let args = ["--max-idle", "300ms"];
    let mut worker = Worker::start(data, &sim, &args);
    let journal = Journal::open(data);
    journal.wait("main", CallState::Posted, 1);
    // No VM has it between two calls in mode `call`: a guest's root could have done this to its raw disk.
    worker.stop(Duration::from_secs(30));
    let row = journal.session("main").expect("the session");
    let disk = fs::File::options()
        .write(true)
        .open(journal.disk(&row))
        .expect("the session disk");
    for at in 0..64 {
        disk.write_all_at(&[0xa5; 1 << 16], at << 16)
            .expect("written over");
    }
    let mut worker = Worker::start(data, &sim, &args);
    let report = sim.wait(&mut worker, BOUND);
    report.assert_ok(&worker);
    answered_once(&report);
    assert_eq!(
        journal.session("main").map(|r| r.hash),
        Some(row.hash.clone()),
        "it stays for `session rm`"
    );
    let (code, _, err) = run(&mut omnirun_in(data, ["session", "rm", row.hash.as_str()]));
    // The worker may hold the session until its item has been let go.
    assert_eq!(code, 0, "{err}");
    end(data, worker);
}

/// Sessions of calls that each add a line of their own to a file, so that a second run would show in the last call.
fn round(sessions: usize, calls: usize) -> String {
    let mut yaml = String::from(
        "name: round\nid_tag: e2eround\nqueue: {ttl_seconds: 5}\nrandom:\n  seed: 11\n  rates:\n    events_send: \
         {status_500: 0.08, drop_before: 0.04, drop_after: 0.08, delay: 0.1, delay_for: 300ms}\n    events_stream: \
         {stream_close: 0.15, stream_break: 0.15, status_500: 0.05}\n    events_list: {status_500: 0.05}\n    \
         heartbeat: {lose_lease: 0.03, status_500: 0.05}\n    session_get: {status_500: 0.05}\n    poll: {status_500: \
         0.05, drop_after: 0.02}\n    ack: {status_500: 0.03, drop_after: 0.03}\nsessions:\n",
    );
    for s in 0..sessions {
        yaml += &format!("  - name: s{s}\n    steps:\n      - user: Go.\n");
        for c in 0..calls {
            yaml += &format!(
                "      - call: {{name: c{c}, tool: bash, input: {{command: 'echo line-{c} >> counter; sleep 0.3; \
                 echo did-{c}'}}, expect: {{any: true}}}}\n"
            );
        }
        yaml +=
            "      - call: {name: last, tool: bash, input: {command: 'cat counter'}, expect: {any: true}}\n";
        // The last one may be the one that is cut off.
        yaml += "      - call: {name: again, tool: read, input: {file_path: counter}, expect: {any: true}}\n";
    }
    yaml
}

#[test]
fn a_round_of_sessions_with_random_faults_answers_each_call_once_and_runs_none_twice() {
    let soak = std::env::var_os("OMNIRUN_SOAK").is_some();
    let (sessions, calls, kills, bound) = if soak { (20, 20, 8, 1800) } else { (4, 6, 2, 240) };
    let bound = Duration::from_secs(bound);
    let private = private_data();
    let data = private.path();
    let stage = tempfile::tempdir().expect("a folder");
    let mut sim = Sim::start(stage.path(), &round(sessions, calls));
    let args = ["--max-idle", "1s", "--max-sessions", "4"];
    let mut worker = Worker::start(data, &sim, &args);
    let journal = Journal::open(data);
    let total = sessions * (calls + 2);
    let posted = || {
        (0..sessions)
            .map(|s| journal.at_least(&format!("s{s}"), CallState::Posted))
            .sum::<usize>()
    };
    let mut killed_vmms = 0;
    for kill in 1..=kills {
        // VMs at each odd share of the calls, the worker at each even one.
        for (share, what) in [(2 * kill - 1, false), (2 * kill, true)] {
            let wanted = total * share / (2 * kills + 1);
            wait_until(&format!("{wanted} of {total} calls"), bound, || {
                posted() >= wanted || sim.is_over() || !worker.lives()
            });
            if what {
                worker.kill();
                worker = Worker::start(data, &sim, &args);
            } else {
                wait_until("a VM to kill", BOUND, || !vmms(data).is_empty() || sim.is_over());
                killed_vmms += kill_vmms(data);
            }
        }
    }
    let report = sim.wait(&mut worker, bound);
    report.assert_ended(&worker);
    assert!(killed_vmms > 0);
    answered_once(&report);
    let mut cut = 0;
    for s in 0..sessions {
        let name = format!("s{s}");
        let last = ["again", "last"]
            .into_iter()
            .find(|c| report.call(&name, c)["seen"]["is_error"] == false);
        let text = report.text(&name, last.expect("one of the last two calls has read the file"));
        for c in 0..calls {
            let times = text.matches(&format!("line-{c}\n")).count()
                + usize::from(text.ends_with(&format!("line-{c}")));
            let call = report.call(&name, &format!("c{c}"));
            let sure = call["seen"]["is_error"] == false;
            cut += usize::from(!sure);
            assert!(
                times == 1 || (times == 0 && !sure),
                "{name} c{c}: {times} times\n{call:#}\n{text}"
            );
        }
    }
    eprintln!(
        "{sessions} sessions of {calls} calls; {kills} worker kills, {killed_vmms} VMs killed, {cut} calls cut off, \
         faults {:#}",
        report.0["faults"]
    );
    end(data, worker);
}
