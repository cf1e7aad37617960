//! SIGKILL of an owner, of a jailer, of a Firecracker, or of one with the other, at random moments of the making of clones:
//! nothing is left behind.
//!
//! An owner is this program once more. It holds a lock for its life, as owners do, finds the driver, makes clones and
//! waits. What it left is ended by the clones' identities once its lock is free, as the next command would do.

mod owner;

use super::*;
use omnirun_vmm::{Reaper, VmIdentity};
use owner::Owner;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Owner,
    Vmm,
    Both,
}

#[tokio::test]
async fn deaths_at_random_leave_nothing_behind() {
    let Some(vmm) = driver().await else { return };
    let cycles = match std::env::var_os("OMNIRUN_SOAK") {
        Some(_) => 200,
        None => 20,
    };
    let mut chance = Chance::new();
    let bench = bench();
    drop(snapshot(&bench, &vmm).await);
    let mut host = Host::new(&bench);

    // One that nobody kills says how long it takes, and leaves nothing either.
    let whole = host.orderly().await;
    let mut killed = BTreeMap::new();
    for cycle in 0..cycles {
        let victim = [Victim::Owner, Victim::Vmm, Victim::Both][chance.below(3)];
        let moment = whole.mul_f64(1.1 * chance.share());
        let point = format!("cycle {cycle}, {victim:?} after {moment:?} of {whole:?}");
        let mut owner = host.start();
        tokio::time::sleep(moment).await;
        let mut hit = String::new();
        if victim != Victim::Owner {
            hit += owner.kill_vmm(&mut chance, &point).await;
        }
        match victim {
            // It sees that, and ends what else it has. That of its trial may have had its say before.
            Victim::Vmm => {
                if hit.contains("trial") {
                    owner.tell_to_end();
                }
                owner.ends(&point).await;
                owner.is_gone(&point);
            }
            Victim::Owner | Victim::Both => {
                owner.kill();
                hit += " owner";
            }
        }
        *killed.entry(hit.trim().to_owned()).or_insert(0) += 1;
        host.take_over(owner, &point).await;
    }
    host.is_empty().await;
    eprintln!("{cycles} cycles, killed: {killed:?}");
}

/// A fixed sequence that looks like chance; what it begins with is said, and taken from `OMNIRUN_SEED`.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = match std::env::var("OMNIRUN_SEED") {
            Ok(seed) => seed.parse().expect("OMNIRUN_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| u64::from(d.subsec_nanos())),
        };
        eprintln!("OMNIRUN_SEED={seed}");
        Self(seed)
    }

    /// At least 0, less than 1.
    fn share(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let high = u32::try_from(self.0 >> 32).unwrap_or_default();
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.share() * count as f64) as usize
    }
}

/// What has to stay as it was.
struct Host<'a> {
    bench: &'a Bench,
    entries: BTreeSet<String>,
    snapshot: Vec<(Vec<u8>, (i64, i64, u64))>,
    /// Owners that there were.
    owners: Vec<u32>,
}

impl<'a> Host<'a> {
    fn new(bench: &'a Bench) -> Self {
        for name in ["lock", "log"] {
            File::create_new(bench.path(name)).expect(name);
        }
        fs::create_dir(bench.path("tmp")).expect("a folder");
        let mut host = Self {
            bench,
            entries: BTreeSet::new(),
            snapshot: Vec::new(),
            owners: Vec::new(),
        };
        (host.entries, host.snapshot) = (host.list(), host.files());
        host
    }

    fn list(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.bench.dir.path()).expect("ours").flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    fn files(&self) -> Vec<(Vec<u8>, (i64, i64, u64))> {
        let files = ["memory", "state", "base"].map(|name| {
            let path = self.bench.path(name);
            let seen = fs::metadata(&path).expect(name);
            let touched = (seen.ctime(), seen.ctime_nsec(), seen.nlink());
            (fs::read(path).expect(name), touched)
        });
        files.into()
    }

    fn start(&mut self) -> Owner {
        let owner = Owner::start(self.bench);
        self.owners.push(owner.pid());
        owner
    }

    /// An owner's whole life, and how long it takes to make its clones and end them.
    async fn orderly(&mut self) -> Duration {
        let mut owner = self.start();
        let begun = std::time::Instant::now();
        owner.tell_to_end();
        owner.ends("an orderly end").await;
        let whole = begun.elapsed();
        owner.is_gone("an orderly end");
        self.take_over(owner, "an orderly end").await;
        whole
    }

    /// The next command, once the owner's lock is free.
    async fn take_over(&self, owner: Owner, point: &str) {
        let _lock = owner::lock(self.bench, true);
        for identity in &owner.clones {
            let reaped = Reaper.reap(identity).await;
            reaped.unwrap_or_else(|e| panic!("{point}: {e}: {:?}", std::error::Error::source(&e)));
        }
        owner.is_gone(point);
        for identity in &owner.clones {
            fs::remove_dir_all(&identity.run_dir).unwrap_or_else(|e| panic!("{point}: {e}"));
        }
        assert_eq!(self.list(), self.entries, "{point}");
        assert!(self.files() == self.snapshot, "{point}: the snapshot was touched");
    }

    /// Once what was left of trials is cleared up, nothing of any of them is there.
    async fn is_empty(&self) {
        let scratch = self.bench.path("tmp");
        firecracker::clear_killed_trials(&scratch).await.expect("cleared");
        let left: Vec<_> = fs::read_dir(self.bench.path("tmp"))
            .expect("ours")
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let folder = self.bench.dir.path().display().to_string();
        let mut traces = vec![folder];
        traces.extend(self.owners.iter().map(|pid| format!("sbx-trial-{pid}-")));
        for trace in traces {
            assert_eq!(owner::traces(&trace), Vec::<String>::new());
        }
    }
}
