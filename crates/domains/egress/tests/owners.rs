//! Owners of other kinds, and children that do not follow.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{SOON, run_with, status};
use omnirun_egress::{AttachmentId, EgressError, Proxy, ProxyConfig, Sockets};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[test]
fn a_child_that_does_not_follow_is_ended() {
    let change = |config: &mut ProxyConfig| config.patience = Duration::from_millis(500);
    run_with(change, async |lab| {
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        assert_eq!(sandbox.resolve("a.example").await.0, 0);
        let (before, mut pids) = (lab.proxy.pid().unwrap(), lab.proxy.pids());
        kill_process(Pid::from_raw(before.cast_signed()).unwrap(), Signal::STOP).unwrap();
        let late = sandbox
            .attachment
            .update(&lab::file(r#"allow = ["b.example"]"#))
            .await;
        assert!(matches!(late, Err(EgressError::Late(_))), "{late:?}");
        timeout(SOON, pids.wait_for(|pid| pid.is_some_and(|pid| pid != before)))
            .await
            .unwrap()
            .unwrap();
        // The next one has the policy that was ordered.
        assert_eq!(sandbox.resolve("a.example").await.0, 3);
    });
}

/// The owner of the next test: this test's own program, as another user.
const ORDINARY: &str = "OMNIRUN_TEST_EGRESS_ORDINARY";

#[test]
fn an_ordinary_users_child_is_confined_as_well() {
    if std::env::var_os(ORDINARY).is_some() {
        return ordinary();
    }
    if !rustix::process::geteuid().is_root() {
        return ordinary();
    }
    let output = Command::new("/proc/self/exe")
        .args([
            "--exact",
            "an_ordinary_users_child_is_confined_as_well",
            "--nocapture",
        ])
        .env(ORDINARY, "1")
        .current_dir("/")
        .uid(54_321)
        .gid(54_321)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn ordinary() {
    let program = env!("CARGO_BIN_EXE_omnirun-egress-child");
    if fs::File::open(program).is_err() {
        eprintln!("nothing tested: {program} is out of reach for other users");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = ProxyConfig {
            program: program.into(),
            arguments: vec!["omnirun-egress-child".into()],
            ..ProxyConfig::default()
        };
        let proxy = Proxy::start(config, Arc::new(lab::Owner::default()))
            .await
            .unwrap();
        let pid = proxy.pid().unwrap();
        let uid = rustix::process::geteuid().as_raw().to_string();
        assert!(status(pid, "Uid").split_whitespace().all(|id| id == uid));
        for (field, value) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapEff", "0000000000000000"),
        ] {
            assert_eq!(status(pid, field), value, "{field}");
        }
        let sockets: [OwnedFd; 4] = [
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
        ];
        let [dns_udp, dns_tcp, transparent, explicit] = sockets.each_ref().map(AsFd::as_fd);
        let handed = Sockets {
            dns_udp,
            dns_tcp,
            transparent,
            explicit,
        };
        let policy = lab::file(r#"allow = ["a.example"]"#);
        let attachment = proxy.attach(AttachmentId(1), handed, &policy).await.unwrap();
        let at = TcpListener::from(explicit.try_clone_to_owned().unwrap())
            .local_addr()
            .unwrap();
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        stream
            .write_all(b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(lab::answer(&mut stream, &mut Vec::new()).await.0, 403);
        // What was not redirected means nothing; it may be reset before it is known to be there.
        let at = TcpListener::from(transparent.try_clone_to_owned().unwrap())
            .local_addr()
            .unwrap();
        if let Ok(mut stream) = tokio::net::TcpStream::connect(at).await {
            let mut rest = Vec::new();
            let end = timeout(SOON, stream.read_to_end(&mut rest)).await;
            assert!(end.unwrap().is_err());
        }
        attachment.detach().await.unwrap();
        proxy.shutdown().await;
    });
}
