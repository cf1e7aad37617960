//! Networks with the shipped binary and real guests: the escape test in its lab, and what is left after a SIGKILL.

use omnirun_e2e::{
    data,
    leftovers::{leftovers, vmms},
    omnirun, omnirun_in, private_data,
    processes::{children, kill, lives},
    run, wait_until,
};
use omnirun_escape_test::lab::{enter, zone};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

/// For a machine under heavy load; nothing waits for it to pass.
const BOUND: Duration = Duration::from_secs(180);

/// `false`, with a word, where namespaces cannot be had.
fn may() -> bool {
    let wrong = omnirun_netns::problem();
    if let Some(problem) = &wrong {
        eprintln!("SKIPPED: {problem}");
    }
    wrong.is_none()
}

#[test]
fn nothing_gets_out_of_a_sandbox_in_any_mode() {
    if may() {
        assert_green(&mut omnirun(["escape-test", "--lab", "--json"]));
    }
}

/// Its host's network is the test's lab, so that nothing leaves that either.
#[test]
fn nor_into_a_network_that_is_the_hosts_own() {
    enter::test("nor_into_a_network_that_is_the_hosts_own", async |_lab| {
        let mut command = omnirun(["escape-test", "--site", zone::LISTED.0, "--json"]);
        command.env_remove(enter::INSIDE);
        tokio::task::spawn_blocking(move || assert_green(&mut command))
            .await
            .expect("green");
    });
}

/// In all three modes.
fn assert_green(command: &mut Command) {
    let (code, out, err) = run(command);
    let reports: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let bad: Vec<&Value> = reports
        .iter()
        .flat_map(|report| report["attempts"].as_array().into_iter().flatten())
        .filter(|attempt| attempt["verdict"] != "pass")
        .collect();
    assert_eq!(code, 0, "{bad:#?}\n{err}");
    let modes: Vec<&str> = reports
        .iter()
        .filter_map(|report| report["mode"].as_str())
        .collect();
    assert_eq!(modes, ["none", "allow", "open"]);
}

#[test]
fn without_a_policy_there_is_no_card_and_with_one_names_are_ours_to_answer() {
    let (code, out, err) = run(&mut omnirun(["run", "--", "sh", "-c", "ls /sys/class/net"]));
    assert_eq!((code, out.trim()), (0, "lo"), "{err}");
    if !may() {
        return;
    }
    let look = "ls /sys/class/net; cat /etc/resolv.conf; getent hosts other.example || echo none";
    let (code, out, err) = run(&mut omnirun([
        "run",
        "--net",
        "allow:listed.example",
        "--",
        "sh",
        "-c",
        look,
    ]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "eth0\nlo\nnameserver 192.0.0.1\nnone\n");
    assert!(
        err.contains("refused other.example (not-listed)") && err.contains("omnirun policy log sbx_"),
        "{err}"
    );
}

#[test]
fn a_policy_that_is_none_changes_nothing_and_says_what_is_wrong() {
    for (policy, says) in [
        ("allow:a b", "host name"),
        ("allow:169.254.169.254", "never reached"),
        ("preset:nowhere", "anthropic, github"),
        ("/nowhere/policy.toml", "/nowhere/policy.toml"),
        ("everything", "none, open, allow:"),
    ] {
        let (code, _, err) = run(&mut omnirun(["run", "--net", policy, "--", "true"]));
        assert!(code == 125 && err.contains(says), "{policy}: {code} {err}");
    }
}

#[test]
fn a_killed_owner_leaves_no_namespace_link_rule_or_process() {
    if !may() {
        return;
    }
    let private = private_data();
    let data = private.path();
    // The snapshot.
    let (code, _, err) = run(&mut omnirun_in(data, ["run", "--net", "allow:", "--", "true"]));
    assert_eq!(code, 0, "{err}");
    for victim in ["owner", "proxy", "VMM"] {
        let mut child = omnirun_in(
            data,
            ["run", "--net", "allow:", "--", "sh", "-c", "echo up; sleep 600"],
        )
        .stdout(Stdio::piped())
        .spawn()
        .expect("omnirun runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "up\n");
        let proxies = children(child.id(), "egress-proxy");
        let target = match victim {
            "owner" => child.id(),
            "proxy" => *proxies.first().expect("a proxy"),
            _ => vmms(data).first().expect("a VMM").0,
        };
        kill(target);
        if victim == "proxy" {
            // The sandbox lives on, and so does its owner; another proxy takes over.
            wait_until("another proxy", BOUND, || {
                children(child.id(), "egress-proxy")
                    .iter()
                    .any(|pid| !proxies.contains(pid))
            });
            kill(child.id());
        }
        child.wait().expect("it ends");
        for pid in proxies {
            wait_until("the proxy's end", BOUND, || !lives(pid, "egress-proxy"));
        }
        let (code, _, err) = run(&mut omnirun_in(data, ["clean"]));
        assert_eq!(code, 0, "{victim}: {err}");
        assert_eq!(leftovers(data), Vec::<String>::new(), "{victim}");
    }
}

#[test]
fn the_audit_log_says_what_was_refused_and_a_policy_is_learnt_from_it() {
    if !may() {
        return;
    }
    let (code, _, err) = run(&mut omnirun([
        "run",
        "--json",
        "--net",
        "allow:listed.example",
        "--",
        "getent",
        "hosts",
        "other.example",
    ]));
    assert_ne!(code, 125, "{err}");
    let finish: Value = serde_json::from_str(err.lines().last().expect("a line")).expect("JSON");
    let sandbox = finish["sandbox"].as_str().expect("its id");
    let (code, out, err) = run(&mut omnirun(["policy", "log", sandbox, "--json"]));
    assert_eq!(code, 0, "{err}");
    let refused = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line));
    let refused: Vec<Value> = refused.filter(|line| line["name"] == "other.example").collect();
    assert!(refused.iter().any(|line| line["reason"] == "not-listed"), "{out}");
    let (code, out, err) = run(&mut omnirun(["policy", "learn", sandbox]));
    assert_eq!(code, 0, "{err}");
    let file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile_in(data())
        .expect("a file");
    std::fs::write(file.path(), &out).expect("written");
    let (code, said, err) = run(omnirun(["policy", "check"]).arg(file.path()));
    assert_eq!(code, 0, "{err}");
    assert!(said.contains("allow"), "{said}");
}
