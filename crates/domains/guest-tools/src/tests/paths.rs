use super::*;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

#[test]
fn relative_and_absolute_paths_inside_the_roots_are_fine() {
    let tree = Tree::new();
    tree.put("a/b", "x");
    for path in [
        "a/b",
        "/workspace/a/b",
        "./a/../a//b",
        "/../workspace/a/b",
        "nosuch/../a/b",
    ] {
        assert_eq!(tree.ok("read", json!({"file_path": path})), "x", "{path}");
    }
    tree.ok(
        "write",
        json!({"file_path": "/mnt/session/outputs/r.txt", "content": "r"}),
    );
    assert_eq!(
        fs::read_to_string(tree.dir.path().join("mnt/session/outputs/r.txt")).unwrap(),
        "r"
    );
}

#[test]
fn every_way_out_is_refused_by_every_tool() {
    let tree = Tree::new();
    tree.link("/etc/secret", "absolute");
    tree.link("../etc/secret", "relative");
    tree.link("/etc", "directory");
    tree.link("absolute", "chain");
    tree.link("/etc/new", "dangling");
    tree.link("/", "slash");
    for path in [
        "/etc/secret",
        "../etc/secret",
        "absolute",
        "relative",
        "directory/secret",
        "chain",
        "dangling",
        "slash/etc/secret",
        "/workspacex",
    ] {
        let refusal = format!(
            "path '{path}' is outside the session's working directory (/workspace) and the other permitted directories (/mnt/session/outputs); use bash to reach it"
        );
        assert_eq!(
            tree.err("read", json!({"file_path": path})),
            format!("read: {refusal}")
        );
        assert_eq!(
            tree.err("write", json!({"file_path": path, "content": "x"})),
            format!("write: {refusal}")
        );
        assert_eq!(
            tree.err(
                "edit",
                json!({"file_path": path, "old_string": "s", "new_string": "x"})
            ),
            format!("edit: {refusal}")
        );
        assert_eq!(
            tree.err("grep", json!({"pattern": "s", "path": path})),
            format!("grep: {refusal}")
        );
        assert_eq!(
            tree.err("glob", json!({"pattern": "*", "path": path})),
            format!("glob: {refusal}")
        );
    }
    assert_eq!(
        fs::read_to_string(tree.dir.path().join("etc/secret")).unwrap(),
        "secret"
    );
    assert!(!tree.dir.path().join("etc/new").exists());
    assert_eq!(tree.ok("glob", json!({"pattern": "directory/*"})), "no matches");
    assert!(!tree.ok("glob", json!({"pattern": "**"})).contains("secret"));
    assert_eq!(tree.ok("grep", json!({"pattern": "secret"})), "no matches");
}

#[test]
fn links_that_stay_inside_are_followed() {
    let tree = Tree::new();
    tree.put("real/file", "x");
    tree.link("/workspace/real", "link");
    tree.link("link/file", "leaf");
    tree.link("real/new", "dangling");
    tree.link("/etc/../workspace/real/../real/file", "detour");
    for path in ["link/file", "leaf", "detour"] {
        assert_eq!(tree.ok("read", json!({"file_path": path})), "x", "{path}");
    }
    assert_eq!(
        tree.ok("write", json!({"file_path": "dangling", "content": "new"})),
        "wrote 3 bytes to dangling"
    );
    assert_eq!(tree.get("real/new"), "new");
    assert!(
        fs::symlink_metadata(tree.real("dangling")).unwrap().is_symlink(),
        "the link stays a link"
    );
}

#[test]
fn loops_and_odd_components_get_their_reason() {
    let tree = Tree::new();
    tree.link("two", "one");
    tree.link("one", "two");
    tree.put("file", "x");
    assert_eq!(
        tree.err("read", json!({"file_path": "one"})),
        "read: one: too many levels of symbolic links"
    );
    assert_eq!(
        tree.err("write", json!({"file_path": "one/x", "content": ""})),
        "write: one/x: too many levels of symbolic links"
    );
    assert_eq!(
        tree.err("read", json!({"file_path": "file/x"})),
        "read: file/x: not a directory"
    );
    assert_eq!(
        tree.err("read", json!({"file_path": "missing"})),
        "read: missing: no such file or directory"
    );
    assert_eq!(
        tree.err("read", json!({"file_path": "x".repeat(300)})),
        format!("read: {}: file name too long", "x".repeat(300))
    );
    for index in 0..50 {
        tree.link(&format!("chain{}", index + 1), &format!("chain{index}"));
    }
    assert!(
        tree.err("read", json!({"file_path": "chain0"}))
            .ends_with("too many levels of symbolic links")
    );
}

#[test]
fn read_only_directories_are_read_and_not_written() {
    let tree = Tree::new();
    tree.put("locked/file", "x");
    tree.link("locked/file", "way-in");
    assert_eq!(tree.ok("read", json!({"file_path": "locked/file"})), "x");
    for path in ["locked/file", "locked/new", "way-in"] {
        let refusal = format!("path '{path}' is inside read-only directory /workspace/locked");
        assert_eq!(
            tree.err("write", json!({"file_path": path, "content": ""})),
            format!("write: {refusal}")
        );
        assert_eq!(
            tree.err(
                "edit",
                json!({"file_path": path, "old_string": "x", "new_string": ""})
            ),
            format!("edit: {refusal}")
        );
    }
}

#[test]
fn a_working_directory_that_is_a_link_is_followed_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    fs::create_dir_all(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/x"), "outside").unwrap();
    fs::write(dir.path().join("data/x"), "inside").unwrap();
    symlink("/data", dir.path().join("workspace")).unwrap();
    let root = Root::open(dir.path(), &RootConfig::default()).unwrap();
    let read = || text_of(&run_file_tool(&root, "read", br#"{"file_path":"x"}"#));
    assert_eq!(read(), "inside");
    fs::remove_file(dir.path().join("workspace")).unwrap();
    symlink("/etc", dir.path().join("workspace")).unwrap();
    assert_eq!(read(), "inside");
}

/// Exchanges a directory for a link that leads out, as fast as it can, while the tools use paths through it.
#[test]
fn a_component_that_is_exchanged_for_a_link_never_leads_out() {
    let tree = Tree::new();
    tree.put("d/secret", "inside");
    tree.link("/etc", "out");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir =
                rustix::fs::open(tree.real(""), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&dir, "d", &dir, "out", flags).unwrap();
            }
        });
        let started = Instant::now();
        let mut inside = 0;
        while started.elapsed() < Duration::from_millis(700) || inside == 0 {
            let text = text_of(&tree.run("read", json!({"file_path": "d/secret"})));
            // The other thread has to end before a failure can be told.
            if text == "secret" || started.elapsed() > Duration::from_secs(60) {
                stop.store(true, Ordering::Relaxed);
                panic!("{text}, inside {inside} times");
            }
            inside += u32::from(text == "inside");
            tree.run("write", json!({"file_path": "d/planted", "content": "x"}));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!tree.dir.path().join("etc/planted").exists());
}
