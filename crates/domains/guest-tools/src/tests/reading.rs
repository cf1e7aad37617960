use super::*;
use omnirun_guest_proto::message::BlockKind;
use std::{io::Write, os::unix::net::UnixListener};

fn range(tree: &Tree, first: i64, last: i64) -> String {
    text_of(&tree.run("read", json!({"file_path": "f", "view_range": [first, last]})))
}

#[test]
fn text_comes_as_it_is() {
    let tree = Tree::new();
    for content in [
        "a\r\nb\n",
        "no newline",
        "\u{feff}bom žluť 🐎\n\n",
        "nul \0 inside",
    ] {
        tree.put("f", content);
        assert_eq!(tree.ok("read", json!({"file_path": "f"})), content);
    }
    tree.put("f", "");
    assert_eq!(tree.ok("read", json!({"file_path": "f"})), "(no output)");
}

#[test]
fn ranges_are_what_splitting_and_joining_gives() {
    let tree = Tree::new();
    let contents = [
        "",
        "\n",
        "a",
        "a\n",
        "a\nb",
        "a\r\nb\r\n",
        "a\n\nc\n\n",
        "1\n2\n3\n4\n5\n",
    ];
    for content in contents {
        tree.put("f", content);
        let lines: Vec<&str> = content.split('\n').collect();
        for first in -1..8i64 {
            for last in -1..8i64 {
                let from = usize::try_from(first.max(1) - 1).unwrap();
                let to = if last <= 0 {
                    lines.len()
                } else {
                    lines.len().min(usize::try_from(last).unwrap())
                };
                let expected = if from < to {
                    lines[from..to].join("\n")
                } else {
                    String::new()
                };
                let expected = if expected.is_empty() {
                    "(no output)".to_owned()
                } else {
                    expected
                };
                assert_eq!(
                    range(&tree, first, last),
                    expected,
                    "{content:?} [{first}, {last}]"
                );
            }
        }
    }
    assert!(
        tree.err("read", json!({"file_path": "f", "view_range": [1, 2, 3]}))
            .contains("[start_line, end_line]")
    );
}

#[test]
fn large_files_are_read_by_ranges() {
    let tree = Tree::new();
    let line = "x".repeat(99);
    let content: String = (0..10_000).map(|index| format!("{index:05} {line}\n")).collect();
    tree.put("f", &content);
    let text = tree.err("read", json!({"file_path": "f"}));
    assert_eq!(
        text,
        "read: f: file is 1060000 bytes, more than the limit of 262144; use view_range [start_line, end_line] to read a part of it"
    );
    assert_eq!(range(&tree, 9_999, 10_000), format!("09998 {line}\n09999 {line}"));
    assert!(range(&tree, 1, 5_000).contains("ask for fewer lines"));
    tree.put("f", "y".repeat(300_000));
    assert!(range(&tree, 1, 1).contains("the first line of view_range alone"));
}

#[test]
fn a_sparse_file_of_two_gibibytes_is_streamed() {
    let tree = Tree::new();
    let mut file = fs::File::create(tree.real("f")).unwrap();
    file.write_all(b"first\nsecond\n").unwrap();
    file.set_len(2 << 30).unwrap();
    assert_eq!(range(&tree, 2, 2), "second");
    let text = tree.err("read", json!({"file_path": "f"}));
    assert!(text.contains("2147483648 bytes"), "{text}");
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let tree = Tree::new();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.real("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let _socket = UnixListener::bind(tree.real("socket")).unwrap();
    for path in ["fifo", "socket", ".", "/workspace"] {
        assert_eq!(
            tree.err("read", json!({"file_path": path})),
            format!("read: {path}: not a regular file")
        );
    }
    for path in ["fifo", "socket"] {
        assert_eq!(
            tree.err("write", json!({"file_path": path, "content": ""})),
            format!("write: {path}: not a regular file")
        );
        assert_eq!(
            tree.err(
                "edit",
                json!({"file_path": path, "old_string": "a", "new_string": ""})
            ),
            format!("edit: {path}: not a regular file")
        );
        assert!(
            tree.err("grep", json!({"pattern": "a", "path": path}))
                .contains("not a regular file")
        );
    }
}

#[test]
fn images_and_documents_are_blocks_by_their_content() {
    let tree = Tree::new();
    let kinds: [(&str, &[u8], &str); 5] = [
        ("a.png", b"\x89PNG\r\n\x1a\n\xff", "image/png"),
        ("a.JPG", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("a.gif", b"GIF89a\xff", "image/gif"),
        ("a.webp", b"RIFF\0\0\0\0WEBP\xff", "image/webp"),
        ("wrong.png", b"\xff\xd8\xff\xe0", "image/jpeg"),
    ];
    for (name, content, media_type) in kinds {
        tree.put(name, content);
        let result = tree.run("read", json!({"file_path": name}));
        match result.content[0].kind.clone().unwrap() {
            BlockKind::Image(image) => assert_eq!(
                (image.media_type.as_str(), image.data.as_slice()),
                (media_type, content)
            ),
            other => panic!("{name}: {other:?}"),
        }
    }
    tree.put("a.pdf", b"%PDF-1.7\xff");
    match tree.run("read", json!({"file_path": "a.pdf"})).content[0]
        .kind
        .clone()
        .unwrap()
    {
        BlockKind::Document(document) => assert_eq!(document.media_type, "application/pdf"),
        other => panic!("{other:?}"),
    }
    assert!(
        tree.err("read", json!({"file_path": "a.pdf", "view_range": [1, 2]}))
            .contains("view_range does not apply")
    );
    let mut large = b"\x89PNG\r\n\x1a\n".to_vec();
    large.resize(3_932_161, 0);
    tree.put("a.png", large);
    assert!(
        tree.err("read", json!({"file_path": "a.png"}))
            .contains("image is 3932161 bytes, more than the limit of 3932160")
    );
    tree.put("pointer.png", "version https://git-lfs.github.com/spec/v1\n");
    assert!(
        tree.ok("read", json!({"file_path": "pointer.png"}))
            .starts_with("version")
    );
    tree.put("binary", b"\xff\xfe\0");
    assert!(
        tree.err("read", json!({"file_path": "binary"}))
            .starts_with("read: binary: not UTF-8 text; ")
    );
}
