//! The guest's DNS server.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{DNS, SOON, file, run, run_with, servers};
use omnirun_egress_policy::{Protocol, Reason, Verdict};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const NO_SUCH_NAME: (u8, Vec<std::net::Ipv4Addr>) = (3, Vec::new());

#[test]
fn listed_names_have_addresses_and_others_do_not_exist() {
    run(async |lab| {
        lab.zone.set("a.example", &[[9, 9, 9, 1], [9, 9, 9, 2]]);
        lab.zone.set("b.example", &[[9, 9, 9, 3]]);
        lab.zone.set("x.wild.example", &[[9, 9, 9, 4]]);
        lab.zone.set("wild.example", &[[9, 9, 9, 5]]);
        let sandbox = lab
            .sandbox(r#"allow = ["a.example", "gone.example", "*.wild.example"]"#)
            .await;
        let (code, mut addresses) = sandbox.resolve("A.Example").await;
        addresses.sort();
        assert_eq!((code, addresses.len()), (0, 2));
        // The owner has let them through before the answer went out, and a little longer than that says.
        let answered = lab.owner.answered.lock().unwrap().clone();
        assert_eq!(answered.len(), 1);
        assert!(answered[0].2 > Duration::from_secs(60), "{answered:?}");
        assert_eq!(sandbox.resolve("x.wild.example").await.1.len(), 1);
        for name in [
            "b.example",
            "wild.example",
            "a.example.evil.example",
            "localhost",
            "example",
        ] {
            assert_eq!(sandbox.resolve(name).await, NO_SUCH_NAME, "{name}");
            let line = lab
                .owner
                .line("of a refusal", |line| line.protocol == Protocol::Dns)
                .await;
            assert_eq!((line.verdict, line.reason), (Verdict::Deny, Reason::NotListed));
            assert_eq!(line.name.as_deref(), Some(name));
        }
        assert_eq!(sandbox.resolve("gone.example").await, NO_SUCH_NAME);
        // IPv6, HTTPS, TXT, NULL, any: nothing, and nobody is asked.
        let before = lab.zone.asked().len();
        for kind in [28, 65, 64, 16, 10, 255, 15] {
            assert_eq!(
                servers::read_answer(&sandbox.ask("a.example", kind).await),
                (0, vec![]),
                "{kind}"
            );
        }
        assert_eq!(lab.zone.asked().len(), before);
        assert!(
            !lab.zone
                .asked()
                .iter()
                .any(|name| name.contains("evil") || name == "b.example")
        );
        // What was asked for is known.
        sandbox.resolve("a.example").await;
        assert_eq!(lab.zone.asked().len(), before);
    });
}

#[test]
fn names_that_carry_data_are_refused() {
    run(async |lab| {
        let sandbox = lab.sandbox(r#"allow = ["*.wild.example"]"#).await;
        let label = "a".repeat(50);
        let long = ["b".repeat(40), "c".repeat(40), "d".repeat(40)].join(".");
        for data in [label, long, "1.2.3.4.5.6.7.8.9".into()] {
            let name = format!("{data}.wild.example");
            assert_eq!(sandbox.resolve(&name).await.0, 5, "{name}");
            let line = lab
                .owner
                .line("of a refusal", |line| line.protocol == Protocol::Dns)
                .await;
            assert_eq!(line.reason, Reason::Refused);
        }
        assert!(lab.zone.asked().is_empty());
    });
}

#[test]
fn an_answer_waits_for_the_owner() {
    run(async |lab| {
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        lab.owner.refuses.store(true, Ordering::SeqCst);
        assert_eq!(sandbox.resolve("a.example").await, (2, vec![]));
        lab.owner.refuses.store(false, Ordering::SeqCst);
        assert_eq!(sandbox.resolve("a.example").await.0, 0);
    });
}

#[test]
fn a_changed_policy_is_asked_at_once() {
    run(async |lab| {
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        assert_eq!(sandbox.resolve("a.example").await.0, 0);
        sandbox
            .attachment
            .update(&file(r#"allow = ["b.example"]"#))
            .await
            .unwrap();
        assert_eq!(sandbox.resolve("a.example").await, NO_SUCH_NAME);
        assert_eq!(sandbox.resolve("b.example").await.0, 0);
        sandbox
            .attachment
            .update(&file("internet = true\ndeny = [\"b.example\"]"))
            .await
            .unwrap();
        assert_eq!(sandbox.resolve("a.example").await.0, 0);
        assert_eq!(sandbox.resolve("b.example").await, NO_SUCH_NAME);
    });
}

#[test]
fn over_tcp_there_may_be_many_and_none_too_long() {
    run(async |lab| {
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let mut stream = sandbox.connect(DNS).await;
        let query = servers::query("a.example", 1);
        let mut framed = (query.len() as u16).to_be_bytes().to_vec();
        framed.extend(&query);
        stream.write_all(&framed.repeat(3)).await.unwrap();
        for _ in 0..3 {
            let length = timeout(SOON, stream.read_u16()).await.unwrap().unwrap();
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(servers::read_answer(&answer).1.len(), 1);
        }
        // Nonsense is answered as such, and what is no query at all ends it.
        let mut nonsense = vec![0, 20];
        nonsense.extend([0xff; 20]);
        stream.write_all(&nonsense).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest))
            .await
            .expect("an end");
        assert!(rest.is_empty());
    });
}

#[test]
fn too_many_queries_are_dropped() {
    run_with(lab::caps(|caps| caps.queries_per_second = 5), async |lab| {
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let socket = sandbox.udp();
        for _ in 0..200 {
            socket.send(&servers::query("b.example", 1)).await.unwrap();
        }
        let mut answers = 0;
        let mut buffer = [0; 512];
        while let Ok(Ok(_)) = timeout(Duration::from_millis(300), socket.recv(&mut buffer)).await {
            answers += 1;
        }
        assert!((15..40).contains(&answers), "{answers}");
        let metrics = sandbox.attachment.metrics().await.unwrap();
        assert_eq!(metrics.queries, 200);
        assert!(metrics.queries_dropped >= 160, "{metrics:?}");
    });
}

#[test]
fn aliases_are_followed_to_addresses_that_may_be_told() {
    run(async |lab| {
        lab.zone.alias("a.example", "cdn.other.example");
        lab.zone.alias("cdn.other.example", "edge.other.example");
        lab.zone.set("edge.other.example", &[[9, 9, 9, 1]]);
        lab.zone.alias("b.example", "inside.other.example");
        lab.zone.set("inside.other.example", &[[10, 0, 0, 5]]);
        lab.zone.alias("c.example", "c.example");
        let sandbox = lab
            .sandbox(r#"allow = ["a.example", "b.example", "c.example"]"#)
            .await;
        assert_eq!(sandbox.resolve("a.example").await, (0, vec![[9, 9, 9, 1].into()]));
        assert_eq!(sandbox.resolve("b.example").await, (5, vec![]));
        assert!(sandbox.resolve("c.example").await.1.is_empty());
        // What the alias is of is not listed by that.
        assert_eq!(sandbox.resolve("edge.other.example").await, NO_SUCH_NAME);
    });
}
