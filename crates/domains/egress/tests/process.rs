//! The child as a process: what it may do, its descriptors, its end, its owner's end.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{SOON, at, kill, run, run_with, status, tls, until};
use omnirun_egress::{AttachmentId, EgressError, Identity, ProxyConfig, Sockets};
use omnirun_egress_policy::{Policy, Reason};
use rustix::process::Pid;
use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

fn descriptors(pid: u32) -> Vec<String> {
    let mut all: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target: PathBuf| target.to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn it_has_no_rights_and_no_more_descriptors_than_it_needs() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let pid = lab.proxy.pid().unwrap();
        for (field, value) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("Groups", ""),
        ] {
            assert_eq!(status(pid, field), value, "{field}");
        }
        for field in ["Uid", "Gid"] {
            let ids = status(pid, field);
            let mut ids = ids.split_whitespace();
            let first: u32 = ids.next().unwrap().parse().unwrap();
            assert!(first >= 10_000, "{field} {first}");
            assert!(ids.all(|id| id == first.to_string()));
        }
        // Every thread.
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains("Seccomp:\t2\n"), "{status}");
        }
        assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
        assert_eq!(
            core.split_whitespace().filter(|word| *word == "0").count(),
            2,
            "{core}"
        );
        // Its session is its own.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(3)
            .unwrap();
        assert_eq!(session, pid.to_string());

        let kinds = |all: &[String]| {
            let count = |of: &str| all.iter().filter(|fd| fd.starts_with(of)).count();
            (count("/dev/null"), count("pipe:"), count("socket:"), all.len())
        };
        let idle = descriptors(pid);
        let (null, pipes, sockets, _) = kinds(&idle);
        // The channel, and the pair by which tokio wakes itself: one end for all, and one for each of two runtimes.
        assert_eq!((null, pipes, sockets), (2, 1, 5), "{idle:?}");
        assert!(
            idle.iter()
                .all(|fd| ["/dev/null", "pipe:", "socket:", "anon_inode:["]
                    .iter()
                    .any(|of| fd.starts_with(of))),
            "{idle:?}"
        );
        // Guests that come and go leave nothing.
        for _ in 0..3 {
            let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
            assert_eq!(kinds(&descriptors(pid)).2, sockets + 4);
            let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
            stream.write_all(&tls::hello(Some("a.example"))).await.unwrap();
            assert!(tls::whom(&mut stream).await.is_some());
            let lab::Sandbox {
                attachment,
                sockets: handed,
                ..
            } = sandbox;
            attachment.detach().await.unwrap();
            drop(handed);
            let mut rest = Vec::new();
            assert!(
                timeout(SOON, stream.read_to_end(&mut rest))
                    .await
                    .unwrap()
                    .is_err()
            );
            let line = lab
                .owner
                .line("of the cut", |line| line.reason == Reason::Changed)
                .await;
            assert_eq!(line.name.as_deref(), Some("a.example"));
        }
        until("the sockets are closed", || kinds(&descriptors(pid)).2 == sockets).await;
    });
}

#[test]
fn an_id_can_be_chosen() {
    let change = |config: &mut ProxyConfig| {
        config.identity = Identity::Ids {
            uid: 54_321,
            gid: 54_322,
        };
    };
    run_with(change, async |lab| {
        let pid = lab.proxy.pid().unwrap();
        assert!(status(pid, "Uid").starts_with("54321"));
        assert!(status(pid, "Gid").starts_with("54322"));
    });
}

#[test]
fn a_dead_child_lets_nothing_through_and_is_followed_by_another() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let mut pids = lab.proxy.pids();
        let mut before = lab.proxy.pid().unwrap();
        for _ in 0..3 {
            let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
            stream.write_all(&tls::hello(Some("a.example"))).await.unwrap();
            assert!(tls::whom(&mut stream).await.is_some());
            kill(before);
            // The connection dies with it.
            let mut rest = Vec::new();
            let _ = timeout(SOON, stream.read_to_end(&mut rest))
                .await
                .expect("an end");
            assert!(rest.len() <= tls::hello(Some("a.example")).len());
            // Made while there is none: it waits, and goes by the rules when there is one.
            let mut waiting = sandbox.connect(at("9.9.9.1:443")).await;
            let mut refused = sandbox.connect(at("9.9.9.1:443")).await;
            waiting.write_all(&tls::hello(Some("a.example"))).await.unwrap();
            refused.write_all(&tls::hello(Some("b.example"))).await.unwrap();
            let next = *timeout(SOON, pids.wait_for(|pid| pid.is_some_and(|pid| pid != before)))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(tls::whom(&mut waiting).await.as_deref(), Some("9.9.9.1:443"));
            assert_eq!(tls::whom(&mut refused).await, None);
            assert_eq!(sandbox.resolve("a.example").await.0, 0);
            // The old one is no zombie.
            assert!(!Path::new(&format!("/proc/{before}")).exists());
            before = next.unwrap();
        }
        // Orders reach whoever is there.
        kill(before);
        sandbox
            .attachment
            .update(&lab::file(r#"allow = ["b.example"]"#))
            .await
            .unwrap();
        assert_eq!(sandbox.resolve("a.example").await.0, 3);
    });
}

#[test]
fn it_ends_when_it_is_told_to() {
    run(async |lab| {
        let pid = lab.proxy.pid().unwrap();
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        lab.proxy.shutdown().await;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(lab.proxy.pid(), None);
        // It says so, and does not wait.
        let gone = sandbox.attachment.update(&Policy::none()).await;
        assert!(matches!(gone, Err(EgressError::Closed)), "{gone:?}");
        sandbox.attachment.detach().await.unwrap();
    });
}

#[test]
fn attachments_have_ids_of_their_own_and_bad_sockets_are_refused() {
    run(async |lab| {
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let fds = sandbox.sockets.each_ref().map(AsFd::as_fd);
        let sockets = |order: [usize; 4]| Sockets {
            dns_udp: fds[order[0]],
            dns_tcp: fds[order[1]],
            transparent: fds[order[2]],
            explicit: fds[order[3]],
        };
        let policy = Policy::none();
        let taken = lab
            .proxy
            .attach(AttachmentId(1), sockets([0, 1, 2, 3]), &policy)
            .await;
        assert!(
            matches!(taken, Err(EgressError::Taken(AttachmentId(1)))),
            "{taken:?}"
        );
        let null = fs::File::open("/dev/null").unwrap();
        let bad = Sockets {
            dns_udp: null.as_fd(),
            ..sockets([0, 1, 2, 3])
        };
        let refused = lab.proxy.attach(AttachmentId(2), bad, &policy).await;
        assert!(matches!(refused, Err(EgressError::Refused { .. })), "{refused:?}");
        // Its id is free again, and the child as well as before.
        let again = lab
            .proxy
            .attach(AttachmentId(2), sockets([0, 1, 2, 3]), &policy)
            .await;
        again.unwrap().detach().await.unwrap();
    });
}

/// Owner and child of the next test: this test's own program, told so by its environment.
const OWNER: &str = "OMNIRUN_TEST_EGRESS_OWNER";

#[test]
fn it_ends_with_its_owner_however_that_ends() {
    if std::env::var_os(OWNER).is_some() {
        run(async |lab| {
            println!("child {}", lab.proxy.pid().unwrap());
            // Killed meanwhile.
            std::future::pending::<()>().await;
        });
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "it_ends_with_its_owner_however_that_ends",
            "--nocapture",
        ])
        .env(OWNER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    let child: u32 = lines
        .find_map(|line| line.unwrap().split("child ").nth(1)?.trim().parse().ok())
        .unwrap();
    let pidfd = rustix::process::pidfd_open(
        Pid::from_raw(child.cast_signed()).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let within = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut ended, Some(&within)).unwrap(), 1);
}

#[test]
fn started_by_hand_it_says_that_it_is_of_no_use() {
    let output = Command::new(env!("CARGO_BIN_EXE_omnirun-egress-child"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("a part of OmniRun"));
}
