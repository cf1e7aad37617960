//! Tar streams from a guest.

use crate::choice;
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

/// Most bytes of files that a stream may leave.
const MAX: u64 = 1 << 20;

/// A raw entry: what a hostile guest may write.
pub(crate) fn entry(kind: u8, mode: u32, name: &[u8], link: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let bytes = header.as_mut_bytes();
    let (name, link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
    bytes[..name.len()].copy_from_slice(name);
    bytes[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// Begins an input in which entries are written shorter than in 512 bytes each: kind, mode, and name, link and data with a
/// byte of length before each.
pub(crate) const SHORT: u8 = 0xff;

fn written_out(mut short: &[u8]) -> Vec<u8> {
    fn part<'a>(from: &mut &'a [u8]) -> &'a [u8] {
        let (length, rest) = choice(from);
        let (part, rest) = rest.split_at(length.min(rest.len()));
        *from = rest;
        part
    }
    let mut out = Vec::new();
    while let [kind, mode, rest @ ..] = short {
        short = rest;
        let (name, link, data) = (part(&mut short), part(&mut short), part(&mut short));
        out.extend(entry(*kind, u32::from(*mode) << 4, name, link, data));
    }
    out
}

/// The stream with its headers' checksums made right: nobody guesses those.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let mut at = 0;
    while let Some(block) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<512>()) {
        let mut size = 0;
        if block.iter().any(|b| *b != 0) {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
            size = header.entry_size().unwrap_or(0).min(out.len() as u64) as usize;
        }
        at += 512 + size.next_multiple_of(512);
    }
    out
}

/// Unpacks beside a file that must stay as it is; nothing may appear outside of the folder, and no link in it may lead
/// outside.
pub fn unpack(data: &[u8]) {
    let data = match data {
        [SHORT, short @ ..] => written_out(short),
        _ => mended(data),
    };
    let tmp = tempfile::tempdir().unwrap();
    let (into, beside) = (tmp.path().join("in"), tmp.path().join("beside"));
    fs::create_dir(&into).unwrap();
    fs::write(&beside, "untouched").unwrap();
    let before = fs::metadata(&beside).unwrap();
    let result = omnirun_sessions::unpack::unpack(data.as_slice(), &into, MAX);

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
