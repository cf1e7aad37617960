//! What `omnirun worker` says and how it leaves when it cannot or may not go on.

use omnirun_e2e::{bin, data, omnirun_in, run, stage::Sim, text, wait_until};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const NOTHING: &str = "name: nothing\nsessions: []\n";

fn worker(dir: &std::path::Path, args: &[&str]) -> Command {
    omnirun_in(dir, ["worker"].iter().chain(args))
}

#[test]
fn it_refuses_to_start_with_one_line_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = dir.path().join("key");
    fs::write(&open, "sk-ant-oat01-file\n").expect("a file");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("its mode");
    let open = open.to_str().expect("a path");
    let id = ["--environment-id", "env_1"];
    for (args, set, says) in [
        (
            &id[..],
            Some(("ANTHROPIC_API_KEY", "sk-ant-api03-x")),
            "ANTHROPIC_API_KEY is set",
        ),
        (&[], None, "ANTHROPIC_ENVIRONMENT_ID"),
        (&id, None, "ANTHROPIC_ENVIRONMENT_KEY"),
        (
            &id,
            Some(("ANTHROPIC_ENVIRONMENT_KEY", "two words")),
            "characters",
        ),
        (&["--environment-id", "env/1"], None, "environment id"),
        (
            &["--environment-id", "env_1", "--base-url", "api.anthropic.com"],
            None,
            "https://",
        ),
        (
            &["--environment-id", "env_1", "--environment-key-file", open],
            None,
            "chmod 600",
        ),
    ] {
        let mut command = worker(dir.path(), args);
        command.envs(set);
        let (code, out, said) = run(&mut command);
        assert_eq!((code, out.as_str(), said.lines().count()), (125, "", 1), "{said}");
        assert!(said.contains(says), "{says}: {said}");
        assert!(!said.contains("sk-ant") && !said.contains("two words"), "{said}");
    }
    // Bad values of flags are usage errors, and quote no key either.
    let (code, _, said) =
        run(worker(dir.path(), &["--max-sessions", "0"]).env("ANTHROPIC_ENVIRONMENT_KEY", "sk-ant-x"));
    assert!(
        code == 125 && said.contains("1 to 1000") && !said.contains("sk-ant"),
        "{said}"
    );
    let (_, help, _) = run(worker(dir.path(), &["--help"]).env("ANTHROPIC_ENVIRONMENT_KEY", "sk-ant-x"));
    assert!(!help.contains("sk-ant"), "{help}");
    assert!(
        fs::read_dir(dir.path()).expect("the folder").count() == 1,
        "nothing was made"
    );
}

#[test]
fn a_queue_that_refuses_it_is_exit_code_3() {
    let dir = tempfile::tempdir().expect("a folder");
    let sim = Sim::start_open(dir.path(), NOTHING);
    let mut command = worker(
        data(),
        &["--memory", "256M", "--environment-id", &sim.environment],
    );
    command
        .env("ANTHROPIC_BASE_URL", &sim.url)
        .env("ANTHROPIC_ENVIRONMENT_KEY", "sk-ant-oat01-wrong");
    let (code, _, said) = run(&mut command);
    assert_eq!(code, 3, "{said}");
    let first = said.lines().next().unwrap_or_default();
    assert!(
        first.contains("worker starting") && first.contains(&sim.url),
        "{first}"
    );
    assert!(
        said.contains("refuses this worker") && !said.contains("sk-ant"),
        "{said}"
    );
    sim.end();
}

#[test]
fn signals_end_an_idle_worker_at_once_even_while_it_makes_its_snapshot() {
    let dir = tempfile::tempdir().expect("a folder");
    let sim = Sim::start_open(dir.path(), NOTHING);
    for early in [true, false] {
        let log = dir.path().join("worker.log");
        let mut child = worker(
            data(),
            &[
                "--memory",
                "256M",
                "--environment-id",
                &sim.environment,
                "--log-format",
                "json",
            ],
        )
        .env("ANTHROPIC_BASE_URL", &sim.url)
        .env("ANTHROPIC_ENVIRONMENT_KEY", &sim.key)
        .stderr(fs::File::create(&log).expect("a log"))
        .stdout(Stdio::null())
        .spawn()
        .expect("omnirun starts");
        let awaited = if early {
            "booting once"
        } else {
            "the queue is empty"
        };
        wait_until(awaited, Duration::from_secs(120), || {
            fs::read_to_string(&log).is_ok_and(|l| l.contains(awaited))
        });
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        let asked = Instant::now();
        let status = child.wait().expect("its end");
        let log = text(&fs::read(&log).expect("the log"));
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}: {log}",
            asked.elapsed()
        );
        let lines: Vec<_> = log.lines().filter(|l| !l.starts_with("omnirun: ")).collect();
        assert!(
            lines.iter().all(|l| l.starts_with('{')),
            "{} logs JSON: {log}",
            bin().display()
        );
    }
    sim.end();
}
