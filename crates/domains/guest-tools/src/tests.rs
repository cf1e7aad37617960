//! The file tools over a real directory tree. It stands for the sandbox's root: absolute links inside it stay inside.

use crate::{Root, RootConfig, answer::tests::text_of, run_file_tool};
use omnirun_guest_proto::message::ToolResult;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

mod glob_grep;
mod paths;
mod reading;
mod writing;

/// A root with `/workspace`, `/mnt/session/outputs`, and a file outside both.
struct Tree {
    dir: tempfile::TempDir,
    root: Root,
}

impl Tree {
    fn new() -> Self {
        Self::with(RootConfig {
            read_only: vec!["/workspace/locked".into()],
            ..RootConfig::default()
        })
    }

    fn with(config: RootConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in ["workspace/locked", "mnt/session/outputs", "etc"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("etc/secret"), "secret").unwrap();
        let root = Root::open(dir.path(), &config).unwrap();
        Self { dir, root }
    }

    /// Where a path of the sandbox really is.
    fn real(&self, path: &str) -> PathBuf {
        self.dir.path().join("workspace").join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let real = self.real(path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::write(real, content).unwrap();
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.real(path)).unwrap()
    }

    fn link(&self, target: &str, path: &str) {
        symlink(target, self.real(path)).unwrap();
    }

    fn run(&self, tool: &str, input: Value) -> ToolResult {
        run_file_tool(&self.root, tool, &serde_json::to_vec(&input).unwrap())
    }

    /// The text of a success.
    fn ok(&self, tool: &str, input: Value) -> String {
        let result = self.run(tool, input);
        assert!(!result.is_error, "{}", text_of(&result));
        text_of(&result)
    }

    /// The text of an error.
    fn err(&self, tool: &str, input: Value) -> String {
        let result = self.run(tool, input);
        assert!(result.is_error, "{}", text_of(&result));
        text_of(&result)
    }

    fn no_temporary_files(&self) {
        for entry in fs::read_dir(self.real("")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(
                !name.to_string_lossy().starts_with(".omnirun-"),
                "{name:?} was left behind"
            );
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_input_is_checked_before_anything_is_done() {
    let tree = Tree::new();
    assert_eq!(
        tree.err("read", json!({"path": "a"})),
        "read: unknown field 'path'; expected file_path, view_range"
    );
    assert_eq!(
        tree.err("bash", json!({"command": "ls"})),
        "bash is not a file tool"
    );
    let result = run_file_tool(&tree.root, "write", b"\xff");
    assert!(result.is_error);
}
