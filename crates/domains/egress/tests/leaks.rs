//! What is left when all is over: nothing. A program of its own, since it counts all that there is in the process.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{SOON, at, run, tls};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use tokio::{io::AsyncWriteExt, time::timeout};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> String {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .collect()
}

#[test]
fn neither_attachments_nor_dead_children_leave_anything() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let mut pids = lab.proxy.pids();
        let mut counts = Vec::new();
        for _ in 0..6 {
            for _ in 0..5 {
                let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
                let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
                stream.write_all(&tls::hello(Some("a.example"))).await.unwrap();
                assert!(tls::whom(&mut stream).await.is_some());
                sandbox.attachment.detach().await.unwrap();
            }
            let before = lab.proxy.pid().unwrap();
            kill_process(Pid::from_raw(before.cast_signed()).unwrap(), Signal::KILL).unwrap();
            let other = pids.wait_for(|pid| pid.is_some_and(|pid| pid != before));
            let other = timeout(SOON, other).await.unwrap().unwrap().unwrap();
            assert_eq!(children().trim(), other.to_string());
            counts.push(descriptors());
        }
        // The first round is for what is made once.
        assert!(counts[1..].iter().all(|count| *count == counts[1]), "{counts:?}");
        lab.proxy.shutdown().await;
        assert_eq!(children(), "");
        // The channel, the pidfd with its watch, the pipe.
        assert!(descriptors() < counts[1], "{counts:?} {}", descriptors());
    });
}
