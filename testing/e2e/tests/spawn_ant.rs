//! `omnirun-spawn.sh` under a poller: its contract by a poller of our own, and Anthropic's `ant` where there is one.
//!
//! `ant` is taken from ANT_BIN or PATH. To have it: clone anthropics/anthropic-cli beside the project, `go build
//! ./cmd/ant`, and set ANT_BIN to the result.

use omnirun_e2e::{bin, data, footprint_of, private_data, stage::Sim, text, wait_until};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const BOUND: Duration = Duration::from_secs(150);

/// The repository's script.
fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../omnirun-spawn.sh")
}

/// A script that ends in the repository's, with small sandboxes and a short idle time.
fn quick_script(dir: &Path) -> PathBuf {
    let path = dir.join("on-work.sh");
    let body = format!(
        "#!/bin/sh\nexec {} --memory 256M --disk 1G --max-idle 2s \"$@\"\n",
        script().canonicalize().expect("the script").display()
    );
    fs::write(&path, body).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

/// One request over a connection of its own.
fn http(sim: &Sim, method: &str, path: &str) -> Value {
    let host = sim.url.strip_prefix("http://").expect("an http URL");
    let mut stream = TcpStream::connect(host).expect("the simulator listens");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\nanthropic-worker-id: e2e\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
        sim.key
    )
    .expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {head}");
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"))
}

/// Polls until there is an item, and acknowledges it.
fn claim(sim: &Sim) -> Value {
    let work = format!("/v1/environments/{}/work", sim.environment);
    let mut item = Value::Null;
    wait_until("an item", BOUND, || {
        item = http(sim, "GET", &format!("{work}/poll?block_ms=200"));
        !item.is_null()
    });
    http(
        sim,
        "POST",
        &format!("{work}/{}/ack", item["id"].as_str().expect("an id")),
    );
    item
}

/// What a poller starts its script with.
fn on_work(sim: &Sim, data: &Path, script: &Path, item: &Value) -> Command {
    let field = |v: &Value| v.as_str().expect("an id").to_owned();
    let mut command = Command::new(script);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ANTHROPIC_") {
            command.env_remove(name);
        }
    }
    command
        .env("OMNIRUN_BIN", bin())
        .env("OMNIRUN_DATA_DIR", data)
        .env("ANTHROPIC_BASE_URL", &sim.url)
        .env("ANTHROPIC_WORK_ID", field(&item["id"]))
        .env("ANTHROPIC_SESSION_ID", field(&item["data"]["id"]))
        .env("ANTHROPIC_ENVIRONMENT_ID", field(&item["environment_id"]))
        .env("ANTHROPIC_ENVIRONMENT_KEY", &sim.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

/// Starts it and hands it the item, as `ant` writes it: null fields as empty strings, then the end of the file.
fn start(mut command: Command, item: &Value) -> Child {
    let mut written = item.clone();
    for (_, value) in written.as_object_mut().expect("an object").iter_mut() {
        if value.is_null() {
            *value = Value::String(String::new());
        }
    }
    let mut child = command.spawn().expect("the script starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(written.to_string().as_bytes()).expect("the item");
    child
}

/// Waits for its end, with a bound.
fn finish(mut child: Child, bound: Duration) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if start.elapsed() > bound {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the script did not end within {bound:?}");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("a signal");
}

const TWO: &str = r#"
name: serial
queue: {ttl_seconds: 60}
sessions:
  - name: first
    steps:
      - user: Say where you are.
      - call: {name: where, tool: bash, input: {command: 'echo "key=[$ANTHROPIC_ENVIRONMENT_KEY] $(pwd)"; env'}, expect: {contains: ["key=[] /workspace"], lacks: [ANTHROPIC_, sk-ant]}}
      - call: {name: keep, tool: write, input: {file_path: a.txt, content: kept}}
      - until_released: {within: 60s}
      - user: Again.
      - call: {name: kept, tool: read, input: {file_path: a.txt}, expect: {exact: kept}}
"#;

#[test]
fn items_are_served_one_after_the_other_and_a_session_finds_its_files_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut sim = Sim::start(dir.path(), TWO);
    let script = quick_script(dir.path());
    for n in 0..2 {
        let item = claim(&sim);
        let log = dir.path().join(format!("spawn-{n}.log"));
        let mut command = on_work(&sim, data(), &script, &item);
        command.stderr(fs::File::create(&log).expect("a log"));
        if n == 0 {
            // Warned of and not used; the item is not burnt.
            command.env("ANTHROPIC_API_KEY", "sk-ant-api03-not-for-workers");
        } else {
            // The item's own secret is enough.
            command.env_remove("ANTHROPIC_ENVIRONMENT_KEY");
        }
        let code = finish(start(command, &item), BOUND);
        let log = fs::read_to_string(&log).expect("the log");
        assert_eq!(code, Some(0), "{log}");
        let first = log
            .lines()
            .find(|l| l.contains("spawn starting"))
            .expect("a first line");
        assert!(first.contains(&sim.url), "{first}");
        assert_eq!(log.contains("ANTHROPIC_API_KEY is set"), n == 0, "{log}");
        let secret = item["secret"].as_str().expect("a secret");
        for hidden in ["sk-ant", &sim.key, secret, "kept"] {
            assert!(!log.contains(hidden), "{hidden} in {log}");
        }
    }
    wait_until("the scripts to end", BOUND, || sim.is_over());
    let report = sim.end();
    assert_eq!(report.session("first")["failures"], serde_json::json!([]));
    assert_eq!(report.text("first", "kept"), "kept");
    let items = report.session("first")["items"]
        .as_array()
        .expect("items")
        .clone();
    assert_eq!(items.len(), 2);
    assert!(
        items.iter().all(|i| i["force_stopped"] == true && i["lost"] == 0),
        "{items:?}"
    );
}

const LONG: &str = r#"
name: long
queue: {ttl_seconds: 60}
sessions:
  - name: long
    steps:
      - user: Take your time.
      - call: {name: slow, tool: bash, input: {command: 'echo begun; sleep 600'}, expect: {is_error: true, contains: [begun]}}
"#;

#[test]
fn a_signal_gives_the_running_tool_twelve_seconds_and_its_partial_output_is_posted() {
    let dir = tempfile::tempdir().expect("a folder");
    let private = private_data();
    let sim = Sim::start_open(dir.path(), LONG);
    let script = quick_script(dir.path());
    let item = claim(&sim);
    let log = dir.path().join("spawn.log");
    let mut command = on_work(&sim, private.path(), &script, &item);
    command
        .env("OMNIRUN_LOG", "debug")
        .stderr(fs::File::create(&log).expect("a log"));
    let child = start(command, &item);
    // Its VM is claimed when the tool begins; the footprint of a session that runs is a VMM.
    wait_until("the tool runs", BOUND, || {
        let run = omnirun_e2e::run(&mut omnirun_e2e::omnirun_in(
            private.path(),
            ["session", "ls", "--json"],
        ));
        let show = omnirun_e2e::run(&mut omnirun_e2e::omnirun_in(
            private.path(),
            [
                "session",
                "show",
                item["data"]["id"].as_str().expect("an id"),
                "--json",
            ],
        ));
        run.0 == 0 && show.0 == 0 && show.1.contains("\"bash\"")
    });
    signal(&child, rustix::process::Signal::TERM);
    let asked = Instant::now();
    // As Ctrl-C at a terminal comes through `ant`: both signals, one request.
    signal(&child, rustix::process::Signal::INT);
    let code = finish(child, Duration::from_secs(30));
    let took = asked.elapsed();
    let log = fs::read_to_string(&log).expect("the log");
    assert_eq!(code, Some(0), "{log}");
    assert!(
        took >= Duration::from_secs(11) && took < Duration::from_secs(28),
        "{took:?}: {log}"
    );
    let report = sim.end();
    assert!(report.text("long", "slow").contains("begun"), "{log}");
    assert_eq!(report.session("long")["items"][0]["force_stopped"], true);
    assert_eq!(footprint_of(private.path()), Vec::<String>::new());
}

const ONE: &str = r#"
name: one
queue: {ttl_seconds: 60}
sessions:
  - name: one
    steps:
      - user: Two calls.
      - call: {name: a, tool: bash, input: {command: 'echo a'}, expect: {contains: [a]}}
      - wait: 1s
      - call: {name: b, tool: bash, input: {command: 'echo b'}, expect: {contains: [b]}}
"#;

#[test]
fn a_poller_that_dies_takes_nothing_with_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut sim = Sim::start(dir.path(), ONE);
    let script = quick_script(dir.path());
    let item = claim(&sim);
    let mut command = on_work(&sim, data(), &script, &item);
    command.stderr(Stdio::piped());
    let mut child = start(command, &item);
    // Nobody reads standard error any more: every log line meets a broken pipe.
    drop(child.stderr.take());
    assert_eq!(finish(child, BOUND), Some(0));
    wait_until("the scripts to end", BOUND, || sim.is_over());
    let report = sim.end();
    assert_eq!((report.text("one", "a"), report.text("one", "b")), ("a", "b"));
}

#[test]
fn what_is_no_item_is_refused_with_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = quick_script(dir.path());
    let run = |stdin: &str, set: &[(&str, &str)]| {
        let mut command = Command::new(&script);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANTHROPIC_") {
                command.env_remove(name);
            }
        }
        command
            .env("OMNIRUN_BIN", bin())
            .env("OMNIRUN_DATA_DIR", dir.path())
            .envs(set.iter().copied());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script starts");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(stdin.as_bytes())
            .expect("written");
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), text(&output.stderr))
    };
    let env = ("ANTHROPIC_ENVIRONMENT_ID", "env_1");
    let key = ("ANTHROPIC_ENVIRONMENT_KEY", "k");
    for (stdin, set, says) in [
        ("", &[][..], "ANTHROPIC_ENVIRONMENT_ID"),
        ("", &[env, key], "omnirun worker"),
        ("{\"id\":", &[env, key], "no work item"),
        (
            "{\"id\":\"w\",\"environment_id\":\"other\",\"data\":{\"type\":\"session\",\"id\":\"s\"}}",
            &[env, key],
            "different",
        ),
        (
            "{\"id\":\"w\",\"environment_id\":\"env_1\",\"data\":{\"type\":\"session\",\"id\":\"s\"}}",
            &[env],
            "credential",
        ),
    ] {
        let (code, said) = run(stdin, set);
        assert_eq!((code, said.lines().count()), (Some(125), 1), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

/// Anthropic's own CLI, if this host has it.
fn ant() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ANT_BIN").filter(|p| !p.is_empty()) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("ant")).find(|p| {
        // Apache Ant has the same name; ours knows `beta:worker`.
        p.is_file()
            && Command::new(p)
                .args(["beta:worker", "--help"])
                .output()
                .is_ok_and(|o| text(&o.stdout).contains("poll"))
    })
}

#[test]
fn the_real_ant_runs_the_script_unmodified() {
    let Some(ant) = ant() else {
        // Straight to the descriptor: the test harness swallows what is printed.
        let _ = std::io::stderr().write_all(
            b"\n*** SKIPPED: the_real_ant_runs_the_script_unmodified. No `ant` (anthropics/anthropic-cli) in ANT_BIN or \
              on PATH. ***\n\n",
        );
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let mut sim = Sim::start(dir.path(), TWO);
    let log = dir.path().join("ant.log");
    let mut command = Command::new(ant);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ANTHROPIC_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(["beta:worker", "poll", "--on-work"])
        .arg(quick_script(dir.path()))
        .env("HOME", dir.path())
        .env("OMNIRUN_BIN", bin())
        .env("OMNIRUN_DATA_DIR", data())
        .env("ANTHROPIC_BASE_URL", &sim.url)
        .env("ANTHROPIC_ENVIRONMENT_ID", &sim.environment)
        .env("ANTHROPIC_ENVIRONMENT_KEY", &sim.key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("ant starts");
    wait_until("the scripts to end", BOUND, || {
        assert!(
            child.try_wait().expect("a child").is_none(),
            "{:?}",
            fs::read_to_string(&log)
        );
        sim.is_over()
    });
    signal(&child, rustix::process::Signal::TERM);
    finish(child, Duration::from_secs(35));
    let log = fs::read_to_string(&log).expect("the log");
    let report = sim.end();
    assert_eq!(
        report.session("first")["failures"],
        serde_json::json!([]),
        "{log}"
    );
    assert_eq!(report.text("first", "kept"), "kept", "{log}");
    // The last script may meet the signal that ends `ant`; it says so of every script then.
    let failed = |l: &str| l.contains("exited non-zero") && !l.contains("context canceled");
    assert!(!log.lines().any(failed), "{log}");
}
