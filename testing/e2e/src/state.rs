//! State that somebody has damaged, and what `omnirun` is to say about it.

use crate::{footprint_of, omnirun_in, run};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A command in a small sandbox.
pub const RUN: [&str; 6] = ["run", "--memory", "256M", "--", "echo", "fine"];

/// Runs it where it cannot work: exit 125, nothing on standard output, one line with these words, nothing left.
pub fn refused(what: &str, dir: &Path, command: &mut Command, words: &[&str]) {
    let (code, out, err) = run(command);
    assert_eq!((code, out.as_str()), (125, ""), "{what}: {err}");
    assert_eq!(err.lines().count(), 1, "{what}: {err}");
    for word in words {
        assert!(err.contains(word), "{what}: {word}: {err}");
    }
    assert_eq!(footprint_of(dir), Vec::<String>::new(), "{what}");
}

/// Runs it where it can work after all, with a word about what was done.
pub fn mended(what: &str, dir: &Path, word: &str) {
    let (code, out, err) = run(&mut omnirun_in(dir, RUN));
    assert_eq!((code, out.as_str()), (0, "fine\n"), "{what}: {err}");
    assert!(err.contains(word), "{what}: {word}: {err}");
    assert_eq!(footprint_of(dir), Vec::<String>::new(), "{what}");
}

/// Puts other bytes in a file's place; the old file, which other folders share by hard links, stays as it is.
pub fn replace(path: &Path, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = change(fs::read(path).expect("it is there"));
    fs::remove_file(path).expect("it is ours");
    fs::write(path, bytes).expect("it can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

/// The first half.
pub fn half(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// A program that a VM's uid may run, beside the data folder, which it may not enter.
pub fn program(dir: &Path, script: &str) -> PathBuf {
    let path = dir.with_extension("qemu");
    fs::write(&path, format!("#!/bin/bash\n{script}\n")).expect("it can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}
