//! Tar streams from a guest.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

/// Most bytes of files that a stream may leave.
const MAX: u64 = 1 << 20;

/// Unpacks beside a file that must stay as it is; nothing may appear outside of the folder, and no link in it may lead
/// outside.
pub fn unpack(data: &[u8]) {
    let tmp = tempfile::tempdir().unwrap();
    let (into, beside) = (tmp.path().join("in"), tmp.path().join("beside"));
    fs::create_dir(&into).unwrap();
    fs::write(&beside, "untouched").unwrap();
    let before = fs::metadata(&beside).unwrap();
    let result = omnirun_sessions::unpack::unpack(data, &into, MAX);

    let mut files = BTreeMap::new();
    let top = fs::canonicalize(&into).unwrap();
    walk(&into, &top, &mut files);
    assert!(files.values().sum::<u64>() <= MAX);
    if let Ok(done) = result {
        assert!(done.bytes <= MAX);
    }
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2);
    let after = fs::metadata(&beside).unwrap();
    assert_eq!(
        (after.mode(), after.nlink(), after.mtime()),
        (before.mode(), 1, before.mtime())
    );
    assert_eq!(fs::read(&beside).unwrap(), b"untouched");
}

fn walk(folder: &Path, top: &Path, files: &mut BTreeMap<u64, u64>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7000, 0, "{path:?} has a special bit");
        if meta.is_dir() {
            walk(&path, top, files);
        } else if meta.is_symlink() {
            // One that leads nowhere, or round and round, leads not outside.
            if let Ok(target) = fs::canonicalize(&path) {
                assert!(target.starts_with(top), "{path:?} leads to {target:?}");
            }
        } else {
            assert!(meta.is_file(), "{path:?} is no file");
            files.insert(meta.ino(), meta.len());
        }
    }
}
