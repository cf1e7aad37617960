//! `omnirun run` and `omnirun clean`, with real guests.

use omnirun_e2e::{data, footprint_of, omnirun, omnirun_in, private_data, run, vmms_of, wait_until};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn sh(script: &str) -> Command {
    omnirun(["run", "--", "sh", "-c", script])
}

/// Starts a command and waits until it has written a first line.
fn started(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("omnirun starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    (child, out)
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("it lives");
}

#[test]
fn a_command_runs_as_if_it_ran_here() {
    let (code, out, err) = run(&mut omnirun(["run", "--", "uname", "-sr"]));
    assert_eq!((code, out.starts_with("Linux 6.")), (0, true), "{out} {err}");
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    assert!(!out.contains(host.trim()), "a kernel of its own");

    let (code, out, err) = run(&mut sh("echo out; echo err >&2; exit 7"));
    assert_eq!((code, out.as_str()), (7, "out\n"));
    assert!(err.contains("err\n"));
    for (script, code) in [("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(run(&mut sh(script)).0, code, "{script}");
    }
    for (command, code) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let (got, _, err) = run(&mut omnirun(["run", "--", command]));
        assert_eq!(got, code, "{err}");
        assert!(err.contains(command), "{err}");
    }
}

/// What a program can see of its system, as JSON.
const SYSTEM: &str = r#"
import json, os, socket, stat, sys
def write(path):
    with open(path, "w") as f: f.write("x")
    os.unlink(path)
    return oct(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode))
def read(path):
    with open(path) as f: return f.read()
mounts = {l.split()[1]: l.split()[2] for l in read("/proc/mounts").splitlines()}
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=20)
name = socket.gethostname()
pty = os.ttyname(os.openpty()[1])
print(json.dumps({
    "cards": sorted(os.listdir("/sys/class/net")),
    "routes": read("/proc/net/route").splitlines()[1:],
    "loopback": client.getpeername()[0],
    "name": name, "hostname file": read("/etc/hostname").strip(), "own address": socket.gethostbyname(name),
    "localhost": socket.gethostbyname("localhost"),
    "mounts": {at: mounts.get(at) for at in ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm"]},
    "dev": sorted(os.listdir("/dev")),
    "modes": {at: write(at + "/x") for at in ["/tmp", "/var/tmp", "/dev/shm", "/run"]},
    "pty": pty,
    "zeros": open("/dev/zero", "rb").read(4) == bytes(4) and len(os.urandom(16)) == 16,
    "kernel threads": sum(read(f"/proc/{p}/comm") == "kthreadd\n" for p in os.listdir("/proc") if p.isdigit()),
    "stdin": sys.stdin.read(),
    "cwd": os.getcwd(), "home": os.environ["HOME"], "uid": os.getuid(), "lang": os.environ["LANG"],
}))
"#;

#[test]
fn a_program_finds_the_system_that_it_knows() {
    let (code, out, err) = run(&mut omnirun(["run", "--", "python3", "-c", SYSTEM]));
    assert_eq!(code, 0, "{err}");
    let seen: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let expected = serde_json::json!({
        "cards": ["lo"], "routes": [], "loopback": "127.0.0.1", "localhost": "127.0.0.1",
        "mounts": {
            "/": "overlay", "/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs",
        },
        // No disks, and not the agent's channel.
        "dev": ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"],
        "modes": {"/tmp": "0o1777", "/var/tmp": "0o1777", "/dev/shm": "0o1777", "/run": "0o755"},
        "zeros": true, "kernel threads": 0, "stdin": "",
        "cwd": "/workspace", "home": "/root", "uid": 0, "lang": "C.UTF-8",
    });
    for (what, value) in expected.as_object().expect("an object") {
        assert_eq!(&seen[what], value, "{what}");
    }
    let text = |what: &str| seen[what].as_str().unwrap_or_default();
    assert!(text("name").starts_with("sandbox-"), "{seen}");
    assert_eq!(text("name"), text("hostname file"));
    assert!(text("own address").starts_with("127."), "{seen}");
    assert!(text("pty").starts_with("/dev/pts/"), "{seen}");
}

#[test]
fn identity_and_environment_are_the_callers() {
    let args = [
        "run", "--env", "A=b c", "--env", "E=", "--user", "nobody", "--cwd", "/tmp/new", "--",
    ];
    let script = ["sh", "-c", "echo \"$A|$E\"; id -un; pwd; env | grep -c ANTHROPIC"];
    let mut command = omnirun(args.iter().chain(&script));
    let (_, out, err) = run(command.env("ANTHROPIC_ENVIRONMENT_KEY", "sk-planted"));
    assert_eq!(out, "b c|\nnobody\n/tmp/new\n0\n", "{err}");
}

#[test]
fn standard_input_streams_binary_clean() {
    let mut child = omnirun(["run", "--stdin", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("omnirun starts");
    let bytes: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let mut stdin = child.stdin.take().expect("a pipe");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut echoed = Vec::new();
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_end(&mut echoed)
        .expect("it can be read");
    writer.join().expect("no panic").expect("all is taken");
    assert!(child.wait().expect("it ends").success());
    assert!(echoed == bytes, "{} bytes of {}", echoed.len(), bytes.len());
}

#[test]
fn a_reader_who_leaves_ends_the_command() {
    let mut child = sh("echo ready; exec yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("omnirun starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut String::new()).expect("a line");
    drop(out);
    assert_eq!(child.wait().expect("it ends").code(), Some(141));
}

#[test]
fn a_time_limit_keeps_what_was_written() {
    let begun = Instant::now();
    let mut command = omnirun(["run", "--timeout", "1", "--", "sh", "-c", "echo part; sleep 600"]);
    let (code, out, _) = run(&mut command);
    assert_eq!((code, out.as_str()), (124, "part\n"));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn signals_reach_the_command_and_a_second_one_kills_it() {
    let (child, mut out) = started(sh(
        "trap 'echo got; exit 9' INT; echo ready; while :; do sleep 0.1; done",
    ));
    signal(&child, rustix::process::Signal::INT);
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("it can be read");
    let code = child.wait_with_output().expect("it ends").status.code();
    assert_eq!((code, rest.as_str()), (Some(9), "got\n"));

    let (child, mut out) = started(sh(
        "trap 'echo deaf' INT TERM; echo ready; while :; do sleep 0.1; done",
    ));
    signal(&child, rustix::process::Signal::TERM);
    out.read_line(&mut String::new()).expect("a line");
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(
        child.wait_with_output().expect("it ends").status.code(),
        Some(137)
    );
}

#[test]
fn json_ends_with_one_line_of_facts() {
    let (code, _, err) = run(&mut omnirun(["run", "--json", "--", "sh", "-c", "exit 3"]));
    let line: serde_json::Value =
        serde_json::from_str(err.lines().last().expect("a line")).expect("it is JSON");
    assert_eq!((code, line["exit"].as_i64()), (3, Some(3)));
    assert!(
        line["sandbox"].as_str().is_some_and(|s| s.starts_with("sbx_")),
        "{line}"
    );
    assert!(
        ["kvm", "tcg"].contains(&line["accelerator"].as_str().unwrap_or_default()),
        "{line}"
    );
    for phase in [
        "prepare", "restore", "resume", "connect", "wake", "attach", "claim", "exec", "teardown",
    ] {
        assert!(
            line["phases_ms"][phase].as_f64().is_some_and(|ms| ms >= 0.0),
            "{phase}: {line}"
        );
    }
    let (code, _, err) = run(&mut omnirun([
        "run",
        "--json",
        "--template",
        "nope",
        "--",
        "true",
    ]));
    let line: serde_json::Value =
        serde_json::from_str(err.lines().last().expect("a line")).expect("it is JSON");
    assert_eq!((code, line["exit"].as_i64()), (125, Some(125)));
    assert!(
        line["error"]
            .as_str()
            .is_some_and(|e| e.contains("omnirun image build nope")),
        "{line}"
    );
}

#[test]
fn bad_input_is_one_clear_line_and_makes_nothing() {
    let private = private_data();
    for (flags, word) in [
        (["--memory", "1000T"], "more than this host has"),
        (["--memory", "1M"], "too little"),
        (["--cpus", "0"], "1 to 32 CPUs"),
        (["--disk", "1M"], "64 MiB to 256 GiB"),
        (["--template", "nope"], "omnirun image build nope"),
    ] {
        let (code, out, err) = run(&mut omnirun_in(
            private.path(),
            ["run", flags[0], flags[1], "--", "true"],
        ));
        assert_eq!((code, out.as_str()), (125, ""), "{flags:?}: {err}");
        assert!(err.contains(word) && err.lines().count() == 1, "{flags:?}: {err}");
    }
    // A mistake in the line is none of the command's exit codes, and a reader who leaves is no panic.
    let (code, out, _) = run(&mut omnirun(["run", "--bogus", "--", "true"]));
    assert_eq!((code, out.as_str()), (125, ""));
    let mut help = omnirun(["run", "--help"]);
    let mut help = help.stdout(Stdio::piped()).spawn().expect("omnirun starts");
    drop(help.stdout.take());
    assert_eq!(help.wait().expect("it ends").code(), Some(0));
    let (code, _, err) = run(&mut omnirun(["run", "--user", "nobody-at-all", "--", "true"]));
    assert_eq!(code, 125);
    assert!(err.contains("nobody-at-all"), "{err}");
    assert_eq!(footprint_of(private.path()), Vec::<String>::new());
    assert!(
        fs::read_dir(private.path().join("snapshots"))
            .expect("it is there")
            .next()
            .is_none()
    );
}

#[test]
fn two_clones_at_once_share_nothing_they_could_tell() {
    let script = "cat /proc/sys/kernel/random/boot_id /etc/machine-id /proc/sys/kernel/random/uuid; \
                  head -c 32 /dev/urandom | sha256sum; hostname; head -1 /proc/self/maps | cut -d- -f1; \
                  test -e /planted && echo seen; touch /planted; date +%s.%N";
    let both: Vec<Child> = (0..2)
        .map(|_| sh(script).stdout(Stdio::piped()).spawn().expect("omnirun starts"))
        .collect();
    let outs: Vec<Vec<String>> = both
        .into_iter()
        .map(|child| {
            let out = child.wait_with_output().expect("it ends");
            String::from_utf8_lossy(&out.stdout)
                .lines()
                .map(str::to_owned)
                .collect()
        })
        .collect();
    for (n, (a, b)) in outs[0].iter().zip(&outs[1]).enumerate() {
        assert_ne!(a, b, "line {n}");
    }
    assert_eq!((outs[0].len(), outs[1].len()), (7, 7), "{outs:?}");
}

#[test]
fn a_guest_that_goes_down_is_seen_at_once() {
    let begun = Instant::now();
    let (code, _, err) = run(&mut sh("echo c > /proc/sysrq-trigger; sleep 600"));
    assert_eq!(code, 125);
    assert!(err.contains("the guest went down"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn whatever_is_killed_when_the_next_command_leaves_nothing_of_it() {
    let private = private_data();
    let dir = private.path();
    // The first run makes the snapshot, so the first delays fall into its boot.
    let mut orphans = Vec::new();
    for delay in [300, 2500, 5000, 40, 80, 120, 160, 200, 250, 300, 350, 400] {
        let mut child = omnirun_in(dir, ["run", "--", "sh", "-c", "sleep 0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("omnirun starts");
        std::thread::park_timeout(Duration::from_millis(delay));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        orphans.extend(vmms_of(dir));
        let (code, _, err) = run(&mut omnirun_in(dir, ["clean"]));
        assert_eq!(code, 0, "after {delay} ms: {err}");
        assert_eq!(footprint_of(dir), Vec::<String>::new(), "after {delay} ms");
        for vmm in orphans.drain(..) {
            // A zombie that its new parent has not reaped yet has no command line.
            let line = fs::read(format!("/proc/{vmm}/cmdline")).unwrap_or_default();
            assert!(line.is_empty(), "after {delay} ms: {vmm} lives");
        }
    }
    let (_, out, _) = run(&mut omnirun_in(dir, ["clean"]));
    assert_eq!(out, "nothing to clean\n");
    let (code, out, err) = run(&mut omnirun_in(dir, ["run", "--", "echo", "fine"]));
    assert_eq!((code, out.as_str()), (0, "fine\n"), "{err}");

    // The same without `clean`: the next run does it.
    let mut left = omnirun_in(dir, ["run", "--", "sh", "-c", "echo ready; sleep 600"]);
    let (mut child, _out) = started_in(&mut left);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let (_, would, _) = run(&mut omnirun_in(dir, ["clean", "--dry-run"]));
    assert!(would.contains("is dead") && would.contains("sbx_"), "{would}");
    assert_eq!(vmms_of(dir).len(), 1, "a dry run touches nothing");
    let (code, _, err) = run(&mut omnirun_in(dir, ["run", "--", "true"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(footprint_of(dir), Vec::<String>::new());
}

fn started_in(command: &mut Command) -> (Child, BufReader<std::process::ChildStdout>) {
    started(std::mem::replace(command, Command::new("true")))
}

#[test]
fn many_sandboxes_one_after_the_other_leave_nothing() {
    let private = private_data();
    for round in 0..20 {
        let (code, _, err) = run(&mut omnirun_in(private.path(), ["run", "--", "true"]));
        assert_eq!(code, 0, "round {round}: {err}");
    }
    wait_until("nothing is left", Duration::from_secs(5), || {
        footprint_of(private.path()).is_empty()
    });
    let base = data().join("images");
    assert!(base.is_dir());
}
