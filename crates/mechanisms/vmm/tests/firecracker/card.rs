//! Machines with a network card, in namespaces of their own.

use super::*;
use crate::{
    port::{Port, Socket},
    traffic::{connect, echo, exchange, saved, talking},
};
use omnirun_vmm::{CardRate, ChannelStream};
use std::time::{Duration, Instant};

/// Lets the guest send a word by its card; the answer is for it alone.
async fn asks(channel: &mut ChannelStream, gateway: &Socket, word: &str) {
    let answer = format!("an answer to {word}");
    let told = [b"N", word.as_bytes()].concat();
    let heard = async {
        assert_eq!(gateway.answer(answer.as_bytes()).await, word.as_bytes());
    };
    let (said, ()) = tokio::join!(exchange(channel, &told, answer.len()), heard);
    assert_eq!(said, answer.as_bytes());
}

#[tokio::test]
async fn each_clone_reaches_its_own_gateway_and_no_other() {
    let (Some(vmm), Some(bench), Some(first)) = (driver().await, talking(), Port::new()) else {
        return;
    };
    let spec = BootSpec {
        network: Some(first.nic()),
        ..bench.boot(bench.identity("boot"))
    };
    let booted = vmm.start(spec).await.expect("it boots");
    assert!(first.has(booted.pid()) && !first.is_free());
    let mut channel = connect(&*booted).await;
    let gateway = first.socket();
    asks(&mut channel, &gateway, "the first machine").await;
    drop(channel);
    let files = saved(&bench, &vmm, &*booted).await;
    ends_at_once(&*booted).await;
    assert!(first.is_free(), "the tap goes back");
    let before = first.frames();

    let ports = [Port::new().expect("another"), Port::new().expect("a third")];
    let mut clones = Vec::new();
    for port in &ports {
        let spec = CloneSpec {
            network: Some(port.nic()),
            ..bench.clone_of(&files)
        };
        let clone = vmm.restore(spec).await.expect("a clone");
        clone.resume().await.expect("it resumes");
        assert!(port.has(clone.pid()));
        let channel = connect(&*clone).await;
        clones.push((clone, channel, port.socket()));
    }
    for round in 0..3 {
        for (number, (_, channel, gateway)) in clones.iter_mut().enumerate() {
            asks(channel, gateway, &format!("clone {number}, round {round}")).await;
        }
        assert!(clones.iter().all(|(.., gateway)| gateway.is_quiet()));
    }
    // What it sent is all that came out of it.
    assert!(ports.iter().all(|port| port.frames() == 3));
    assert_eq!(first.frames(), before);

    // Its memory goes on with a card of its own once more.
    let (clone, channel, _) = clones.remove(0);
    drop(channel);
    for name in ["memory", "state"] {
        fs::remove_file(bench.path(name)).expect("removed");
    }
    let files = saved(&bench, &vmm, &*clone).await;
    ends_at_once(&*clone).await;
    let spec = CloneSpec {
        network: Some(first.nic()),
        ..bench.clone_of(&files)
    };
    let clone = vmm.restore(spec).await.expect("a clone's clone");
    clone.resume().await.expect("it resumes");
    let mut channel = connect(&*clone).await;
    asks(&mut channel, &gateway, "the first namespace").await;
    ends_at_once(&*clone).await;
}

#[tokio::test]
async fn a_card_keeps_to_its_rate_in_clones_too() {
    let (Some(vmm), Some(bench), Some(first)) = (driver().await, talking(), Port::new()) else {
        return;
    };
    let rate = CardRate {
        bytes: 1 << 20,
        packets: 10,
    };
    let vmm = vmm.with_card_rate(rate);
    let spec = BootSpec {
        network: Some(first.nic()),
        ..bench.boot(bench.identity("boot"))
    };
    let booted = vmm.start(spec).await.expect("it boots");
    let mut channel = connect(&*booted).await;
    echo(&mut channel, b"hello").await;
    drop(channel);
    let files = saved(&bench, &vmm, &*booted).await;
    ends_at_once(&*booted).await;

    let second = Port::new().expect("another");
    let spec = CloneSpec {
        network: Some(second.nic()),
        ..bench.clone_of(&files)
    };
    let clone = vmm.restore(spec).await.expect("a clone");
    clone.resume().await.expect("it resumes");
    let (mut channel, gateway) = (connect(&*clone).await, second.socket());
    let begun = Instant::now();
    // What may pass at once, and two seconds' worth beyond.
    for number in 0..30 {
        asks(&mut channel, &gateway, &format!("number {number}")).await;
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
    ends_at_once(&*clone).await;
}

#[tokio::test]
async fn a_machine_whose_tap_is_taken_is_refused_and_leaves_nothing() {
    let (Some(vmm), Some(port)) = (driver().await, Port::new()) else {
        return;
    };
    let bench = bench();
    // Somebody else has the tap.
    let held = omnirun_sys::host::net::attach_tap(&port.nic().namespace, omnirun_guest_net::TAP)
        .expect("it is free");
    let identity = bench.identity("busy");
    let spec = BootSpec {
        network: Some(port.nic()),
        ..bench.boot(identity.clone())
    };
    let error = vmm.start(spec).await.map(drop).expect_err("the tap is taken");
    assert!(matches!(error, VmmError::Card { .. }), "{error:?}");
    drop(held);
    until("there is no process", || {
        !alive_with(&jailed(&identity.sandbox)) && !has_control_group(&identity.sandbox)
    })
    .await;
}
