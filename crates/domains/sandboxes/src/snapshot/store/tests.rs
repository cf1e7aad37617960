//! The folder of snapshots, without a VMM.

mod damage;

use super::*;
use crate::snapshot::key::tests::key;

fn store(limits: SnapshotLimits) -> (tempfile::TempDir, SnapshotStore) {
    let tmp = tempfile::tempdir().unwrap();
    let data = DataDir::open(Some(tmp.path().join("d"))).unwrap();
    let owner = OwnerId::parse("own_000000000000000000000001").unwrap();
    let store = SnapshotStore::open(&data, &owner, limits).unwrap();
    (tmp, store)
}

fn make(store: &SnapshotStore, key: &SnapshotKey) -> Found {
    let made = store.data.run().join("made");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("memory"), vec![7u8; 200_000]).unwrap();
    fs::write(made.join("state"), "devices").unwrap();
    publish(store, key, &made)
}

fn publish(store: &SnapshotStore, key: &SnapshotKey, made: &Path) -> Found {
    let found = store.publish(key, made).unwrap();
    let _ = fs::remove_dir_all(made);
    found
}

fn reason(lookup: Lookup) -> String {
    match lookup {
        Lookup::Useless { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_published_is_found() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    assert!(matches!(store.look(&key, false).unwrap(), Lookup::Missing));
    make(&store, &key);
    assert!(matches!(store.look(&key, false).unwrap(), Lookup::Good(_)));
    assert!(matches!(store.look(&key, true).unwrap(), Lookup::Good(_)));
    // A second maker's copy is dropped.
    make(&store, &key);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(fs::read_dir(store.data.run()).unwrap().count(), 0);
}

#[test]
fn truncated_changed_and_lost_files_are_noticed() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let remake = || {
        store.remove(&key.digest()).unwrap();
        make(&store, &key)
    };
    let found = remake();
    File::options()
        .write(true)
        .open(&found.memory)
        .unwrap()
        .set_len(1000)
        .unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("1000 bytes instead of 200000"));

    let found = remake();
    let mut bytes = fs::read(&found.memory).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&found.memory, bytes).unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("memory is not what was written"));

    let found = remake();
    fs::remove_file(&found.state).unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("state"));

    let found = remake();
    fs::remove_file(found.state.with_file_name("manifest.json")).unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("no manifest"));
}

#[test]
fn a_copied_snapshot_is_read_whole_and_then_recorded() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let found = make(&store, &key);
    let copy = found.memory.with_file_name("copy");
    fs::copy(&found.memory, &copy).unwrap();
    fs::rename(&copy, &found.memory).unwrap();
    let manifest = found.memory.with_file_name("manifest.json");
    let before = fs::read(&manifest).unwrap();
    assert!(matches!(store.look(&key, false).unwrap(), Lookup::Good(_)));
    assert_ne!(before, fs::read(&manifest).unwrap());
}

#[test]
fn a_snapshot_under_another_name_is_refused() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let (key, mut other) = (key(), key());
    other.cpu = "another".into();
    make(&store, &key);
    fs::rename(store.folder(&key.digest()), store.folder(&other.digest())).unwrap();
    assert!(reason(store.look(&other, false).unwrap()).contains("another snapshot's"));
}

#[test]
fn a_snapshot_of_another_size_is_offered_and_no_other() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let wanted = key();
    assert_eq!(store.ready_size(&wanted).unwrap(), None);
    make(
        &store,
        &SnapshotKey {
            group: "another".into(),
            memory_mib: 512,
            ..key()
        },
    );
    assert_eq!(store.ready_size(&wanted).unwrap(), None);
    make(
        &store,
        &SnapshotKey {
            vcpus: 2,
            memory_mib: 256,
            ..key()
        },
    );
    let found = store.ready_size(&wanted).unwrap().unwrap();
    assert_eq!((found.vcpus, found.memory_mib), (2, 256));
}

#[test]
fn old_ones_are_made_anew_and_unused_ones_go() {
    let limits = SnapshotLimits {
        budget: ByteSize(500_000),
        ..SnapshotLimits::default()
    };
    let (_tmp, mut store) = store(limits);
    let keys: Vec<_> = (1..=3).map(|n| SnapshotKey { vcpus: n, ..key() }).collect();
    for (n, key) in keys.iter().enumerate() {
        make(&store, key);
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(100 + n as u64);
        File::open(store.folder(&key.digest()))
            .unwrap()
            .set_modified(then)
            .unwrap();
    }
    store.touch(&keys[0].digest());
    let gone = store.evict(&keys[2].digest()).unwrap();
    assert_eq!(gone.len(), 1);
    let names: Vec<_> = store.list().unwrap().into_iter().map(|s| s.name).collect();
    assert!(
        !names.contains(&keys[1].digest().to_string()),
        "the longest unused went"
    );
    assert!(!store.dir.join(format!("{}.lock", keys[1].digest())).exists());
    store.limits.max_age = Duration::ZERO;
    assert!(reason(store.look(&keys[0], false).unwrap()).contains("days old"));
}
