use super::*;
use std::os::unix::fs::chown;

fn edit(tree: &Tree, old: &str, new: &str) -> String {
    text_of(&tree.run(
        "edit",
        json!({"file_path": "f", "old_string": old, "new_string": new}),
    ))
}

#[test]
fn a_new_file_and_its_parents_are_made() {
    let tree = Tree::new();
    assert_eq!(
        tree.ok("write", json!({"file_path": "a/b/c.txt", "content": "žluť\r\n"})),
        "wrote 8 bytes to a/b/c.txt"
    );
    assert_eq!(tree.get("a/b/c.txt"), "žluť\r\n");
    assert_eq!(mode(&tree.real("a/b/c.txt")) & 0o111, 0);
    assert_eq!(
        tree.ok("write", json!({"file_path": "empty", "content": ""})),
        "wrote 0 bytes to empty"
    );
    tree.no_temporary_files();
}

#[test]
fn an_existing_file_keeps_mode_owner_and_its_readers_see_whole_contents() {
    let tree = Tree::new();
    tree.put("f", "old");
    fs::set_permissions(tree.real("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    // Only root can give files away.
    let owner = if rustix::process::geteuid().is_root() {
        12345
    } else {
        rustix::process::geteuid().as_raw()
    };
    chown(tree.real("f"), Some(owner), None).unwrap();
    fs::set_permissions(tree.real("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    let before = fs::File::open(tree.real("f")).unwrap();
    tree.ok("write", json!({"file_path": "f", "content": "new"}));
    let metadata = fs::metadata(tree.real("f")).unwrap();
    assert_eq!((metadata.uid(), mode(&tree.real("f"))), (owner, 0o4751));
    assert_eq!(std::io::read_to_string(before).unwrap(), "old");
    tree.ok(
        "edit",
        json!({"file_path": "f", "old_string": "new", "new_string": "newer"}),
    );
    assert_eq!(
        (fs::metadata(tree.real("f")).unwrap().uid(), mode(&tree.real("f"))),
        (owner, 0o4751)
    );
    assert_eq!(tree.get("f"), "newer");
    tree.no_temporary_files();
}

#[test]
fn extended_attributes_are_kept() {
    let tree = Tree::new();
    tree.put("f", "old");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(tree.real("f"), "user.note", b"kept", flags).is_err() {
        return; // This file system has none.
    }
    tree.ok("write", json!({"file_path": "f", "content": "new"}));
    let mut value = [0u8; 16];
    let count = rustix::fs::getxattr(tree.real("f"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..count], b"kept");
}

#[test]
fn hard_links_stay_together_and_links_stay_links() {
    let tree = Tree::new();
    tree.put("f", "a longer old content");
    fs::hard_link(tree.real("f"), tree.real("g")).unwrap();
    tree.link("f", "l");
    tree.ok("write", json!({"file_path": "f", "content": "new"}));
    assert_eq!(tree.get("g"), "new");
    tree.ok("write", json!({"file_path": "l", "content": "newer"}));
    assert_eq!(tree.get("f"), "newer");
    assert!(fs::symlink_metadata(tree.real("l")).unwrap().is_symlink());
}

#[test]
fn what_cannot_be_written_says_why() {
    let tree = Tree::new();
    tree.put("file", "x");
    fs::create_dir(tree.real("dir")).unwrap();
    assert_eq!(
        tree.err("write", json!({"file_path": "dir", "content": ""})),
        "write: dir: is a directory"
    );
    assert_eq!(
        tree.err("write", json!({"file_path": ".", "content": ""})),
        "write: .: is a directory"
    );
    let text = tree.err("write", json!({"file_path": "file/below/x", "content": ""}));
    assert_eq!(
        text,
        "write: file/below/x: not a directory: /workspace/file is a file"
    );
    tree.no_temporary_files();
}

#[test]
fn a_full_disk_leaves_the_old_content() {
    // A disk of its own needs root and a mount; the smallest thing that is full is a file size limit, but that is the
    // whole process's. So only where a small tmpfs can be mounted in a namespace.
    let script = r#"
        set -e; mount -t tmpfs -o size=64k tmpfs "$1"; mkdir -p "$1/workspace"; echo old > "$1/workspace/f"
        exec "$2" --exact tests::writing::in_the_full_disk --ignored --nocapture
    "#;
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .args([dir.path(), exe.as_path()])
        .env("OMNIRUN_TEST_FULL_DISK", dir.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by a_full_disk_leaves_the_old_content, on the disk that it makes"]
fn in_the_full_disk() {
    let path = std::env::var("OMNIRUN_TEST_FULL_DISK").unwrap();
    let root = Root::open(Path::new(&path), &RootConfig::default()).unwrap();
    let input = json!({"file_path": "f", "content": "x".repeat(100_000)});
    let result = run_file_tool(&root, "write", &serde_json::to_vec(&input).unwrap());
    assert_eq!(
        text_of(&result),
        "write: f: no space left on device; free some with bash (df -h shows how much)"
    );
    assert_eq!(
        fs::read_to_string(Path::new(&path).join("workspace/f")).unwrap(),
        "old\n"
    );
    assert_eq!(
        fs::read_dir(Path::new(&path).join("workspace")).unwrap().count(),
        1
    );
}

#[test]
fn edits_say_what_they_did_and_what_they_could_not() {
    let tree = Tree::new();
    tree.put("f", "one two two\r\nthree\r\n");
    assert_eq!(edit(&tree, "one", "1"), "edited f (1 replacement(s))");
    assert_eq!(
        edit(&tree, "two", "2"),
        "edit: old_string appears 2 times in f (must be unique)"
    );
    assert_eq!(edit(&tree, "nosuch", "x"), "edit: old_string not found in f");
    assert_eq!(
        edit(&tree, "two\nthree", "x"),
        "edit: old_string not found in f (the file has CRLF line ends: write \\r\\n in old_string)"
    );
    assert_eq!(
        tree.ok(
            "edit",
            json!({"file_path": "f", "old_string": "two", "new_string": "2", "replace_all": true})
        ),
        "edited f (2 replacement(s))"
    );
    assert_eq!(tree.get("f"), "1 2 2\r\nthree\r\n");
    assert_eq!(edit(&tree, "three", ""), "edited f (1 replacement(s))");
    tree.put("f", b"\xff");
    assert_eq!(edit(&tree, "a", "b"), "edit: f: not UTF-8 text");
    tree.put("f", "x".repeat(262_145));
    assert!(
        edit(&tree, "a", "b").starts_with("edit: f: file is 262145 bytes, more than the limit of 262144")
    );
    assert_eq!(
        tree.err(
            "edit",
            json!({"file_path": "no", "old_string": "a", "new_string": "b"})
        ),
        "edit: no: no such file or directory"
    );
    assert_eq!(
        tree.err(
            "edit",
            json!({"file_path": ".", "old_string": "a", "new_string": "b"})
        ),
        "edit: .: not a regular file"
    );
}

#[test]
fn an_edit_cannot_be_made_to_fill_the_memory() {
    let tree = Tree::new();
    tree.put("f", "x".repeat(262_144));
    let new = "y".repeat(1_000_000);
    let input = json!({"file_path": "f", "old_string": "x", "new_string": new, "replace_all": true});
    assert!(
        tree.err("edit", input)
            .contains("the result would be 262144000000 bytes")
    );
}

#[test]
fn a_writer_at_the_same_time_loses_nothing() {
    let tree = Tree::new();
    tree.put("f", "0 ");
    // Two editors each replace the content by a longer one. Each success is one step, so the number at the end is the
    // number of successes.
    let successes: usize = std::thread::scope(|scope| {
        let editor = || {
            let mut successes = 0;
            for _ in 0..300 {
                let now = tree.get("f");
                let next = now.trim().parse::<usize>().unwrap() + 1;
                let text = edit(&tree, &now, &format!("{next} "));
                match text.as_str() {
                    "edited f (1 replacement(s))" => successes += 1,
                    other => assert!(
                        other.contains("not found") || other.contains("changed by something else"),
                        "{other}"
                    ),
                }
            }
            successes
        };
        let threads = [scope.spawn(editor), scope.spawn(editor)];
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let last: usize = tree.get("f").trim().parse().unwrap();
    assert!(last > 0 && last <= successes, "{last} of {successes}");
    tree.no_temporary_files();
}
