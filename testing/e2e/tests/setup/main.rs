//! `omnirun setup` as a user meets it: downloads from a server on loopback, archives and folders that are here, and what
//! goes wrong with either. The programs are the smallest that say a version, and are asked for no more, but where the trial
//! is what is looked at.

mod release;
mod server;

use omnirun_e2e::{omnirun_in, run, wait_until};
use release::{Release, program, shell};
use serde_json::Value;
use server::{Answer, Server};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

/// Not a release's own name: what a maintainer has recorded of that would be held against it.
const PACKED: &str = "packed.tgz";
const ARCH: &str = std::env::consts::ARCH;

/// `omnirun setup` with a data folder, without a trial, and no proxy but the test's own.
fn setup(data: &Path, args: &[&str]) -> Command {
    let mut command = trying(data, args);
    command.arg("--no-trial");
    command
}

/// The same, with a trial.
fn trying(data: &Path, args: &[&str]) -> Command {
    let mut command = omnirun_in(data, ["setup"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.args(args);
    command
}

/// Names in the folder that Firecracker is in, without the lock.
fn on_the_shelf(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("firecracker"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<_> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

fn bytes_of(path: &Path) -> Vec<u8> {
    fs::read(path).expect("it is there")
}

#[test]
fn a_download_is_held_against_both_digests_and_done_once() {
    let data = tempfile::tempdir().expect("a folder");
    let release = Release::new("1.16.1");
    let (archive, digest) = release.pack();
    let server = Server::publishing(&release, Answer::Bytes(bytes_of(&archive)), &digest);

    // Without a digest, given or recorded, nothing is even asked for.
    let recorded = include_str!("../../../../crates/mechanisms/firecracker-install/pins.txt");
    if !recorded.contains(&release.name()) {
        let (code, _, err) = run(&mut setup(data.path(), &["--url", &server.url()]));
        assert_eq!(code, 125, "{err}");
        assert!(err.contains("--sha256") && err.contains("--from"), "{err}");
        assert!(server.asked().is_empty() && on_the_shelf(data.path()).is_empty());
    }

    let args = [
        "--url",
        &server.url(),
        "--sha256",
        &digest.to_uppercase(),
        "--json",
    ];
    let (code, out, err) = run(&mut setup(data.path(), &args));
    assert_eq!(code, 0, "{err}");
    let line: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (&line["version"], &line["fresh"]),
        (&"1.16.1".into(), &true.into())
    );
    assert_eq!(line["record"]["archive"], digest.as_str());
    let firecracker = PathBuf::from(line["firecracker"].as_str().expect("a path"));
    assert!(
        firecracker.ends_with("firecracker/1.16.1/firecracker"),
        "{firecracker:?}"
    );
    let mode = fs::metadata(&firecracker)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    let folder = firecracker.parent().expect("a folder");
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("listed")
        .map(|e| e.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["LICENSE", "firecracker", "installed.json", "jailer"]);
    assert_eq!(on_the_shelf(data.path()), ["1.16.1", "current"]);

    let before = server.asked().len();
    assert_eq!(before, 3);
    let (code, _, err) = run(&mut setup(data.path(), &["--url", &server.url()]));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("is there"), "{err}");
    assert_eq!(server.asked().len(), before);
    let (code, out, err) = run(&mut setup(data.path(), &[&args[..], &["--force"]].concat()));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("\"fresh\":true"), "{out}");
    assert_eq!(server.asked().len(), 2 * before);
}

#[test]
fn bytes_that_are_not_the_promised_ones_replace_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let old = Release::new("1.15.1");
    let (archive, _) = old.pack();
    let (code, _, err) = run(&mut setup(data.path(), &["--from", &archive.to_string_lossy()]));
    assert_eq!(code, 0, "{err}");

    let release = Release::new("1.16.1");
    let (archive, digest) = release.pack();
    let mut forged = bytes_of(&archive);
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    let other = "0".repeat(64);
    let nothing_like_it = Answer::Bytes(vec![0; 70 << 10]);
    for (archive, published, given, words) in [
        // Forged, and its checksum file is not; a checksum file for something else; a digest of somebody else's.
        (Answer::Bytes(forged), &digest, &digest, "has SHA-256"),
        (Answer::Bytes(bytes_of(&archive)), &other, &digest, "has SHA-256"),
        (Answer::Bytes(bytes_of(&archive)), &digest, &other, "has SHA-256"),
        (nothing_like_it, &digest, &digest, "has SHA-256"),
        (Answer::Redirect("/nowhere"), &digest, &digest, "404"),
    ] {
        let server = Server::publishing(&release, archive, published);
        let (code, _, err) = run(&mut setup(
            data.path(),
            &["--url", &server.url(), "--sha256", given],
        ));
        assert_eq!(code, 125, "{err}");
        assert!(
            err.contains(words) && !err.contains("signature"),
            "{words}: {err}"
        );
        assert_eq!(on_the_shelf(data.path()), ["1.15.1", "current"]);
    }
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let url = format!("http://{port}/fc");
    let (code, _, err) = run(&mut setup(data.path(), &["--url", &url, "--sha256", &digest]));
    assert_eq!(code, 125, "{err}");
    assert!(err.contains("cannot download") && err.contains(&url), "{err}");
    // What is in place is what it was, and the right one replaces it.
    let server = Server::publishing(&release, Answer::Bytes(bytes_of(&archive)), &digest);
    let (code, _, err) = run(&mut setup(
        data.path(),
        &["--url", &server.url(), "--sha256", &digest],
    ));
    assert_eq!(code, 0, "{err}");
    assert_eq!(on_the_shelf(data.path()), ["1.16.1", "current"]);
}

#[test]
fn a_proxy_is_asked_where_the_environment_says_so() {
    let data = tempfile::tempdir().expect("a folder");
    let release = Release::new("1.16.1");
    let (archive, digest) = release.pack();
    let proxy = Server::publishing(&release, Answer::Bytes(bytes_of(&archive)), &digest);
    // A name that nobody but the proxy can know.
    let args = ["--url", "http://mirror.invalid/fc", "--sha256", &digest];
    let address = format!("http://{}", proxy.address);
    let mut around = setup(data.path(), &args);
    around.env("HTTP_PROXY", &address).env("http_proxy", &address);
    let (code, _, err) = run(around.env("NO_PROXY", "mirror.invalid"));
    assert_eq!(code, 125, "{err}");
    assert!(proxy.asked().is_empty());

    let mut through = setup(data.path(), &args);
    let (code, _, err) = run(through.env("HTTP_PROXY", &address).env("http_proxy", &address));
    assert_eq!(code, 0, "{err}");
    let asked = proxy.asked();
    assert!(
        asked.len() == 3 && asked.iter().all(|a| a.starts_with("http://mirror.invalid/")),
        "{asked:?}"
    );
}

#[test]
fn an_archive_or_a_folder_that_is_here_will_do() {
    let data = tempfile::tempdir().expect("a folder");
    let from = |path: &Path, more: &[&str]| {
        let path = path.to_string_lossy().into_owned();
        run(&mut setup(
            data.path(),
            &[&["--from", path.as_str()], more].concat(),
        ))
    };
    let release = Release::new("1.16.1");
    let (archive, digest) = release.pack();
    let beside = release.dir.path().join(format!("{PACKED}.sha256.txt"));
    fs::write(&beside, format!("{}  {PACKED}\n", "0".repeat(64))).expect("written");
    let (code, _, err) = from(&archive, &[]);
    assert_eq!(code, 125, "{err}");
    assert!(err.contains("sha256.txt says"), "{err}");
    fs::write(&beside, format!("{digest}  {PACKED}\n")).expect("written");
    let (code, _, err) = from(&archive, &["--sha256", &"1".repeat(64)]);
    assert_eq!(code, 125, "{err}");
    assert!(on_the_shelf(data.path()).is_empty());
    let (code, _, err) = from(&archive, &["--sha256", &digest]);
    assert_eq!(code, 0, "{err}");
    // The same programs out of a folder: nothing to do. Others of the same version replace them.
    let (code, _, err) = from(&release.folder(), &[]);
    assert!(code == 0 && err.contains("is there"), "{err}");
    let plain = tempfile::tempdir().expect("a folder");
    for (name, says) in [
        ("firecracker", "Firecracker v1.16.1\n"),
        ("jailer", "Jailer v1.16.1\n# built here\n"),
    ] {
        fs::write(plain.path().join(name), program(says, 0)).expect("written");
    }
    let (code, _, err) = from(plain.path(), &[]);
    assert!(code == 0 && err.contains("is in place"), "{err}");
    let installed = data.path().join("firecracker/1.16.1/jailer");
    assert_eq!(bytes_of(&installed), program("Jailer v1.16.1\n# built here\n", 0));
    assert_eq!(on_the_shelf(data.path()), ["1.16.1", "current"]);
}

#[test]
fn what_does_not_pass_its_trial_replaces_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let good = Release::new("1.15.1");
    let (code, _, err) = run(&mut setup(
        data.path(),
        &["--from", &good.folder().to_string_lossy()],
    ));
    assert_eq!(code, 0, "{err}");
    let dynamic = fs::read("/bin/sh").expect("a shell");
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        (
            "1.16.1",
            "jailer",
            program("Jailer v1.16.1\n", 3),
            "exits with code 3",
        ),
        ("1.16.1", "jailer", program("Jailer v1.15.1\n", 0), "1.15.1"),
        (
            "1.16.1",
            "firecracker",
            program("Firecracker v1.16.0\n", 0),
            "1.16.0",
        ),
        ("1.16.1", "firecracker", program("hello\n", 0), "hello"),
        ("1.16.1", "firecracker", dynamic, "linked dynamically"),
        (
            "1.16.1",
            "firecracker",
            b"#!/bin/sh\necho Firecracker v1.16.1\n".to_vec(),
            "no program",
        ),
        (
            "1.14.0",
            "firecracker",
            program("Firecracker v1.14.0\n", 0),
            "1.14.0",
        ),
    ];
    for (version, name, bytes, words) in cases {
        let release = Release::new(version);
        release.put(name, &bytes);
        let (archive, _) = release.pack();
        let (code, _, err) = run(&mut setup(data.path(), &["--from", &archive.to_string_lossy()]));
        assert_eq!(code, 125, "{err}");
        assert!(err.contains(words), "{words}: {err}");
        assert_eq!(on_the_shelf(data.path()), ["1.15.1", "current"]);
    }
}

/// Programs that say the right version and are nothing else.
#[test]
fn a_firecracker_that_does_not_start_in_its_jail_replaces_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let (old, new) = (Release::new("1.15.1"), Release::new("1.16.1"));
    let from = old.folder().to_string_lossy().into_owned();
    let (code, _, err) = run(&mut setup(data.path(), &["--from", &from]));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("--no-trial says so"), "{err}");

    let from = new.folder().to_string_lossy().into_owned();
    let (code, out, err) = run(&mut trying(data.path(), &["--from", &from, "--json"]));
    if rustix::process::geteuid().is_root() {
        assert_eq!(code, 125, "{err}");
        assert!(err.contains("did not pass its trial, a start in a jail"), "{err}");
        assert!(
            err.contains("Jailer v1.16.1") || err.contains("starting Firecracker"),
            "{err}"
        );
        assert_eq!(on_the_shelf(data.path()), ["1.15.1", "current"]);
    } else {
        // Nobody but root can try it, which is no fault of the programs'.
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("Not tried: a start in the jail"), "{err}");
        let line: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(line["trial"]["jailed"], false);
    }
}

/// The real programs, where somebody names them.
#[test]
fn a_real_firecracker_is_tried_as_far_as_this_machine_can() {
    let named = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(firecracker), Some(jailer)) = (named("FIRECRACKER_BIN"), named("JAILER_BIN")) else {
        eprintln!("SKIPPED: FIRECRACKER_BIN and JAILER_BIN name no programs");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root builds jails");
        return;
    }
    let kvm = omnirun_vmm::accel::detect() == omnirun_vmm::accel::Accel::Kvm;
    // Where a guest can be booted there is one.
    let data = match kvm {
        true => omnirun_e2e::private_data(),
        false => tempfile::tempdir().expect("a folder"),
    };
    let from = tempfile::tempdir().expect("a folder");
    fs::copy(firecracker, from.path().join("firecracker")).expect("copied");
    fs::copy(jailer, from.path().join("jailer")).expect("copied");
    let mut command = trying(data.path(), &["--from", &from.path().to_string_lossy(), "--json"]);
    // What the environment names is not what is tried.
    let nowhere = ["FIRECRACKER_BIN", "JAILER_BIN"].map(|name| (name, "/nowhere"));
    let (code, out, err) = run(command.envs(nowhere));
    assert_eq!(code, 0, "{err}");
    let line: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(line["trial"]["jailed"], true, "{line}");
    assert_eq!(line["trial"]["boot_seconds"].is_number(), kvm, "{line}");
    let words = match kvm {
        true => "a guest booted in it and ran a shell",
        false => "started in its jail and answered. Not tried: a guest: ",
    };
    assert!(err.contains(words), "{err}");
}

#[test]
fn nothing_is_written_outside_and_odd_files_are_refused() {
    let data = tempfile::tempdir().expect("a folder");
    let outside = tempfile::tempdir().expect("a folder");
    let release = Release::new("1.16.1");
    release.pack();
    let evil = format!(
        "tar -P -czf evil.tgz --transform 's,^release-v1.16.1-{ARCH}/LICENSE,../../LICENSE,' release-v1.16.1-{ARCH}"
    );
    shell(release.dir.path(), &evil);
    let links = release.dir.path().join("links");
    fs::create_dir(&links).expect("a folder");
    shell(
        &links,
        &format!("mkdir r && ln -s /etc/passwd r/firecracker-v1.16.1-{ARCH} && tar -czf ../links.tgz r"),
    );
    fs::write(release.dir.path().join("text.tgz"), "no archive").expect("written");
    shell(outside.path(), "mkfifo pipe");
    let here = |name: &str| release.dir.path().join(name);
    let paths = [
        (here("evil.tgz"), "leads out"),
        (here("links.tgz"), "no plain file"),
        (here("text.tgz"), "cannot read the archive"),
        (here("nowhere.tgz"), "cannot look at"),
        (outside.path().join("pipe"), "no plain file"),
        (outside.path().to_owned(), "there is no firecracker"),
    ];
    for (path, words) in paths {
        let (code, _, err) = run(&mut setup(data.path(), &["--from", &path.to_string_lossy()]));
        assert_eq!(code, 125, "{err}");
        assert!(err.contains(words), "{words}: {err}");
    }
    assert!(on_the_shelf(data.path()).is_empty());
    assert!(!data.path().join("LICENSE").exists());
}

#[test]
fn a_setup_that_is_killed_or_interrupted_leaves_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let old = Release::new("1.15.1");
    let (code, _, err) = run(&mut setup(
        data.path(),
        &["--from", &old.folder().to_string_lossy()],
    ));
    assert_eq!(code, 0, "{err}");
    let release = Release::new("1.16.1");
    let (archive, digest) = release.pack();
    let server = Server::publishing(&release, Answer::Half(bytes_of(&archive)), &digest);
    let url = server.url();
    let begin = || {
        let child = setup(data.path(), &["--url", &url, "--sha256", &digest])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("omnirun starts");
        wait_until("half of it is here", Duration::from_secs(20), || {
            let entries = fs::read_dir(data.path().join("firecracker"))
                .into_iter()
                .flatten()
                .flatten();
            let mut archives = entries.map(|e| e.path().join("release.tgz"));
            archives.any(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0))
        });
        child
    };
    let mut killed = begin();
    killed.kill().expect("killed");
    killed.wait().expect("it ends");
    assert_eq!(on_the_shelf(data.path()).len(), 3);
    let (code, out, err) = run(&mut omnirun_in(data.path(), ["clean", "--dry-run"]));
    assert!(code == 0 && out.contains("interrupted setup"), "{out}{err}");
    // Any command that opens the data folder for work.
    let (code, _, err) = run(&mut omnirun_in(data.path(), ["image", "ls"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(on_the_shelf(data.path()), ["1.15.1", "current"]);

    let mut interrupted = begin();
    // Meanwhile there is no second one, and nobody sweeps under it.
    let (code, _, err) = run(&mut setup(data.path(), &["--url", &url, "--sha256", &digest]));
    assert!(code == 125 && err.contains("another omnirun setup"), "{err}");
    let pid = rustix::process::Pid::from_child(&interrupted);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    assert_eq!(interrupted.wait().expect("it ends").code(), Some(130));
    assert_eq!(on_the_shelf(data.path()), ["1.15.1", "current"]);
}

#[test]
fn doctor_has_the_whole_checklist_and_shows_little_of_it() {
    let data = tempfile::tempdir().expect("a folder");
    // The exit code depends on the host; what it says does not.
    let (_, out, err) = run(&mut omnirun_in(data.path(), ["doctor", "--json"]));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    let findings = report["production"]["findings"].as_array().expect("findings");
    let lines: Vec<_> = findings.iter().filter_map(|f| f["line"].as_u64()).collect();
    assert_eq!(lines, (1..=21).collect::<Vec<_>>());
    for finding in findings {
        let rating = finding["rating"].as_str().expect("a rating");
        assert!(["ok", "warning", "n/a"].contains(&rating), "{finding}");
        assert!(
            finding["reason"].as_str().is_some_and(|r| !r.is_empty()),
            "{finding}"
        );
    }
    let (_, short, _) = run(&mut omnirun_in(data.path(), ["doctor"]));
    let (_, long, _) = run(&mut omnirun_in(data.path(), ["doctor", "--production"]));
    assert!(short.contains("omnirun doctor --production"), "{short}");
    let serious = findings.iter().filter(|f| f["serious"] == true).count();
    assert!(
        long.lines().count() >= short.lines().count() + 21 - serious,
        "{short}\n{long}"
    );
}
