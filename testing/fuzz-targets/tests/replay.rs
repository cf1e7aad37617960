//! The corpus that fuzzing found, on stable; and around well-formed samples, every prefix and every change of one byte.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_fuzz_targets::{TARGETS, Target, seeds::seeds};
use std::{fs, panic, path::Path};

/// Says which input it was: libFuzzer would have kept it in a file.
fn run(name: &str, target: Target, what: &str, data: &[u8]) {
    if let Err(cause) = panic::catch_unwind(|| target(data)) {
        eprintln!("{name}, {what}: {:?}", data.escape_ascii().to_string());
        panic::resume_unwind(cause);
    }
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|t| t.0 == name).unwrap().1
}

#[test]
fn the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let mut count = 0;
        for file in fs::read_dir(corpus.join(name)).unwrap() {
            let path = file.unwrap().path();
            run(
                name,
                target,
                &path.display().to_string(),
                &fs::read(&path).unwrap(),
            );
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
    let folders = fs::read_dir(corpus).unwrap().count();
    assert_eq!(folders, TARGETS.len(), "a corpus without its target");
}

/// Each target with no bytes at all, its samples, and what is near them.
fn near(name: &str) {
    let target = target(name);
    run(name, target, "nothing", b"");
    // What starts a runtime or writes files is tried with fewer values.
    let dear = matches!(name, "unpack" | "guest_client" | "file_tools");
    for (number, sample) in seeds(name).iter().enumerate() {
        run(name, target, &format!("sample {number}"), sample);
        let places = match name {
            // A tree of folders is made and removed each time.
            "file_tools" => 100,
            _ if dear => 400,
            _ => 2000,
        };
        let stride = sample.len().div_ceil(places);
        for at in (0..sample.len()).step_by(stride.max(1)) {
            run(
                name,
                target,
                &format!("sample {number}, prefix {at}"),
                &sample[..at],
            );
            let masks: &[u8] = if dear {
                &[0x01, 0xff]
            } else {
                &[0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff]
            };
            for mask in masks {
                let mut changed = sample.clone();
                changed[at] ^= mask;
                run(
                    name,
                    target,
                    &format!("sample {number}, byte {at} ^ {mask:#x}"),
                    &changed,
                );
            }
        }
    }
}

macro_rules! near {
    ($($name:ident),*) => { $(
        #[test]
        fn $name() {
            near(stringify!($name));
        }
    )* };
}

near!(
    bzimage,
    client_hello,
    console,
    dns_query,
    file_tools,
    frames,
    guest_client,
    guest_end,
    host_end,
    http_head,
    images,
    messages,
    output,
    passwd,
    preface,
    qmp,
    shell_state,
    sse,
    tool_result,
    tool_schema,
    unpack,
    work_proto
);
