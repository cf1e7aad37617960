//! TLS by its server name, and other connections by the name that their address was answered for.

#![allow(clippy::unwrap_used, reason = "it is a test")]

mod lab;

use lab::{SOON, at, file, run, tls};
use omnirun_egress_policy::{Protocol, Reason, Verdict};
use std::sync::atomic::Ordering;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[test]
fn a_listed_name_is_resolved_and_dialled_and_nothing_else_is() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;

        // Wherever the guest connects to, it comes to the name's own address.
        let mut stream = sandbox.connect(at("7.7.7.7:443")).await;
        let hello = tls::hello(Some("A.Example"));
        stream.write_all(&hello).await.unwrap();
        assert_eq!(tls::whom(&mut stream).await.unwrap(), "9.9.9.1:443");
        stream.write_all(b"more").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echoed = Vec::new();
        timeout(SOON, stream.read_to_end(&mut echoed))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(echoed, [&hello[..], b"more"].concat());
        let line = lab
            .owner
            .line("of a.example", |line| line.protocol == Protocol::Tls)
            .await;
        assert_eq!((line.verdict, line.reason), (Verdict::Allow, Reason::Listed));
        assert_eq!(line.name.as_deref(), Some("a.example"));
        assert_eq!(
            (line.to, line.dialled),
            (Some(at("7.7.7.7:443")), Some(at("9.9.9.1:443")))
        );
        assert_eq!(line.rule.as_deref(), Some("a.example"));
        assert_eq!(line.bytes_up, hello.len() as u64 + 4);
        assert_eq!(line.bytes_down, line.bytes_up + "9.9.9.1:443\n".len() as u64);

        for (name, why) in [
            (Some("b.example"), Reason::NotListed),
            (Some("x.a.example"), Reason::NotListed),
            (None, Reason::NoName),
            (Some("9.9.9.1"), Reason::Malformed),
            (Some("a.example\0.b.example"), Reason::Malformed),
        ] {
            let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
            stream.write_all(&tls::hello(name)).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await, None, "{name:?}");
            let line = lab
                .owner
                .line("of a refusal", |line| line.verdict == Verdict::Deny)
                .await;
            assert_eq!(line.reason, why, "{name:?}");
            assert_eq!((line.dialled, line.bytes_up), (None, 0));
        }
    });
}

#[test]
fn a_hello_is_read_whole_however_it_comes() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let whole = tls::hello(Some("a.example"));

        // Byte by byte.
        let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
        stream.set_nodelay(true).unwrap();
        for byte in &whole {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(tls::whom(&mut stream).await.is_some());

        // In records of eight bytes.
        let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
        let fragments: Vec<u8> = whole[5..].chunks(8).flat_map(tls::record).collect();
        stream.write_all(&fragments).await.unwrap();
        assert!(tls::whom(&mut stream).await.is_some());

        // Too long, and what is no hello at all.
        let padding = vec![(21, vec![0; 15_000]); 1];
        let long: Vec<u8> = tls::hello_with(Some("a.example"), &padding)[5..]
            .chunks(100)
            .flat_map(|part| [tls::record(part), vec![22, 3, 1, 0, 0]].concat())
            .collect();
        for (bytes, why) in [
            (long, Reason::Malformed),
            (
                b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec(),
                Reason::Malformed,
            ),
            (b"SSH-2.0-x\r\n".to_vec(), Reason::Malformed),
            (vec![22; 100_000], Reason::Malformed),
        ] {
            let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
            // It may be reset while it is being sent.
            let _ = stream.write_all(&bytes).await;
            assert_eq!(tls::whom(&mut stream).await, None);
            let line = lab
                .owner
                .line("of a refusal", |line| line.verdict == Verdict::Deny)
                .await;
            assert_eq!(line.reason, why);
        }
        // Nothing but an end.
        let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
        stream.shutdown().await.unwrap();
        assert_eq!(tls::whom(&mut stream).await, None);
        let line = lab
            .owner
            .line("of a refusal", |line| line.verdict == Verdict::Deny)
            .await;
        assert_eq!(line.reason, Reason::NoName);
    });
}

#[test]
fn an_encrypted_hello_goes_by_its_outer_name() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example"]"#).await;
        let ech = [(0xfe0d, vec![0; 50])];
        let mut stream = sandbox.connect(at("9.9.9.2:443")).await;
        stream
            .write_all(&tls::hello_with(Some("a.example"), &ech))
            .await
            .unwrap();
        assert_eq!(tls::whom(&mut stream).await.unwrap(), "9.9.9.1:443");
        let mut stream = sandbox.connect(at("9.9.9.2:443")).await;
        stream
            .write_all(&tls::hello_with(Some("cdn.example"), &ech))
            .await
            .unwrap();
        assert_eq!(tls::whom(&mut stream).await, None);
        let line = lab
            .owner
            .line("of a refusal", |line| line.verdict == Verdict::Deny)
            .await;
        assert_eq!(line.reason, Reason::EncryptedName);
        assert_eq!(line.name.as_deref(), Some("cdn.example"));
    });
}

#[test]
fn a_name_leads_to_no_special_address_and_not_to_the_host() {
    run(async |lab| {
        let reached = lab::servers::echo(lab.listen(443));
        let own = lab::servers::echo(lab::listen(&lab.host, at("0.0.0.0:443")));
        let sandbox = lab
            .sandbox(r#"allow = ["*.rebind.example", "*.private.example", "10.0.0.0/24:443"]"#)
            .await;
        for (name, address) in [
            ("private.rebind.example", [10, 1, 0, 5]),
            ("metadata.rebind.example", [169, 254, 169, 254]),
            ("loopback.rebind.example", [127, 0, 0, 1]),
            ("zero.rebind.example", [0, 0, 0, 0]),
            ("own.rebind.example", [8, 8, 4, 4]),
            ("uplink.rebind.example", [9, 9, 9, 254]),
        ] {
            lab.zone.set(name, &[address]);
            // Refused in DNS, and again when it is dialled.
            assert_eq!(sandbox.resolve(name).await, (5, vec![]), "{name}");
            let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
            stream.write_all(&tls::hello(Some(name))).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await, None, "{name}");
            let line = lab
                .owner
                .line("of a refusal", |line| line.protocol == Protocol::Tls)
                .await;
            assert_eq!(
                (line.verdict, line.reason),
                (Verdict::Deny, Reason::SpecialAddress)
            );
            assert_eq!(line.dialled, None);
        }
        assert_eq!(
            (reached.load(Ordering::SeqCst), own.load(Ordering::SeqCst)),
            (0, 0)
        );
        // The public one of several, and a private one that an entry lists.
        lab.zone
            .set("mixed.rebind.example", &[[169, 254, 169, 254], [9, 9, 9, 3]]);
        lab.zone.set("db.private.example", &[[10, 0, 0, 5]]);
        for (name, address) in [
            ("mixed.rebind.example", "9.9.9.3"),
            ("db.private.example", "10.0.0.5"),
        ] {
            assert_eq!(sandbox.resolve(name).await, (0, vec![address.parse().unwrap()]));
            let mut stream = sandbox.connect(at("9.9.9.1:443")).await;
            stream.write_all(&tls::hello(Some(name))).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await.unwrap(), format!("{address}:443"));
        }
    });
}

#[test]
fn other_ports_go_by_what_was_answered() {
    run(async |lab| {
        lab::servers::echo(lab.listen(22));
        lab::servers::echo(lab.listen(8443));
        lab.zone.set("git.example", &[[9, 9, 9, 1]]);
        lab.zone.set("other.example", &[[9, 9, 9, 2]]);
        let sandbox = lab
            .sandbox(r#"allow = ["git.example:22", "git.example:8443", "other.example"]"#)
            .await;
        // Nobody asked for it yet.
        let mut stream = sandbox.connect(at("9.9.9.1:22")).await;
        assert_eq!(tls::whom(&mut stream).await, None);
        let line = lab.owner.line("of a refusal", |line| line.port == 22).await;
        assert_eq!((line.verdict, line.reason), (Verdict::Deny, Reason::NotResolved));
        assert_eq!(sandbox.resolve("git.example").await.1.len(), 1);
        assert_eq!(sandbox.resolve("other.example").await.1.len(), 1);
        // The server speaks first.
        let mut stream = sandbox.connect(at("9.9.9.1:22")).await;
        assert_eq!(tls::whom(&mut stream).await.unwrap(), "9.9.9.1:22");
        drop(stream);
        let line = lab.owner.line("of git", |line| line.port == 22).await;
        assert_eq!(line.name.as_deref(), Some("git.example"));
        assert_eq!((line.verdict, line.protocol), (Verdict::Allow, Protocol::Tcp));
        // A name that was resolved, on a port that is not for it.
        let mut stream = sandbox.connect(at("9.9.9.2:22")).await;
        assert_eq!(tls::whom(&mut stream).await, None);
        let line = lab.owner.line("of a refusal", |line| line.port == 22).await;
        assert_eq!(
            (line.reason, line.name.as_deref()),
            (Reason::NoName, Some("other.example"))
        );
        // TLS says where to by itself.
        for (name, to) in [("git.example", Some("9.9.9.1:8443")), ("other.example", None)] {
            let mut stream = sandbox.connect(at("9.9.9.3:8443")).await;
            stream.write_all(&tls::hello(Some(name))).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await.as_deref(), to);
        }
        let line = lab
            .owner
            .line("of a refusal", |line| line.verdict == Verdict::Deny)
            .await;
        assert_eq!(line.reason, Reason::PortNotListed);
    });
}

#[test]
fn a_listed_address_is_dialled_as_it_is() {
    run(async |lab| {
        lab::servers::echo(lab.listen(5432));
        lab::servers::echo(lab.listen(443));
        let sandbox = lab.sandbox(r#"allow = ["9.9.9.4", "10.0.0.0/24:5432"]"#).await;
        for to in ["9.9.9.4:5432", "9.9.9.4:443", "10.0.0.5:5432"] {
            let mut stream = sandbox.connect(at(to)).await;
            assert_eq!(tls::whom(&mut stream).await.as_deref(), Some(to));
        }
        for to in [
            "10.0.0.5:443",
            "9.9.9.5:443",
            "9.9.9.5:5432",
            "169.254.169.254:443",
        ] {
            let mut stream = sandbox.connect(at(to)).await;
            let _ = stream.write_all(b"hello").await;
            assert_eq!(tls::whom(&mut stream).await, None, "{to}");
        }
    });
}

#[test]
fn a_changed_policy_cuts_what_it_does_not_allow() {
    run(async |lab| {
        lab::servers::echo(lab.listen(443));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        let sandbox = lab.sandbox(r#"allow = ["a.example", "b.example"]"#).await;
        let mut open = Vec::new();
        for name in ["a.example", "b.example"] {
            let mut stream = sandbox.connect(at("9.9.9.9:443")).await;
            stream.write_all(&tls::hello(Some(name))).await.unwrap();
            assert!(tls::whom(&mut stream).await.is_some());
            open.push(stream);
        }
        sandbox
            .attachment
            .update(&file(r#"allow = ["b.example"]"#))
            .await
            .unwrap();
        // It is cut already, not soon.
        let line = lab
            .owner
            .line("of the cut", |line| line.reason == Reason::Changed)
            .await;
        assert_eq!(line.name.as_deref(), Some("a.example"));
        let mut rest = Vec::new();
        assert!(
            timeout(SOON, open[0].read_to_end(&mut rest))
                .await
                .unwrap()
                .is_err()
        );
        open[1].write_all(b"x\n").await.unwrap();
        assert!(tls::whom(&mut open[1]).await.is_some());
        let mut stream = sandbox.connect(at("9.9.9.9:443")).await;
        stream.write_all(&tls::hello(Some("a.example"))).await.unwrap();
        assert_eq!(tls::whom(&mut stream).await, None);
    });
}

#[test]
fn only_logging_lets_through_what_is_public() {
    run(async |lab| {
        let reached = lab::servers::echo(lab.listen(443));
        lab::servers::echo(lab.listen(22));
        lab.zone.set("a.example", &[[9, 9, 9, 1]]);
        lab.zone.set("b.example", &[[9, 9, 9, 2]]);
        lab.zone.set("bad.example", &[[10, 0, 0, 5]]);
        let sandbox = lab.sandbox("log_only = true\nallow = [\"a.example\"]").await;
        let mut stream = sandbox.connect(at("9.9.9.9:443")).await;
        stream.write_all(&tls::hello(Some("b.example"))).await.unwrap();
        assert_eq!(tls::whom(&mut stream).await.unwrap(), "9.9.9.2:443");
        drop(stream);
        let line = lab
            .owner
            .line("of b", |line| line.name.as_deref() == Some("b.example"))
            .await;
        assert_eq!((line.verdict, line.reason), (Verdict::Log, Reason::NotListed));
        // Without a name it is the address that counts.
        for bytes in [&tls::hello(None)[..], b"SSH-2.0-x\r\n"] {
            let mut stream = sandbox.connect(at("9.9.9.3:443")).await;
            stream.write_all(bytes).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await.unwrap(), "9.9.9.3:443");
        }
        let mut stream = sandbox.connect(at("9.9.9.3:22")).await;
        assert_eq!(tls::whom(&mut stream).await.unwrap(), "9.9.9.3:22");
        assert_eq!(reached.load(Ordering::SeqCst), 3);
        for (to, name) in [
            ("9.9.9.1:443", Some("bad.example")),
            ("10.0.0.5:443", None),
            ("169.254.169.254:443", None),
            ("8.8.4.4:443", None),
        ] {
            let mut stream = sandbox.connect(at(to)).await;
            stream.write_all(&tls::hello(name)).await.unwrap();
            assert_eq!(tls::whom(&mut stream).await, None, "{to}");
        }
        assert_eq!(reached.load(Ordering::SeqCst), 3);
    });
}
