//! Snapshots damaged bit by bit and in larger ways: none is taken for good, and none makes anything fail but itself.

use super::*;
use std::os::unix::fs::{FileExt, symlink};

/// Bytes without a pattern, always the same.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Memory with a hole in it, as a guest's has, and a state.
fn filled(store: &SnapshotStore, key: &SnapshotKey, seed: u64) -> Found {
    let made = store.data.run().join("made");
    fs::create_dir(&made).unwrap();
    let memory = File::create(made.join("memory")).unwrap();
    memory.write_all_at(&bytes(seed, 20_000), 0).unwrap();
    memory.write_all_at(&bytes(seed + 1, 20_000), 160_000).unwrap();
    memory.set_len(200_000).unwrap();
    fs::write(made.join("state"), bytes(seed + 2, 500)).unwrap();
    publish(store, key, &made)
}

/// Flips this bit of a file, in place.
fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
}

/// With each of these bits flipped, one at a time, the snapshot is of no use, for a reason with these words in it; with none
/// it is good.
fn each_is_refused(
    store: &SnapshotStore,
    key: &SnapshotKey,
    path: &Path,
    bits: impl Iterator<Item = u64>,
    words: &str,
) {
    let mut tried = 0;
    for bit in bits {
        flip(path, bit);
        let looked = reason(store.look(key, false).unwrap());
        assert!(
            looked.contains(words),
            "bit {bit} of {}: {looked}",
            path.display()
        );
        flip(path, bit);
        tried += 1;
    }
    assert!(tried > 70, "{tried}");
    assert!(matches!(store.look(key, false).unwrap(), Lookup::Good(_)));
}

#[test]
fn every_bit_of_the_manifest_counts() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let path = filled(&store, &key, 1).memory.with_file_name("manifest.json");
    let bits = fs::metadata(&path).unwrap().len() * 8;
    each_is_refused(&store, &key, &path, 0..bits, "damaged (its manifest");
}

#[test]
fn every_bit_of_the_state_counts() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let path = filled(&store, &key, 1).state;
    let bits = fs::metadata(&path).unwrap().len() * 8;
    each_is_refused(&store, &key, &path, 0..bits, "state is not what was written");
}

#[test]
fn a_bit_anywhere_in_the_memory_counts() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let path = filled(&store, &key, 1).memory;
    // The first and the last bit of each two pages, and one between them; in zeros and in the hole too.
    let bits = fs::metadata(&path).unwrap().len() * 8;
    let page = 2 * 4096 * 8;
    let some = (0..bits).step_by(page as usize).flat_map(|at| {
        let last = (at + page).min(bits) - 1;
        [at, at + (last - at) / 3, last]
    });
    each_is_refused(&store, &key, &path, some, "memory is not what was written");
}

#[test]
fn cut_and_extended_files_are_refused() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    for (file, length) in [("memory", 200_000), ("state", 500), ("manifest.json", 0)] {
        let changes: [&dyn Fn(u64) -> u64; 5] =
            [&|_| 0, &|n| n / 2, &|n| n - 1, &|n| n + 1, &|n| n + (1 << 20)];
        for change in changes {
            let _ = store.remove(&key.digest());
            let path = filled(&store, &key, 1).memory.with_file_name(file);
            let was = fs::metadata(&path).unwrap().len();
            assert!(length == 0 || was == length);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(change(was))
                .unwrap();
            let looked = reason(store.look(&key, false).unwrap());
            assert!(
                looked.contains("is damaged ("),
                "{file}, {was} to {}: {looked}",
                change(was)
            );
        }
    }
    // White space is nothing to a reader of JSON.
    let _ = store.remove(&key.digest());
    let path = filled(&store, &key, 1).memory.with_file_name("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    for other in [format!("{text}\n"), format!(" {text}"), text.replace(": ", ":")] {
        fs::write(&path, other).unwrap();
        assert!(reason(store.look(&key, false).unwrap()).contains("not as it was written"));
    }
}

#[test]
fn what_belongs_to_another_snapshot_is_refused() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let (one, mut two) = (key(), key());
    two.group = "another".into();
    for file in ["memory", "state", "manifest.json"] {
        let (a, b) = (filled(&store, &one, 1), filled(&store, &two, 100));
        let (a, b) = (a.memory.with_file_name(file), b.memory.with_file_name(file));
        let aside = store.data.run().join("aside");
        for (from, to) in [(&a, &aside), (&b, &a), (&aside, &b)] {
            fs::rename(from, to).unwrap();
        }
        for key in [&one, &two] {
            let looked = reason(store.look(key, false).unwrap());
            let words = if file == "manifest.json" {
                "another snapshot's"
            } else {
                "not what was written"
            };
            assert!(looked.contains(words), "{file}: {looked}");
            store.remove(&key.digest()).unwrap();
        }
    }
    // Memory and state of one snapshot in each other's place.
    let found = filled(&store, &one, 1);
    let (memory, state) = (fs::read(&found.memory).unwrap(), fs::read(&found.state).unwrap());
    fs::write(&found.memory, state).unwrap();
    fs::write(&found.state, memory).unwrap();
    assert!(reason(store.look(&one, false).unwrap()).contains("bytes instead of"));
}

#[test]
fn a_file_of_an_earlier_snapshot_and_a_replaced_one_are_refused() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let earlier = store.data.run().join("earlier");
    for file in ["memory", "state"] {
        let found = filled(&store, &key, 1);
        fs::copy(found.memory.with_file_name(file), &earlier).unwrap();
        store.remove(&key.digest()).unwrap();
        // The same key and sizes, other bytes: the file comes back under another inode.
        let found = filled(&store, &key, 100);
        fs::rename(&earlier, found.memory.with_file_name(file)).unwrap();
        let looked = reason(store.look(&key, false).unwrap());
        assert!(looked.contains("not what was written"), "{file}: {looked}");
        store.remove(&key.digest()).unwrap();
    }
}

#[test]
fn a_manifest_of_another_version_or_key_is_refused() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let path = filled(&store, &key, 1).memory.with_file_name("manifest.json");
    let mut manifest = Manifest::read(&path, "n", &store.key).unwrap().unwrap();
    manifest.version -= 1;
    // Sealed with the very key.
    fs::write(&path, manifest.seal(&store.key)).unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("of another version"));
    manifest.version += 1;
    let other = MacKey::load_or_create(&store.data.run().join("other")).unwrap();
    fs::write(&path, manifest.seal(&other)).unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("not written with this data folder's key"));
    fs::write(&path, manifest.seal(&store.key)).unwrap();
    assert!(matches!(store.look(&key, false).unwrap(), Lookup::Good(_)));
}

#[test]
fn what_is_no_plain_file_is_refused_and_nobody_waits_for_it() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    let elsewhere = store.data.run().join("elsewhere");
    for file in ["memory", "state", "manifest.json"] {
        for kind in ["link", "pipe", "folder"] {
            let path = filled(&store, &key, 1).memory.with_file_name(file);
            // The very bytes, but not here.
            fs::rename(&path, &elsewhere).unwrap();
            match kind {
                "link" => symlink(&elsewhere, &path).unwrap(),
                "pipe" => {
                    let fifo = rustix::fs::FileType::Fifo;
                    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, 0o600.into(), 0).unwrap();
                }
                _ => fs::create_dir(&path).unwrap(),
            }
            let looked = reason(store.look(&key, false).unwrap());
            assert!(looked.contains("no plain file"), "{file} is a {kind}: {looked}");
            store.remove(&key.digest()).unwrap();
            assert!(matches!(store.look(&key, false).unwrap(), Lookup::Missing));
        }
    }
    fs::write(store.folder(&key.digest()), "no folder").unwrap();
    assert!(reason(store.look(&key, false).unwrap()).contains("it is no folder"));
    store.remove(&key.digest()).unwrap();
    assert!(matches!(store.look(&key, false).unwrap(), Lookup::Missing));
}

#[test]
fn a_change_between_the_look_and_the_opening_is_noticed() {
    let (_tmp, store) = store(SnapshotLimits::default());
    let key = key();
    for file in ["memory", "state"] {
        let _ = store.remove(&key.digest());
        let found = filled(&store, &key, 1);
        assert!(found.is_still_there());
        flip(&found.memory.with_file_name(file), 77);
        assert!(!found.is_still_there(), "{file}");
    }
}
