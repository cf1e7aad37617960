//! Which snapshot a clone is of: whatever happened to its files, whoever it is for, and however old it is.

use super::*;
use crate::{IsolationGroup, SnapshotLimits, snapshot::Template};
use std::{
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

impl Bench {
    fn file_of(&self, template: &Template, name: &str) -> PathBuf {
        self.root
            .join("snapshots")
            .join(template.digest().as_str())
            .join(name)
    }

    fn said(&self, words: &str) -> usize {
        let said = self.heard.all().into_iter();
        said.filter(|n| n.to_string().contains(words)).count()
    }
}

/// What can happen to a file.
type Damage = fn(&Path);

fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_vmm_sees_a_damaged_snapshot_and_another_is_made_with_a_word() {
    let damages: [(&str, Damage); 8] = [
        ("its first bit", |path| flip(path, 0)),
        ("a bit in the middle", |path| {
            flip(path, std::fs::metadata(path).unwrap().len() * 4);
        }),
        ("its last bit", |path| {
            flip(path, std::fs::metadata(path).unwrap().len() * 8 - 1);
        }),
        ("its end", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(std::fs::metadata(path).unwrap().len() - 1).unwrap();
        }),
        ("more at its end", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(std::fs::metadata(path).unwrap().len() + 1).unwrap();
        }),
        ("another in its place", |path| {
            let other = path.with_extension("other");
            let bytes = vec![b'x'; std::fs::metadata(path).unwrap().len() as usize];
            std::fs::write(&other, bytes).unwrap();
            std::fs::rename(other, path).unwrap();
        }),
        ("a folder in its place", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
        ("nothing in its place", |path| std::fs::remove_file(path).unwrap()),
    ];
    let b = bench().await;
    let mut boots = 0;
    for file in ["memory", "state", "manifest.json"] {
        for (what, damage) in damages {
            let engine = b.other().await;
            let template = engine.prepare(&spec()).await.unwrap();
            boots = b.vmm.counts().0;
            damage(&b.file_of(&template, file));
            engine.shutdown().await;
            // A process that comes afterwards.
            let engine = b.other().await;
            life(&engine, b.claim())
                .await
                .unwrap_or_else(|e| panic!("{file}, {what}: {e}"));
            assert_eq!(b.vmm.counts().0, boots + 1, "{file}, {what}: it was booted anew");
            engine.shutdown().await;
        }
    }
    assert_eq!(b.vmm.damaged(), 0);
    assert_eq!(b.said("making the snapshot anew"), 24);
    assert_eq!(boots, 24);
    b.engine.shutdown().await;
    b.assert_nothing_left("after much damage");
}

/// Two environments have two files, whose pages the host shares with nobody; one has one.
#[tokio::test(start_paused = true)]
async fn each_isolation_group_has_a_snapshot_of_its_own() {
    let b = bench().await;
    let of = |group: &str| {
        let mut spec = spec();
        spec.group = IsolationGroup(group.into());
        spec
    };
    let one = b.engine.prepare(&of("https://api env_1")).await.unwrap();
    let two = b.engine.prepare(&of("https://api env_2")).await.unwrap();
    let again = b.other().await.prepare(&of("https://api env_1")).await.unwrap();
    assert_ne!(one.digest(), two.digest());
    assert_eq!(one.digest(), again.digest());
    let inode = |template: &Template| {
        let meta = std::fs::metadata(b.file_of(template, "memory")).unwrap();
        assert_eq!(meta.nlink(), 1, "no second name for the same pages");
        meta.ino()
    };
    assert_ne!(inode(&one), inode(&two));
    assert_eq!(b.vmm.counts().0, 2);
    // And that is what clones are given: also from pools, whoever has a spare.
    let pools = ["https://api env_1", "https://api env_2"].map(|group| b.engine.pool(of(group)));
    for (pool, template) in pools.iter().zip([&one, &two]) {
        pools[0].refill();
        until(|| b.engine.spares() == 1).await;
        let sandbox = pool.take().await.unwrap();
        sandbox.claim(b.claim()).await.unwrap();
        let mut seen = b.vmm.seen().into_iter().filter(|s| !s.claims.is_empty());
        assert_eq!(seen.next_back().unwrap().memory, Some(inode(template)));
    }
    b.engine.shutdown().await;
}

/// In a process that comes then, and in one that has it open when the time is over.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_made_anew_after_some_days() {
    let b = bench().await;
    let week = SnapshotLimits::default().max_age;
    let first = b.engine.prepare(&spec()).await.unwrap();
    b.engine.age(&first, week);
    let later = b.other().await;
    life(&later, b.claim()).await.unwrap();
    assert_eq!(b.vmm.counts().0, 2);
    assert_eq!(b.said("more than 7 days old: making the snapshot anew"), 1);

    b.engine.age(&first, week - Duration::from_millis(300));
    let last = b.other().await;
    let open = last.prepare(&spec()).await.unwrap();
    assert_eq!(b.vmm.counts().0, 2, "it is young enough");
    let same = async |engine: &Engine| Arc::ptr_eq(&open, &engine.prepare(&spec()).await.unwrap());
    let begun = std::time::Instant::now();
    while same(&last).await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it stays for ever");
        tokio::task::yield_now().await;
    }
    assert_eq!(b.vmm.counts().0, 3);
    for engine in [&later, &last, &b.engine] {
        engine.shutdown().await;
    }
}

/// A session that lasts has its pool for long.
#[tokio::test(start_paused = true)]
async fn a_pool_goes_over_to_the_snapshot_that_was_made_anew() {
    let b = bench().await;
    let pool = b.engine.pool(spec());
    drop(pool.take().await.unwrap());
    // The VMM does not take it any more: one attempt fails, and the next is with another.
    b.vmm.set_fault(Step::Restore, Fault::Error);
    pool.take().await.unwrap_err();
    b.vmm.clear_faults();
    drop(pool.take().await.unwrap());
    assert_eq!(b.vmm.counts().0, 2);
    pool.refill();
    until(|| b.engine.spares() == 1).await;
    drop(pool.take().await.unwrap());
    assert_eq!(b.vmm.counts(), (2, 3));
    // Another process replaces it, and this one's is as good as before.
    let other = b.other().await;
    b.engine.age(
        &b.engine.prepare(&spec()).await.unwrap(),
        SnapshotLimits::default().max_age,
    );
    other.prepare(&spec()).await.unwrap();
    drop(pool.take().await.unwrap());
    assert_eq!(b.vmm.counts(), (3, 4));
    drop(pool);
    until(|| b.engine.vms() == 0).await;
    other.shutdown().await;
    b.engine.shutdown().await;
    b.assert_nothing_left("after a pool of three snapshots");
}
