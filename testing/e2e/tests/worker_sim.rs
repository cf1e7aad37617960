//! The worker against the simulator, as users run both: sessions of calls in either isolation mode, and what the session
//! commands say about them afterwards.

use omnirun_e2e::{
    leftovers::leftovers,
    omnirun_in, private_data, run,
    stage::{Sim, Worker},
};
use std::{fs, path::Path, time::Duration};

const BOUND: Duration = Duration::from_secs(150);

/// Eight calls of all six tools; `MODE` lines differ between the modes.
const TOUR: &str = r#"
name: tour
id_tag: e2etour
queue: {ttl_seconds: 60}
sessions:
  - name: tour
    steps:
      - user: A tour of the tools.
      - call:
          name: state
          tool: bash
          input:
            command: |
              echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
              echo 7 > /proc/sys/vm/swappiness
              cat seeded/hello
              mkdir -p sub; cd sub; export E=exported; V=plain; f() { echo from-f; }
              sleep 600 & echo "child $!" > ../child
          expect: {contains: ["boot=", from-seed SEES_BACKGROUND]}
          capture: {boot: "boot=([0-9a-f-]{36})"}
      - calls:
          - {name: write, tool: write, input: {file_path: /workspace/a.py, content: "x = 1\ny = 22\n"}, expect: {contains: [a.py]}}
          - {name: edit, tool: edit, input: {file_path: /workspace/a.py, old_string: "22", new_string: "33"}, expect: {contains: [a.py]}}
          - {name: read, tool: read, input: {file_path: /workspace/a.py}, expect: {contains: ["y = 33"]}}
          - {name: glob, tool: glob, input: {pattern: "**/*.py", path: /workspace}, expect: {contains: [a.py]}}
          - {name: grep, tool: grep, input: {pattern: "y = \\d+", path: /workspace}, expect: {contains: ["a.py", "y = 33"]}}
      - call:
          name: carried
          tool: bash
          input: {command: 'pwd; echo "$E $V"; f; echo "boot=$(cat /proc/sys/kernel/random/boot_id)"; echo "swap=$(cat /proc/sys/vm/swappiness)."; kill -0 $(cut -d" " -f2 ../child) 2>/dev/null && echo lives || echo ended'}
          expect: {contains: ["/workspace/sub", "exported plain", from-f, CARRIED], lacks: [NOT_CARRIED]}
      - call:
          name: slow
          tool: bash
          input: {command: 'echo partial; sleep 600', timeout_ms: 1500}
          expect: {is_error: true, contains: [partial]}
      - call:
          name: after
          tool: bash
          input: {command: 'echo usable; test -s ../a.py && echo files; false'}
          expect: {any: true}
      - call: {name: restart, tool: bash, input: {restart: true}}
      - call:
          name: fresh
          tool: bash
          input: {command: 'pwd; echo "[$E$V]"; type f 2>&1 | head -1'}
          expect: {contains: ["[]"], lacks: ["/workspace/sub"], regex: "^/workspace\\n"}
  - name: asks
    steps:
      - user: Ask first.
      - call: {name: allowed, tool: bash, input: {command: echo allowed}, permission: ask, confirm: {verdict: allow, when: after, after: 300ms}, expect: {contains: [allowed]}}
      - call: {name: denied, tool: bash, input: {command: touch /workspace/denied}, permission: ask, confirm: {verdict: deny, when: after, after: 200ms}, expect: {none: true}}
      - call: {name: early, tool: bash, input: {command: 'ls /workspace | grep -c denied; echo early'}, permission: ask, confirm: {verdict: allow, when: before}, expect: {regex: "0\\nearly"}}
      - call: {name: theirs, tool: their_tool, kind: custom, owner: client, answer: {after: 200ms, text: theirs}, input: {a: 1}}
      - call: {name: plant, tool: write, input: {file_path: kept.txt, content: kept}, expect: {contains: [kept.txt]}}
      - until_released: {within: 60s}
      - user: A second item of the same session.
      - call: {name: found, tool: read, input: {file_path: kept.txt}, expect: {contains: [kept]}}
  - name: short
    steps:
      - user: Soon terminated.
      - call: {name: hi, tool: bash, input: {command: 'echo hi > f'}, expect: {any: true}}
      - do: terminate
"#;

fn tour(mode: &str, carried: &str, not_carried: &str, background: &str) {
    let private = private_data();
    let data = private.path();
    let stage = tempfile::tempdir().expect("a folder");
    let seed = stage.path().join("seed/seeded");
    fs::create_dir_all(&seed).expect("a folder");
    fs::write(seed.join("hello"), "from-seed\n").expect("a file");
    let scenario = TOUR
        .replace("NOT_CARRIED", not_carried)
        .replace("CARRIED", carried)
        .replace(" SEES_BACKGROUND", background);
    let sim = Sim::start(stage.path(), &scenario);
    let mut worker = Worker::start(
        data,
        &sim,
        &[
            "--isolation",
            mode,
            "--max-idle",
            "1s",
            "--seed",
            stage.path().join("seed").to_str().expect("UTF-8"),
        ],
    );
    let report = sim.wait(&mut worker, BOUND);
    report.assert_ok(&worker);
    assert_eq!(
        report.session("asks")["items"].as_array().expect("items").len(),
        2
    );
    let boot = |text: &str| text.lines().find(|l| l.starts_with("boot=")).map(str::to_owned);
    let (first, later) = (
        boot(report.text("tour", "state")),
        boot(report.text("tour", "carried")),
    );
    assert!(first.is_some() && later.is_some());
    assert_eq!(first == later, mode == "session");
    assert!(
        report.text("tour", "after").contains("usable\nfiles"),
        "{}",
        report.text("tour", "after")
    );
    assert_eq!(report.call("tour", "after")["seen"]["is_error"], true);
    assert!(worker.stop(Duration::from_secs(20)).success(), "{}", worker.log());
    let left = leftovers(data);
    assert!(left.is_empty(), "{left:#?}");
    sessions(
        data,
        report.session("asks")["id"].as_str().expect("an id"),
        report.session("short")["id"].as_str().expect("an id"),
    );
}

/// What the session commands say, and do, once the worker has ended.
fn sessions(data: &Path, kept: &str, terminated: &str) {
    let (code, out, err) = run(&mut omnirun_in(data, ["session", "ls"]));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(kept), "{out}");
    assert!(
        !out.contains(terminated),
        "a terminated session's disk is removed: {out}"
    );
    let (code, out, err) = run(&mut omnirun_in(data, ["session", "show", kept]));
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("bash") && out.contains("write") && out.contains("posted"),
        "{out}"
    );
    let dest = data.join("copied.txt");
    let source = format!("{kept}:kept.txt");
    let (code, _, err) = run(omnirun_in(data, ["session", "cp", &source]).arg(&dest));
    assert_eq!(code, 0, "{err}");
    assert_eq!(fs::read_to_string(&dest).expect("the copy"), "kept");
    let (code, _, err) = run(&mut omnirun_in(data, ["session", "rm", kept]));
    assert_eq!(code, 0, "{err}");
    let (_, out, _) = run(&mut omnirun_in(data, ["session", "ls"]));
    assert!(!out.contains(kept), "{out}");
}

#[test]
fn mode_call_gives_each_call_a_kernel_and_carries_files_and_shell() {
    tour(
        "call",
        "\"swap=60.\", ended",
        "\"${captures.boot}\", \"swap=7.\"",
        ", \"still running at the end of this call\"",
    );
}

#[test]
fn mode_session_keeps_kernel_processes_and_shell() {
    tour(
        "session",
        "\"${captures.boot}\", \"swap=7.\", lives",
        "\"swap=60.\"",
        "",
    );
}
