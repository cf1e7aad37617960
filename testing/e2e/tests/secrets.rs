//! Credentials in OmniRun's own environment reach neither a guest, nor its VMM, nor a log, nor a file.

use omnirun_e2e::{footprint_of, omnirun_in, private_data, run, text, vmms_of};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

/// What is planted; the middle is what is looked for.
const NEEDLE: &str = "pLaNtEd-7d1c0f4a93e2";
const NAMES: [&str; 4] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_ENVIRONMENT_KEY",
    "ANTHROPIC_WORK_SECRET",
];

fn planted(dir: &Path, args: &[&str]) -> Command {
    let mut command = omnirun_in(dir, args);
    for name in NAMES {
        command.env(name, format!("sk-ant-{NEEDLE}-{name}"));
    }
    command
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(NEEDLE.len()).any(|w| w == NEEDLE.as_bytes())
}

/// The needle in a stream, in pieces that overlap.
fn stream_holds(mut stream: impl Read) -> bool {
    let mut held: Vec<u8> = Vec::new();
    loop {
        let keep = held.len().min(NEEDLE.len());
        held.drain(..held.len() - keep);
        let begun = held.len();
        held.resize(begun + (1 << 20), 0);
        let Ok(n @ 1..) = stream.read(&mut held[begun..]) else {
            return false;
        };
        held.truncate(begun + n);
        // Sparse files are mostly zeros.
        if held.iter().any(|b| *b != 0) && holds(&held) {
            return true;
        }
    }
}

/// The regions of a live process's memory in which the needle is; the guest's memory is one of them.
fn regions_that_hold(pid: u32) -> (u64, Vec<String>) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives and is ours to read");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("it lives and is ours to read");
    let (mut read, mut found) = (0, Vec::new());
    for line in maps.lines() {
        let range = line.split(' ').next().expect("a range");
        let (from, to) = range.split_once('-').expect("a range");
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else {
            continue;
        };
        let (mut at, mut chunk) = (from, vec![0u8; 1 << 20]);
        while at < to {
            let want = usize::try_from((to - at).min(1 << 20)).expect("small");
            // What cannot be read (no access, devices) holds nothing.
            let Ok(n @ 1..) = memory.read_at(&mut chunk[..want], at) else {
                break;
            };
            read += n as u64;
            if chunk[..n].iter().any(|b| *b != 0) && holds(&chunk[..n]) {
                found.push(line.to_owned());
            }
            at += n as u64;
        }
    }
    (read, found)
}

fn files_that_hold(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // The image was made before, without the keys.
        if path.ends_with("images") {
            continue;
        }
        if path.is_dir() {
            found.extend(files_that_hold(&path));
        } else if path.is_file() && File::open(&path).is_ok_and(stream_holds) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn credentials_stay_in_omnirun() {
    let private = private_data();
    let dir = private.path();
    // The first use makes the snapshot, so that it too is made with the keys around.
    let script = "env; cat /proc/*/environ /proc/*/cmdline /proc/cmdline | tr '\\0' '\\n'; echo; echo ready; sleep 600";
    let mut child = planted(
        dir,
        &[
            "-vv", "run", "--memory", "256M", "--disk", "64M", "--", "sh", "-c", script,
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("omnirun starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut said = String::new();
    while !said.ends_with("ready\n") {
        assert_ne!(out.read_line(&mut said).expect("a line"), 0, "{said}");
    }
    assert!(said.contains("PATH=") && !said.contains("ANTHROPIC_"), "{said}");
    assert!(!said.contains("sk-ant-"), "{said}");

    let vmms = vmms_of(dir);
    assert_eq!(vmms.len(), 1, "one VMM");
    let of =
        |what: &str| fs::read(format!("/proc/{}/{what}", vmms[0])).expect("it lives and is ours to read");
    assert_eq!(
        text(&of("environ")).trim_matches('\0'),
        "",
        "a VMM has no environment"
    );
    assert!(!holds(&of("cmdline")));
    let own = fs::read(format!("/proc/{}/cmdline", child.id())).expect("it lives");
    assert!(!holds(&own));
    // The search is able to find it: in omnirun itself it is.
    assert!(
        !regions_that_hold(child.id()).1.is_empty(),
        "the search finds nothing at all"
    );
    // The VMM's memory has the guest's in it.
    let (read, found) = regions_that_hold(vmms[0]);
    assert!(read >= 256 << 20, "{read} bytes of memory searched");
    assert_eq!(found, Vec::<String>::new());
    // Its disk never had a name; its descriptor is the way to it.
    let mut disks = 0;
    for fd in fs::read_dir(format!("/proc/{}/fd", vmms[0]))
        .expect("it lives")
        .flatten()
    {
        if fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(dir.join("tmp"))) {
            disks += 1;
            assert!(
                !stream_holds(File::open(fd.path()).expect("it is ours")),
                "the session disk"
            );
        }
    }
    assert!(disks >= 1);
    assert_eq!(files_that_hold(dir), Vec::<String>::new());

    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .expect("it lives");
    let rest = child.wait_with_output().expect("it ends");
    let log = text(&rest.stderr);
    assert!(!log.contains(NEEDLE), "{log}");
    assert_eq!(footprint_of(dir), Vec::<String>::new());

    // Errors do not show it either.
    for args in [
        &["-vv", "run", "--template", "nope", "--", "true"][..],
        &["-vv", "clean"],
        &["-vv", "run", "--json", "--memory", "256M", "--", "env"],
    ] {
        let (_, out, err) = run(&mut planted(dir, args));
        assert!(
            !out.contains(NEEDLE) && !err.contains(NEEDLE),
            "{args:?}: {out} {err}"
        );
    }
}
