use super::*;
use std::time::{Duration, SystemTime};

/// Sets a file's time to so many seconds ago.
fn age(tree: &Tree, path: &str, seconds: u64) {
    let file = fs::File::open(tree.real(path)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds))
        .unwrap();
}

fn glob(tree: &Tree, pattern: &str) -> Vec<String> {
    let text = tree.ok("glob", json!({"pattern": pattern}));
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.trim_start_matches("/workspace/").to_owned())
        .collect();
    lines.sort();
    lines
}

fn project() -> Tree {
    let tree = Tree::new();
    for path in [
        "a.rs",
        "b.txt",
        ".hidden.rs",
        "src/c.rs",
        "src/deep/d.rs",
        "node_modules/m.rs",
        "{x}.rs",
    ] {
        tree.put(path, "");
    }
    tree
}

#[test]
fn patterns_mean_what_they_say() {
    let tree = project();
    assert_eq!(glob(&tree, "*.rs"), [".hidden.rs", "a.rs", "{x}.rs"]);
    assert_eq!(
        glob(&tree, "**/*.rs"),
        [
            ".hidden.rs",
            "a.rs",
            "node_modules/m.rs",
            "src/c.rs",
            "src/deep/d.rs",
            "{x}.rs"
        ]
    );
    assert_eq!(glob(&tree, "src/**"), ["src/c.rs", "src/deep", "src/deep/d.rs"]);
    assert_eq!(glob(&tree, "src/*"), ["src/c.rs", "src/deep"]);
    assert_eq!(glob(&tree, "./src//*.rs"), ["src/c.rs"]);
    assert_eq!(glob(&tree, "*/"), ["locked", "node_modules", "src"]);
    assert_eq!(glob(&tree, "{a,b}.*"), ["a.rs", "b.txt"]);
    assert_eq!(
        glob(&tree, "{src/deep,node_modules}/*.rs"),
        ["node_modules/m.rs", "src/deep/d.rs"]
    );
    assert_eq!(glob(&tree, "{x}.rs"), ["{x}.rs"]);
    assert_eq!(glob(&tree, "[ab].rs"), ["a.rs"]);
    assert_eq!(glob(&tree, "[!a].txt"), ["b.txt"]);
    assert_eq!(glob(&tree, "a.rs"), ["a.rs"]);
    assert_eq!(glob(&tree, "A.rs"), ["no matches"]);
    assert_eq!(
        tree.ok("glob", json!({"pattern": "*.rs", "path": "/workspace/src"})),
        "/workspace/src/c.rs"
    );
    for path in ["missing", "a.rs"] {
        assert_eq!(
            tree.ok("glob", json!({"pattern": "*", "path": path})),
            "no matches"
        );
    }
    assert!(
        tree.err("glob", json!({"pattern": "/etc/*"}))
            .starts_with("glob: absolute pattern not permitted")
    );
    assert!(
        tree.err("glob", json!({"pattern": "../*"}))
            .starts_with("glob: '..' in the pattern")
    );
    assert!(
        tree.err("glob", json!({"pattern": "[a"}))
            .starts_with("glob: invalid pattern '[a': unclosed character class")
    );
}

#[test]
fn newest_first_and_at_most_two_hundred() {
    let tree = Tree::new();
    for (path, seconds) in [("old", 300), ("new", 100), ("middle", 200)] {
        tree.put(path, "");
        age(&tree, path, seconds);
    }
    assert_eq!(
        tree.ok("glob", json!({"pattern": "[nmo]*"})),
        "/workspace/new\n/workspace/middle\n/workspace/old"
    );
    for index in 0..250 {
        tree.put(&format!("many/{index}"), "");
    }
    let text = tree.ok("glob", json!({"pattern": "many/*"}));
    assert_eq!(text.lines().count(), 201);
    assert!(text.ends_with(
        "[the 200 newest of 250 matches are shown; narrow the pattern or the path to see others]"
    ));
}

#[test]
fn links_count_by_where_they_lead() {
    let tree = project();
    tree.link("src", "link");
    tree.link("/etc/secret", "out");
    tree.link("nowhere", "dangling");
    tree.link("..", "src/up");
    assert_eq!(glob(&tree, "link/*.rs"), ["link/c.rs"]);
    assert_eq!(glob(&tree, "out"), ["no matches"]);
    assert_eq!(glob(&tree, "dang*"), ["dangling"]);
    assert_eq!(glob(&tree, "**/d.rs"), ["src/deep/d.rs"]);
}

#[test]
fn a_large_tree_is_walked_so_far_and_says_so() {
    let tree = Tree::new();
    for directory in 0..21 {
        for file in 0..100 {
            tree.put(&format!("{directory}/{file}"), "");
        }
    }
    tree.put("near.rs", "needle");
    let text = tree.ok("glob", json!({"pattern": "**/*.rs"}));
    assert!(
        text.starts_with("/workspace/near.rs\n[stopped after 2000 entries"),
        "{text}"
    );
    assert!(
        tree.ok("grep", json!({"pattern": "nothing"}))
            .starts_with("no matches\n[stopped after 2000 entries")
    );
}

#[test]
fn lines_come_with_path_and_number() {
    let tree = Tree::new();
    tree.put("b/two.txt", "x\nneedle two\r\n");
    tree.put("a.txt", "needle one\nno\nneedle \u{17e}\n");
    let all = "/workspace/a.txt:1:needle one\n/workspace/a.txt:3:needle \u{17e}\n/workspace/b/two.txt:2:needle two\r";
    assert_eq!(tree.ok("grep", json!({"pattern": "needle"})), all);
    assert_eq!(
        tree.ok("grep", json!({"pattern": "^needle two", "path": "b/two.txt"})),
        "/workspace/b/two.txt:2:needle two\r"
    );
    assert_eq!(tree.ok("grep", json!({"pattern": "NEEDLE"})), "no matches");
    assert_eq!(
        tree.ok("grep", json!({"pattern": "(?i)NEEDLE ONE"})),
        "/workspace/a.txt:1:needle one"
    );
    assert_eq!(
        tree.err("grep", json!({"pattern": "x", "path": "missing"})),
        "grep: missing: no such file or directory"
    );
    assert_eq!(
        tree.err("grep", json!({"pattern": "(unclosed"})),
        "grep: invalid regex: unclosed group"
    );
    assert!(
        tree.err("grep", json!({"pattern": "(?=x)"}))
            .starts_with("grep: invalid regex: look-around")
    );
    assert!(
        tree.err("grep", json!({"pattern": "((a{1000}){1000}){1000}"}))
            .starts_with("grep: invalid regex: ")
    );
    assert!(
        tree.err("grep", json!({"pattern": "a\nb"}))
            .starts_with("grep: invalid regex: ")
    );
}

#[test]
fn ripgreps_rules_say_what_is_searched() {
    let tree = Tree::new();
    fs::create_dir(tree.real(".git")).unwrap();
    tree.put(".gitignore", "ignored\n");
    tree.put("ignored", "needle");
    tree.put(".hidden", "needle");
    tree.put("seen", "needle");
    tree.put("binary", "needle\0");
    tree.link("seen", "link");
    assert_eq!(
        tree.ok("grep", json!({"pattern": "needle"})),
        "/workspace/seen:1:needle"
    );
    assert_eq!(
        tree.ok("grep", json!({"pattern": "needle", "path": "ignored"})),
        "/workspace/ignored:1:needle"
    );
    assert_eq!(
        tree.ok("grep", json!({"pattern": "needle", "path": ".hidden"})),
        "/workspace/.hidden:1:needle"
    );
    assert_eq!(
        tree.ok("grep", json!({"pattern": "needle", "path": "link"})),
        "/workspace/seen:1:needle"
    );
    assert!(
        tree.ok("grep", json!({"pattern": "needle", "path": "binary"}))
            .contains("is a binary file")
    );
}

#[test]
fn output_and_lines_are_bounded() {
    let tree = Tree::new();
    tree.put("many", "a matching line of some length\n".repeat(10_000));
    let text = tree.ok("grep", json!({"pattern": "matching"}));
    let (lines, note) = text.rsplit_once('\n').unwrap();
    assert!(lines.len() <= 102_400 && lines.len() > 102_000);
    assert_eq!(
        note,
        "[output truncated at 102400 bytes] Narrow the pattern or the path to see the rest."
    );
    tree.put(
        "many",
        format!(
            "{}needle{}\nshort needle\n",
            "x".repeat(500_000),
            "y".repeat(500_000)
        ),
    );
    let text = tree.ok("grep", json!({"pattern": "needle"}));
    let mut lines = text.lines();
    let long = lines.next().unwrap();
    assert!(
        long.len() < 2200
            && long.contains("xneedley")
            && long.ends_with("[line of 1000006 bytes, 2000 of them shown]"),
        "{long}"
    );
    assert_eq!(lines.next(), Some("/workspace/many:2:short needle"));
}

#[test]
fn a_line_that_does_not_fit_into_memory_is_said() {
    let tree = Tree::new();
    let file = fs::File::create(tree.real("sparse")).unwrap();
    file.set_len(3 << 30).unwrap();
    tree.put("long", "x".repeat(40 << 20));
    tree.put("seen", "needle");
    let text = tree.ok("grep", json!({"pattern": "needle"}));
    assert_eq!(
        text,
        "/workspace/seen:1:needle\n[1 files or directories could not be read]"
    );
}
