//! Keys stay on the host's side: planted ones are looked for wherever a guest, a child process or a reader of logs could
//! find them.

use omnirun_e2e::{
    leftovers::{leftovers, vmms},
    omnirun_in, private_data, run,
    stage::{Sim, Worker},
    wait_until,
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

const BOUND: Duration = Duration::from_secs(120);
/// Put together in the guest, so that nobody but the guest has it whole before the tool has run.
const CONTENT: &str = "content-7f3a-of-a-tool";

const SCENARIO: &str = r#"
name: secrets
id_tag: e2esecrets
queue: {ttl_seconds: 60}
keys: {environment: ENVIRONMENT_KEY, organization: ORGANIZATION_KEY}
sessions:
  - name: main
    steps:
      - user: Look around.
      - call: {name: env, tool: bash, input: {command: 'env; cat /proc/*/environ 2>/dev/null | tr "\0" "\n"; cat /proc/cmdline'}, expect: {lacks: [ENVIRONMENT_KEY, ORGANIZATION_KEY, ANTHROPIC]}}
      - call: {name: file, tool: write, input: {file_path: note.txt, content: content-7f3a-of-a-tool}, expect: {contains: [note.txt]}}
      - call: {name: hold, tool: bash, input: {command: 'cat note.txt; echo "secret-in-$((40+2))-command"; touch held; sleep 20'}, expect: {contains: [secret-in-42-command]}}
"#;

#[test]
fn a_worker_refuses_the_organizations_key_and_says_why() {
    let private = private_data();
    let mut command = omnirun_in(private.path(), ["worker", "--environment-id", "env_1"]);
    command
        .env("ANTHROPIC_ENVIRONMENT_KEY", "sk-ant-oat01-x")
        .env("ANTHROPIC_API_KEY", "sk-ant-api03-planted");
    let (code, out, err) = run(&mut command);
    assert_eq!((code, out.as_str()), (125, ""), "{err}");
    assert!(
        err.contains("ANTHROPIC_API_KEY is set") && err.contains("ANTHROPIC_ENVIRONMENT_KEY"),
        "{err}"
    );
    assert!(!err.contains("planted"), "{err}");
    assert_eq!(err.trim().lines().count(), 1, "{err}");
    assert_eq!(leftovers(private.path()), Vec::<String>::new());
}

/// Which of the needles are there.
fn finds(bytes: &[u8], needles: &[String]) -> Vec<String> {
    let has = |n: &&String| memchr::memmem::find(bytes, n.as_bytes()).is_some();
    needles.iter().filter(has).cloned().collect()
}

/// Searches a file piece by piece, with the length of a needle carried over.
fn search(file: &File, from: u64, to: u64, needles: &[String]) -> Vec<String> {
    let (mut buffer, zeros) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let (mut at, mut found) = (from, Vec::new());
    while at < to {
        let wanted = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
        match file.read_at(&mut buffer[..wanted], at) {
            Ok(n) if n > 0 => {
                // Most of a guest's memory and disk has never been written.
                if buffer[..n] != zeros[..n] {
                    found.extend(finds(&buffer[..n], needles));
                }
                at += if n > 256 && at + (n as u64) < to {
                    n as u64 - 256
                } else {
                    n as u64
                };
            }
            // A page that is not there, or the file's end.
            _ => at += 4096,
        }
    }
    found.sort();
    found.dedup();
    found
}

/// All of a process's memory that can be read: its guest's included.
fn memory(pid: u32, needles: &[String]) -> Vec<String> {
    // A process may end while it is looked at.
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else {
        return Vec::new();
    };
    let Ok(file) = File::open(format!("/proc/{pid}/mem")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let library = line.contains(".so") || line.contains("[v");
        let Some((from, to)) = range
            .split_once('-')
            .filter(|_| rights.starts_with('r') && !library)
        else {
            continue;
        };
        let number = |s: &str| u64::from_str_radix(s, 16).expect("hexadecimal");
        found.extend(search(&file, number(from), number(to), needles));
    }
    found.sort();
    found.dedup();
    found
}

fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, all);
        } else if path.is_file() {
            all.push(path);
        }
    }
}

/// The processes below a process.
fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut at = 0;
    while at < found.len() {
        let pid = found[at];
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        }
        at += 1;
    }
    found.split_off(1)
}

fn secrets(mode: &str) {
    let private = private_data();
    let data = private.path();
    let stage = tempfile::tempdir().expect("a folder");
    let (key, organization) = (
        "sk-ant-oat01-planted-environment-9d1c",
        "sk-ant-api03-planted-organization-52e7",
    );
    let scenario = SCENARIO
        .replace("ENVIRONMENT_KEY", key)
        .replace("ORGANIZATION_KEY", organization);
    let sim = Sim::start(stage.path(), &scenario);
    assert_eq!(sim.key, key);
    let args = ["-vv", "--isolation", mode, "--max-idle", "1s"];
    // In each of the planted ones, and nowhere else.
    let needles = vec!["planted-".to_owned()];
    let mut worker = Worker::start_as(data, &sim, &args, |command| {
        // What a careless host has in its environment beside them.
        command.env("AWS_SECRET_ACCESS_KEY", "planted-cloud-31aa");
    });

    // The search itself finds what is there: the tool's own words, in the memory of the VM that holds the call.
    let said = vec!["secret-in-42-command".to_owned()];
    let in_call = || {
        vmms(data)
            .into_iter()
            .find(|(pid, _)| !memory(*pid, &said).is_empty())
    };
    let mut holder = None;
    wait_until("a VM in the call", BOUND, || {
        holder = in_call();
        holder.is_some() || !worker.lives()
    });
    assert!(holder.is_some(), "{}", worker.log());
    let children = descendants(worker.pid());
    assert!(children.contains(&holder.expect("a VM").0), "{children:?}");
    for pid in &children {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        assert!(
            finds(&environment, &needles).is_empty(),
            "{}",
            String::from_utf8_lossy(&environment)
        );
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert_eq!(finds(&line, &needles), Vec::<String>::new());
    }
    for (pid, line) in vmms(data) {
        assert_eq!(memory(pid, &needles), Vec::<String>::new(), "{line}");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert_eq!(
            String::from_utf8_lossy(&environment),
            "",
            "a VMM inherits no environment"
        );
    }
    let report = sim.wait(&mut worker, BOUND);
    report.assert_ok(&worker);
    assert!(worker.stop(Duration::from_secs(30)).success());

    // Session disks, snapshots with their memory, run folders, the database.
    let mut all = Vec::new();
    files(data, &mut all);
    let mut with_content = Vec::new();
    for path in all.iter().filter(|p| !p.starts_with(data.join("images"))) {
        let file = File::open(path).expect("a file of ours");
        let length = file.metadata().expect("its size").len();
        assert_eq!(
            search(&file, 0, length, &needles),
            Vec::<String>::new(),
            "{}",
            path.display()
        );
        if !search(&file, 0, length, &[CONTENT.to_owned()]).is_empty() {
            with_content.push(path.clone());
        }
    }
    assert!(
        !with_content.is_empty() && with_content.iter().all(|p| p.starts_with(data.join("sessions"))),
        "a tool's content is on the session's disk and nowhere else: {with_content:?}"
    );

    let log = worker.log();
    assert!(log.contains("DEBUG"), "{log}");
    let mut hidden = needles;
    hidden.extend([CONTENT, "secret-in-", "note.txt", "/proc/cmdline"].map(str::to_owned));
    for line in log.lines() {
        assert_eq!(finds(line.as_bytes(), &hidden), Vec::<String>::new(), "{line}");
    }
    assert_eq!(leftovers(data), Vec::<String>::new());
}

#[test]
fn no_key_is_in_any_child_guest_disk_or_log_in_mode_call() {
    secrets("call");
}

#[test]
fn no_key_is_in_any_child_guest_disk_or_log_in_mode_session() {
    secrets("session");
}
