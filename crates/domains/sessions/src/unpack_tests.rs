use super::*;
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;

/// A raw entry: whatever a hostile guest may write.
fn raw(kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend_from_slice(&[0; 1024]);
    out
}

fn run(bytes: &[u8]) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    run_named(bytes, None)
}

fn run_named(bytes: &[u8], name: Option<&str>) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    let tmp = tempfile::tempdir().unwrap();
    let into = tmp.path().join("in");
    fs::create_dir(&into).unwrap();
    let done = unpack_named(bytes, &into, name.map(OsStr::new), 1 << 20);
    (tmp, done)
}

#[test]
fn a_tree_arrives_as_it_was_packed() {
    let tmp = tempfile::tempdir().unwrap();
    let from = tmp.path().join("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/f"), "data").unwrap();
    fs::set_permissions(from.join("a/b/f"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
    symlink("../b/f", from.join("a/b/up")).unwrap_or_else(|_| symlink("b/f", from.join("a/up")).unwrap());
    let long = "x".repeat(150);
    fs::write(from.join(&long), "long").unwrap();
    let mut bytes = Vec::new();
    crate::pack::pack(&from, &crate::pack::Root::Contents, &mut bytes).unwrap();

    let (tmp, done) = run(&bytes);
    let into = tmp.path().join("in");
    done.unwrap();
    assert_eq!(fs::read(into.join("a/b/f")).unwrap(), b"data");
    // No setuid bit comes out of a sandbox.
    assert_eq!(fs::metadata(into.join("a/b/f")).unwrap().mode() & 0o7777, 0o751);
    assert_eq!(fs::read(into.join(&long)).unwrap(), b"long");
    fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn paths_that_leave_are_refused() {
    for name in ["/etc/passwd", "../x", "a/../../x", "a/..", "."] {
        let (tmp, done) = run(&archive(&[raw(b'0', name.as_bytes(), b"", b"x")]));
        assert!(matches!(done, Err(UnpackError::Path(_))), "{name}: {done:?}");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
    }
}

#[test]
fn links_that_leave_are_refused() {
    for (name, target) in [
        ("l", "/etc"),
        ("l", ".."),
        ("d/l", "../.."),
        ("d/l", "x/../../.."),
        ("l", "d/.."),
        ("d/e/l", "../../../x"),
    ] {
        let (_tmp, done) = run(&archive(&[raw(b'2', name.as_bytes(), target.as_bytes(), b"")]));
        assert!(
            matches!(done, Err(UnpackError::Link(_))),
            "{name} -> {target}: {done:?}"
        );
    }
    for (name, target) in [("l", "d"), ("d/l", "../x"), ("d/e/l", "./../../x/y")] {
        let (tmp, done) = run(&archive(&[raw(b'2', name.as_bytes(), target.as_bytes(), b"")]));
        done.unwrap();
        assert_eq!(
            fs::read_link(tmp.path().join("in").join(name)).unwrap(),
            Path::new(target)
        );
    }
}

#[test]
fn what_was_asked_for_comes_alone_and_its_links_stay_in_it() {
    for (name, target) in [
        ("d/l", "../x"),
        ("d/l", ".."),
        ("d/e/l", "../../x"),
        ("d", "x"),
        ("d", "."),
    ] {
        let (_tmp, done) = run_named(
            &archive(&[raw(b'2', name.as_bytes(), target.as_bytes(), b"")]),
            Some("d"),
        );
        assert!(
            matches!(done, Err(UnpackError::Link(_))),
            "{name} -> {target}: {done:?}"
        );
    }
    for (name, target) in [("d/l", "x"), ("d/e/l", "../x"), ("d/e/l", "..")] {
        let (_tmp, done) = run_named(
            &archive(&[raw(b'2', name.as_bytes(), target.as_bytes(), b"")]),
            Some("d"),
        );
        assert!(done.is_ok(), "{name} -> {target}: {done:?}");
    }
    for name in ["other", "other/d", "dd/x", "./other"] {
        let (_tmp, done) = run_named(&archive(&[raw(b'0', name.as_bytes(), b"", b"1")]), Some("d"));
        assert!(matches!(done, Err(UnpackError::Path(_))), "{name}: {done:?}");
    }
    let (_tmp, done) = run_named(&archive(&[raw(b'0', b"./d", b"", b"1")]), Some("d"));
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn nothing_is_written_through_a_link() {
    let (tmp, done) = run(&archive(&[
        raw(b'2', b"d", b"elsewhere", b""),
        raw(b'0', b"d/f", b"", b"x"),
    ]));
    assert!(matches!(done, Err(UnpackError::Twice(_))), "{done:?}");
    assert!(!tmp.path().join("in/elsewhere").exists());
    let (_tmp, done) = run(&archive(&[raw(b'1', b"h", b"../../etc/passwd", b"")]));
    assert!(matches!(done, Err(UnpackError::Path(_))), "{done:?}");
    let (_tmp, done) = run(&archive(&[
        raw(b'2', b"l", b"f", b""),
        raw(b'1', b"h", b"l", b""),
    ]));
    assert!(matches!(done, Err(UnpackError::Link(_))), "{done:?}");
}

#[test]
fn devices_pipes_sparse_files_and_doubles_are_refused() {
    for kind in [b'3', b'4', b'6', b'S', b'V'] {
        let (_tmp, done) = run(&archive(&[raw(kind, b"x", b"", b"")]));
        assert!(
            matches!(done, Err(UnpackError::Kind(_))),
            "{}: {done:?}",
            kind as char
        );
    }
    let (_tmp, done) = run(&archive(&[
        raw(b'0', b"x", b"", b"1"),
        raw(b'0', b"x", b"", b"2"),
    ]));
    assert!(matches!(done, Err(UnpackError::Twice(_))), "{done:?}");
    let (_tmp, done) = run(&archive(&[
        raw(b'0', b"x", b"", b"1"),
        raw(b'0', b"x/y", b"", b"2"),
    ]));
    assert!(matches!(done, Err(UnpackError::Twice(_))), "{done:?}");
}

#[test]
fn sizes_are_capped_before_anything_is_kept() {
    let (_tmp, done) = run(&archive(&[raw(b'0', b"big", b"", &vec![0; (1 << 20) + 1])]));
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
    let (_tmp, done) = run(&archive(&[raw(b'L', b"././@LongLink", b"", &[b'a'; 5000])]));
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
    let mut endless = archive(&[raw(b'0', b"x", b"", b"1")]);
    endless.resize(endless.len() + (2 << 20), 7);
    let (_tmp, done) = run(&endless);
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
    // A header that promises more than the stream has, and more than there can be.
    let mut header = raw(b'0', b"x", b"", b"");
    header[124..136].copy_from_slice(b"77777777777\0");
    let mut fixed = tar::Header::new_gnu();
    fixed.as_mut_bytes().copy_from_slice(&header[..512]);
    fixed.set_cksum();
    let (_tmp, done) = run(fixed.as_bytes());
    assert!(done.is_err());
}

#[test]
fn extended_headers_are_followed_and_checked() {
    let (tmp, done) = run(&archive(&[
        raw(b'x', b"h", b"", b"16 path=hello/x\n"),
        raw(b'0', b"short", b"", b"1"),
    ]));
    done.unwrap();
    assert!(tmp.path().join("in/hello/x").exists());
    for bad in [
        "17 path=../hello\n",
        "99 path=x\n",
        "x",
        "9 size=1\n",
        "3 =\n",
        "0 a=b\n",
    ] {
        let (_tmp, done) = run(&archive(&[
            raw(b'x', b"h", b"", bad.as_bytes()),
            raw(b'0', b"short", b"", b"1"),
        ]));
        assert!(done.is_err(), "{bad:?}");
    }
}

#[test]
fn every_prefix_of_an_archive_is_answered() {
    let whole = archive(&[
        raw(b'5', b"d", b"", b""),
        raw(b'0', b"d/f", b"", b"data"),
        raw(b'2', b"l", b"d/f", b""),
    ]);
    for end in (0..whole.len()).step_by(37) {
        let _ = run(&whole[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever entries come, what is there afterwards is inside: nothing beside the folder, and every link resolves
    /// below it (or to nothing).
    #[test]
    fn whatever_comes_stays_inside(entries in proptest::collection::vec(
        (prop::sample::select(vec![b'0', b'1', b'2', b'5']),
         "(\\.\\./|\\./|/|a/|b/|c/){0,4}[abc.]{1,2}", "(\\.\\./|\\./|/|a/|b/|c/){0,4}[abc.]{1,2}"), 1..8)) {
        let raws: Vec<_> =
            entries.iter().map(|(kind, name, link)| raw(*kind, name.as_bytes(), link.as_bytes(), b"")).collect();
        let (tmp, _done) = run(&archive(&raws));
        prop_assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
        let top = tmp.path().join("in").canonicalize().unwrap();
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if let Ok(real) = entry.path().canonicalize() {
                    prop_assert!(real.starts_with(&top), "{:?} in {:?}", entry.path(), entries);
                }
            }
        }
    }
}

#[test]
fn many_folders_in_few_bytes_are_refused_before_they_fill_memory() {
    let long = |name: String| {
        [
            raw(b'L', b"long", b"", name.as_bytes()),
            raw(b'0', b"x", b"", b""),
        ]
        .concat()
    };
    let (_tmp, done) = run(&archive(&[long(format!("{}f\0", "d/".repeat(256)))]));
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
    let below = "folder/".repeat(200);
    let entries: Vec<_> = (0..20).map(|n| long(format!("{n}/{below}f\0"))).collect();
    let (_tmp, done) = run(&archive(&entries));
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
}
