//! What a network card costs a clone: from the decision to the end of its first command, with and without one, in turns.
//! The namespaces are those of sandboxes, from their pool.
//!
//! ```text
//! OMNIRUN_BIN=... cargo run --release -p omnirun-e2e --example card -- [ROUNDS]
//! ```

use omnirun_e2e::machines::{Machines, end, output};
use omnirun_netns::{Kind, Networks, NetworksConfig, Ready};
use omnirun_vmm::Nic;
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() {
    let rounds: u32 = std::env::args()
        .nth(1)
        .map_or(20, |n| n.parse().expect("a number"));
    let config = NetworksConfig {
        tag: format!("cost_{}", std::process::id()),
        special: Vec::new(),
        ready: Ready {
            restricted: 2,
            open: 0,
        },
        host: None,
    };
    let networks = Networks::open(config).await.expect("networks");
    let machines = Machines::new().await;

    let mut snapshots = Vec::new();
    for card in [false, true] {
        let namespace = match card {
            true => Some(networks.take(Kind::Restricted).await.expect("a namespace")),
            false => None,
        };
        let nic = namespace.as_ref().map(|n| Nic {
            namespace: n.descriptor(),
        });
        let (vm, guest) = machines.boot(nic).await;
        drop(guest);
        snapshots.push(machines.save(&*vm).await);
        end(vm).await;
    }

    let mut all = [Vec::new(), Vec::new()];
    let mut taken = Vec::new();
    for round in 0..=rounds {
        for card in [round % 2 == 0, round % 2 != 0] {
            let begun = Instant::now();
            let namespace = match card {
                true => Some(networks.take(Kind::Restricted).await.expect("a namespace")),
                false => None,
            };
            let took = begun.elapsed();
            let nic = namespace.as_ref().map(|n| Nic {
                namespace: n.descriptor(),
            });
            let spec = machines.clone_of(&snapshots[usize::from(card)], nic);
            let (vm, guest, _) = machines.restore(spec).await;
            machines.claim(&*vm, &guest).await;
            output(&guest, "true").await;
            // The first finds cold caches.
            if round > 0 {
                all[usize::from(card)].push(begun.elapsed());
                if card {
                    taken.push(took);
                }
            }
            drop(guest);
            end(vm).await;
        }
    }
    println!("{rounds} rounds each, ms      p50      p90");
    let [without, with] = all.map(line);
    println!("without a card       {:>8.1} {:>8.1}", without.0, without.1);
    println!(
        "with a card          {:>8.1} {:>8.1}   ratio {:.3}",
        with.0,
        with.1,
        with.0 / without.0
    );
    let (p50, p90) = line(taken);
    println!("of it its namespace  {p50:>8.2} {p90:>8.2}");
    networks.shutdown().await.expect("nothing is left");
}

/// p50 and p90, in milliseconds.
fn line(mut samples: Vec<Duration>) -> (f64, f64) {
    samples.sort_unstable();
    let at = |share: usize| samples[(samples.len() * share / 100).min(samples.len() - 1)].as_secs_f64() * 1e3;
    (at(50), at(90))
}
