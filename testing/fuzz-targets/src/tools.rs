//! The file tools, in a tree with links that lead out of it.

use crate::choice;
use omnirun_guest_proto::message::BlockKind;
use omnirun_guest_tools::{Root, RootConfig, run_file_tool};
use omnirun_tool_schema::TOOLS;
use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

/// In a file outside: no tool may read it.
const SECRET: &str = "quite-s3cret";
/// Calls of one input, each a line.
const MAX_CALLS: usize = 6;

/// A line is a call: a byte for the tool, then its input. Nothing outside of the permitted folders is read or changed,
/// and each answer is bounded.
pub fn file_tools(data: &[u8]) {
    let tmp = tempfile::tempdir().unwrap();
    let (top, work) = (tmp.path(), tmp.path().join("workspace"));
    for folder in ["workspace/locked", "workspace/d/e", "mnt/session/outputs", "etc"] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    fs::write(top.join("etc/secret"), SECRET).unwrap();
    fs::write(work.join("locked/r"), "read only").unwrap();
    fs::write(work.join("f"), "one\ntwo\r\nthree \u{e9}").unwrap();
    fs::write(work.join("d/p.png"), b"\x89PNG\0").unwrap();
    fs::write(work.join("d/e/.gitignore"), "*.log\n").unwrap();
    for (target, link) in [
        ("/etc", "out"),
        ("../etc/secret", "s"),
        ("l", "l"),
        ("d/e/../../f", "g"),
    ] {
        symlink(target, work.join(link)).unwrap();
    }
    let config = RootConfig {
        read_only: vec!["/workspace/locked".into()],
        ..RootConfig::default()
    };
    let root = Root::open(top, &config).unwrap();
    let before = untouchable(top);
    // Unless the input says it itself, by an escape perhaps.
    let guessed = data.windows(3).any(|w| w == b"s3c") || data.contains(&b'\\');
    for line in data.split(|b| *b == b'\n').take(MAX_CALLS) {
        let (tool, input) = choice(line);
        let name = TOOLS.get(tool % 8).map_or("no_such_tool", |t| t.name);
        let result = run_file_tool(&root, name, input);
        let mut size = 0;
        for block in result.content {
            match block.kind.unwrap() {
                BlockKind::Text(text) => {
                    assert!(guessed || !text.contains(SECRET));
                    size += text.len();
                }
                BlockKind::Image(media) | BlockKind::Document(media) => size += media.data.len(),
            }
        }
        assert!((1..=1 << 20).contains(&size), "{name} answered {size} bytes");
    }
    assert_eq!(untouchable(top), before);
}

/// What is outside, and what is read-only: names and contents.
fn untouchable(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in ["", "etc", "mnt", "mnt/session", "workspace/locked"] {
        for entry in fs::read_dir(top.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let content = fs::read_to_string(&path).unwrap_or_default();
            found.insert(path.display().to_string(), content);
        }
    }
    found
}
