//! What a network costs a create and a kill, at 0, 100 and 500 others that are alive.
//!
//! ```text
//! cargo run --release -p omnirun-netns --example netns_bench
//! ```
//!
//! The host is a namespace of the bench's own, with a link for an uplink that leads nowhere, so that nothing of the real
//! one is touched. "pooled" is `take` with the pool full, and `apply`, which is what a create waits for; "made" is `take`
//! with the pool empty; "close" is what a kill waits for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnirun_netns::{Kind, Namespace, Networks, NetworksConfig, Ready, Special};
use omnirun_sys::host::net;

const ROUNDS: usize = 30;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = net::in_new_namespace(|| {
        ip("link add uplink type veth peer name nowhere")?;
        ip("link set uplink up")?;
        ip("addr add 203.0.113.2/24 dev uplink")?;
        ip("route add default via 203.0.113.1 dev uplink")?;
        net::namespace()
    })?;
    let special = vec![Special {
        name: "private".to_owned(),
        permittable: true,
        nets: vec![
            "10.0.0.0/8".parse()?,
            "172.16.0.0/12".parse()?,
            "192.168.0.0/16".parse()?,
        ],
    }];
    let networks = Networks::open(NetworksConfig {
        tag: format!("bench_{}", std::process::id()),
        special,
        ready: Ready::default(),
        host: Some(Arc::new(host)),
    })
    .await?;
    for kind in [Kind::Restricted, Kind::Open] {
        let mut alive = Vec::new();
        for target in [0, 100, 500] {
            while alive.len() < target {
                alive.push(networks.take(kind).await?);
            }
            round(&networks, kind, target).await?;
            churn(&networks, kind, target).await?;
        }
        let start = Instant::now();
        for namespace in alive {
            namespace.close().await?;
        }
        println!("{kind:?}: all closed in {:?}", start.elapsed());
    }
    networks.shutdown().await?;
    Ok(())
}

async fn round(networks: &Networks, kind: Kind, alive: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut made = Vec::new();
    let mut namespaces: Vec<Namespace> = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        namespaces.push(networks.take(kind).await?);
        made.push(start.elapsed());
    }
    let mut closed = Vec::new();
    for namespace in namespaces.drain(..) {
        let start = Instant::now();
        namespace.close().await?;
        closed.push(start.elapsed());
    }
    networks.keep(kind, ROUNDS);
    while networks.ready(kind) < ROUNDS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    networks.keep(kind, 0);
    let (mut taken, mut applied, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    let nets = ["192.0.2.0/24".parse()?, "198.51.100.7/32".parse()?];
    for number in 0..ROUNDS {
        let start = Instant::now();
        let namespace = networks.take(kind).await?;
        taken.push(start.elapsed());
        namespace.apply(&nets, &nets[1..], true).await?;
        applied.push(start.elapsed());
        let start = Instant::now();
        let address = std::net::Ipv4Addr::new(203, 0, 113, u8::try_from(number)?);
        namespace.answered(&[address], Duration::from_secs(60)).await?;
        answered.push(start.elapsed());
        namespaces.push(namespace);
    }
    for namespace in namespaces {
        let start = Instant::now();
        namespace.close().await?;
        closed.push(start.elapsed());
    }
    println!(
        "{kind:?} at {alive}: pooled {}, with apply {}; made {}; answered {}; close {}",
        figures(taken),
        figures(applied),
        figures(made),
        figures(answered),
        figures(closed)
    );
    Ok(())
}

/// One after another is created and killed, with a small pool that is refilled meanwhile.
async fn churn(networks: &Networks, kind: Kind, alive: usize) -> Result<(), Box<dyn std::error::Error>> {
    const READY: usize = 4;
    networks.keep(kind, READY);
    let (mut created, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..4 * ROUNDS {
        while networks.ready(kind) < READY {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = Instant::now();
        let namespace = networks.take(kind).await?;
        namespace.apply(&["192.0.2.0/24".parse()?], &[], false).await?;
        created.push(start.elapsed());
        let start = Instant::now();
        namespace.close().await?;
        killed.push(start.elapsed());
    }
    networks.keep(kind, 0);
    while networks.ready(kind) > 0 {
        networks.take(kind).await?.close().await?;
    }
    println!(
        "{kind:?} at {alive}, in turn: create {}; kill {}",
        figures(created),
        figures(killed)
    );
    Ok(())
}

/// Median and worst.
fn figures(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!(
        "{:.2} ms (worst {:.2})",
        ms(times.get(times.len() / 2)),
        ms(times.last())
    )
}

fn ip(arguments: &str) -> std::io::Result<()> {
    let status = std::process::Command::new("ip")
        .args(arguments.split(' '))
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("ip {arguments}")))
    }
}
