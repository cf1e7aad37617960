//! What the kernel tells of a process, a line for each thing.

use super::*;
use std::collections::BTreeMap;

/// All of it.
pub(super) fn all(pid: u32) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    files(pid, &mut seen);
    mounts(pid, &mut seen);
    descriptors(pid, &mut seen);
    network(pid, &mut seen);
    identity(pid, &mut seen);
    threads(pid, &mut seen);
    limits(pid, &mut seen);
    groups(pid, &mut seen);
    seen
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).expect("/proc has it")
}

fn link(pid: u32, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/{name}")).expect("/proc has it");
    link.to_string_lossy().into_owned()
}

fn uid(pid: u32) -> u32 {
    let uids = status(pid, "", "Uid");
    uids.split_whitespace()
        .next()
        .and_then(|u| u.parse().ok())
        .expect("a number")
}

/// Every file that a path within its root can lead to.
fn files(pid: u32, seen: &mut BTreeSet<String>) {
    let (root, uid) = (PathBuf::from(format!("/proc/{pid}/root/")), uid(pid));
    let mut left = vec![root.clone()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let kind = meta.file_type();
        if kind.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .expect("a folder of the jail")
                    .flatten()
                    .map(|e| e.path()),
            );
        }
        let letter = match kind {
            k if k.is_dir() => 'd',
            k if k.is_socket() => 's',
            k if k.is_fifo() => 'p',
            k if k.is_char_device() => 'c',
            k if k.is_file() => 'f',
            _ => '?',
        };
        let owner = match (meta.uid(), meta.gid()) {
            (0, 0) => "root".to_owned(),
            (u, g) if u == uid && g == uid => "vm".to_owned(),
            (u, g) => format!("{u}:{g}"),
        };
        // A socket's and a copy's mode is what the umask leaves of it.
        let umask = u32::from_str_radix(&status(std::process::id(), "", "Umask"), 8).expect("octal");
        let mut mode = meta.mode() & 0o7777;
        if umask & 0o022 != 0o022 && (letter == 's' || path.ends_with("firecracker")) {
            mode &= !0o022;
        }
        let name = path.strip_prefix(&root).expect("inside").display();
        seen.insert(format!("file {letter} {mode:04o} {owner} {name}"));
    }
}

fn mounts(pid: u32, seen: &mut BTreeSet<String>) {
    for line in read(pid, "mountinfo").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let options = fields[5].split(',').filter(|o| !o.ends_with("atime"));
        seen.insert(format!(
            "mount {} {}",
            fields[4],
            options.collect::<Vec<_>>().join(",")
        ));
        // What is not propagated reaches nobody else.
        assert_eq!(fields[6], "-", "{line}");
    }
}

fn descriptors(pid: u32, seen: &mut BTreeSet<String>) {
    let mut counts = BTreeMap::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .flatten()
    {
        let fd = fd.file_name().to_string_lossy().into_owned();
        let to = link(pid, &format!("fd/{fd}"));
        let info = read(pid, &format!("fdinfo/{fd}"));
        let flags = info
            .lines()
            .find_map(|l| l.strip_prefix("flags:"))
            .expect("flags")
            .trim();
        let access = match u32::from_str_radix(flags, 8).expect("octal") & 3 {
            0 => "r",
            1 => "w",
            _ => "rw",
        };
        let to = match to.split_once(":[") {
            // Without its number.
            Some((kind @ ("pipe" | "socket"), _)) => format!("{kind}:"),
            // It was born with this one, in the host's namespace.
            None if to.ends_with("/root/log") => "the log".to_owned(),
            _ => to,
        };
        *counts.entry(format!("open {access} {to}")).or_insert(0) += 1;
    }
    for (what, count) in counts {
        let counted = what.ends_with(':');
        seen.insert(if counted { format!("{what} {count}") } else { what });
    }
}

/// The interfaces of its network namespace, and its sockets: those in the jail, and no others.
fn network(pid: u32, seen: &mut BTreeSet<String>) {
    let interfaces = read(pid, "net/dev");
    // One that is up has an address, or takes part in multicast. Without IPv6 there is no such file.
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let (multicast, addresses) = (file("igmp"), file("if_inet6"));
    for line in interfaces.lines().skip(2) {
        let name = line.split(':').next().unwrap_or_default().trim();
        let has = |text: &str| text.split_whitespace().any(|word| word == name);
        let state = if has(&multicast) || has(&addresses) {
            "up"
        } else {
            "down"
        };
        seen.insert(format!("interface {name}, {state}"));
    }
    for file in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        // The kernel's own have no process.
        let of_a_process = |l: &&str| file != "netlink" || l.split_whitespace().nth(2) != Some("0");
        seen.extend(
            text.lines()
                .skip(1)
                .filter(of_a_process)
                .map(|l| format!("socket {file} {l}")),
        );
    }
    for line in read(pid, "net/unix").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = if fields[3] == "00010000" {
            "listens"
        } else {
            fields[3]
        };
        seen.insert(format!(
            "socket {listens} {}",
            fields.get(7).unwrap_or(&"unnamed")
        ));
    }
}

fn identity(pid: u32, seen: &mut BTreeSet<String>) {
    let uid = uid(pid).to_string();
    for field in ["Uid", "Gid", "Groups"] {
        let words: Vec<_> = status(pid, "", field)
            .split_whitespace()
            .map(|word| {
                if word == uid {
                    "vm".to_owned()
                } else {
                    word.to_owned()
                }
            })
            .collect();
        seen.insert(format!("identity {field} {}", words.join(" ")));
    }
    let first = ["NSpid", "NSsid"]
        .iter()
        .all(|field| status(pid, "", field).ends_with("\t1"));
    if first {
        seen.insert("identity first of its pid namespace, and of a session".to_owned());
    }
    for name in fs::read_dir(format!("/proc/{pid}/ns"))
        .expect("its namespaces")
        .flatten()
    {
        let name = name.file_name().to_string_lossy().into_owned();
        let own = link(pid, &format!("ns/{name}")) != link(std::process::id(), &format!("ns/{name}"));
        seen.insert(format!(
            "namespace {name} {}",
            if own { "its own" } else { "the host's" }
        ));
    }
    for name in ["cwd", "exe", "root"] {
        seen.insert(format!("place {name} {}", link(pid, name)));
    }
    let environment = read(pid, "environ");
    seen.extend(
        environment
            .split_terminator('\0')
            .map(|e| format!("environment {e}")),
    );
    seen.insert(format!("oom_score_adj {}", read(pid, "oom_score_adj").trim()));
}

/// No thread has a capability, can gain one, or makes system calls unfiltered. (The bounding set is the owner's: it is of no
/// use to one that has no new privileges.)
fn threads(pid: u32, seen: &mut BTreeSet<String>) {
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .expect("its threads")
        .flatten()
    {
        let task = format!("task/{}", task.file_name().to_string_lossy());
        let fields = [
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ];
        let odd = fields
            .iter()
            .filter(|(field, good)| status(pid, &task, field) != *good);
        let odd: Vec<_> = odd.map(|(field, _)| format!(", odd {field}")).collect();
        seen.insert(format!("thread {}{}", status(pid, &task, "Name"), odd.concat()));
    }
}

/// Those that are not the owner's own.
fn limits(pid: u32, seen: &mut BTreeSet<String>) {
    let (theirs, ours) = (read(pid, "limits"), read(std::process::id(), "limits"));
    for (theirs, ours) in theirs.lines().zip(ours.lines()).skip(1) {
        let (name, values) = theirs.split_at(26);
        let words = |text: &str| text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let always = ["Max core file size", "Max open files"].contains(&name.trim());
        if always || words(values) != words(&ours[26..]) {
            seen.insert(format!("limit {} {}", name.trim(), words(values)));
        }
    }
}

/// The group in the unified hierarchy; and that it has a limit for each controller that is there.
fn groups(pid: u32, seen: &mut BTreeSet<String>) {
    let text = read(pid, "cgroup");
    let Some(path) = text.lines().find_map(|l| l.strip_prefix("0::")) else {
        return;
    };
    if !path.starts_with("/omnirun/") {
        return;
    }
    seen.insert(format!("cgroup {path}"));
    let folder = hierarchies()
        .into_iter()
        .map(|root| root.join(path.trim_start_matches('/')))
        .find(|folder| folder.is_dir())
        .expect("a group has a folder");
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).expect("its controllers");
    for controller in controllers.split_whitespace() {
        let (file, good) = match controller {
            "memory" => ("memory.swap.max", "0"),
            "cpu" => ("cpu.max", "200000 100000"),
            "pids" => ("pids.max", "17"),
            _ => continue,
        };
        match fs::read_to_string(folder.join(file)) {
            Ok(limit) => assert_eq!(limit.trim(), good, "{file}"),
            // A kernel without swap accounting.
            Err(e) => assert!(file == "memory.swap.max", "{file}: {e}"),
        }
        if controller == "memory" {
            let limit = fs::read_to_string(folder.join("memory.max")).expect("memory.max");
            let limit: u64 = limit.trim().parse().expect("there is one");
            assert!(limit < (tiny::SIZE.memory_mib + 256) << 20, "{limit}");
        }
    }
}
