//! What a restore costs: clones under the jailer beside bare Firecracker processes, in turns, with the tiny guest of the
//! tests. As root, with `/dev/kvm`, `FIRECRACKER_BIN` and `JAILER_BIN`:
//!
//! ```text
//! cargo run --release -p omnirun-vmm --example restore -- [ROUNDS]
//! ```
//!
//! First a line for each way (`ready` is a jailed process that waited for its snapshot): time from the decision to a
//! running guest, what of it this process computed, and what the new process did (jailer and Firecracker). Then, of 20
//! idle clones of each kind, the memory of one in KiB.

mod bare;
mod idle;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/tiny/mod.rs"]
mod tiny;

use omnirun_vmm::{Vmm, firecracker::Firecracker};
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

/// One restore.
struct Sample {
    wall: Duration,
    ours: Duration,
    theirs: Duration,
}

/// When one began.
struct Begun {
    at: Instant,
    cpu: Duration,
}

impl Begun {
    fn now() -> Self {
        Self {
            cpu: our_cpu(),
            at: Instant::now(),
        }
    }

    /// It is running.
    fn done(self, pid: u32) -> Sample {
        Sample {
            wall: self.at.elapsed(),
            ours: our_cpu().saturating_sub(self.cpu),
            theirs: cpu_of(pid),
        }
    }
}

fn our_cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Of all its threads; a process's own figure is in clock ticks.
fn cpu_of(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn line(way: &str, samples: &[Sample]) {
    let of = |part: fn(&Sample) -> Duration| {
        let mut all: Vec<Duration> = samples.iter().map(part).collect();
        all.sort_unstable();
        let at = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)].as_secs_f64() * 1e3;
        format!("{:>8.2} {:>8.2}", at(50), at(99))
    };
    println!(
        "{way:<10} {}   {}   {}",
        of(|s| s.wall),
        of(|s| s.ours),
        of(|s| s.theirs)
    );
}

/// In one go; or, if it waits, with a process that was ready before.
async fn jailed(bench: &tiny::Bench, files: &tiny::Files, vmm: &dyn Vmm, waits: bool) -> Sample {
    let spec = bench.clone_of(files);
    let folder = spec.identity.run_dir.clone();
    let (begun, vm) = if waits {
        let prepared = vmm.prepare(spec).await.expect("a process");
        let begun = Begun::now();
        (begun, prepared.load().await.expect("a clone"))
    } else {
        let begun = Begun::now();
        (begun, vmm.restore(spec).await.expect("a clone"))
    };
    vm.resume().await.expect("it resumes");
    let sample = begun.done(vm.pid());
    vm.kill();
    vm.wait().await;
    fs::remove_dir_all(folder).expect("nothing is mounted in it");
    sample
}

fn bench() -> tiny::Bench {
    let bench = tiny::Bench::new();
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o700)).expect("ours");
    bench
}

/// The same with another guest.
fn bench_of(code: &[u8]) -> tiny::Bench {
    let bench = bench();
    fs::write(bench.path("vmlinux"), tiny::elf(code)).expect("the kernel");
    bench
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(50, |n| n.parse().expect("a number"));
    let vmm = Firecracker::find(None, &std::env::temp_dir())
        .await
        .expect("Firecracker and its jailer");
    let bench = bench();
    let files = tiny::snapshot(&bench, &vmm).await;
    let bare = bare::Bare::new(&bench);

    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let (clone, sample) = bare.restore("clone");
        clone.end();
        let samples = [
            sample,
            jailed(&bench, &files, &vmm, false).await,
            jailed(&bench, &files, &vmm, true).await,
        ];
        // The first finds cold caches.
        if round > 0 {
            all.iter_mut().zip(samples).for_each(|(all, one)| all.push(one));
        }
    }
    println!("{rounds} rounds, ms       p50      p99   ours p50      p99   theirs p50   p99");
    for (way, samples) in ["bare", "jailed", "ready"].into_iter().zip(&all) {
        line(way, samples);
    }
    idle::compare(&vmm).await;
}
