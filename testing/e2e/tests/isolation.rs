//! Clones of one snapshot share nothing they could tell, and nothing that root does in one outlives it.

use omnirun_e2e::{data, footprint_of, omnirun, omnirun_in, private_data, run};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

/// What a clone is asked: a name and what prints the answer. The clock is the last, so that its answer is fresh.
const QUESTIONS: [(&str, &str); 7] = [
    ("urandom", "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'"),
    ("uuid", "uuidgen"),
    ("kernel uuid", "cat /proc/sys/kernel/random/uuid"),
    ("boot_id", "cat /proc/sys/kernel/random/boot_id"),
    ("machine-id", "cat /etc/machine-id"),
    ("hostname", "hostname"),
    (
        "python's random",
        "python3 -c 'import random; print(random.getrandbits(128))'",
    ),
];

fn since_epoch() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970")
        .as_secs_f64()
}

/// Both at the same moment, before either is waited for.
fn two(script: &str) -> Vec<Child> {
    (0..2)
        .map(|_| {
            omnirun(["run", "--", "sh", "-c", script])
                .stdout(Stdio::piped())
                .spawn()
                .expect("omnirun starts")
        })
        .collect()
}

fn answers(child: Child) -> Vec<String> {
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success());
    omnirun_e2e::text(&out.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn clones_differ_in_all_that_is_random_or_a_name() {
    let script: String = QUESTIONS
        .iter()
        .map(|(_, ask)| format!("{ask} | tail -1; echo; "))
        .collect();
    let outs: Vec<Vec<String>> = two(&script)
        .into_iter()
        .map(|c| answers(c).into_iter().filter(|l| !l.is_empty()).collect())
        .collect();
    for (n, (what, _)) in QUESTIONS.iter().enumerate() {
        assert!(outs[0][n].len() >= 8, "{what}: {outs:?}");
        assert_ne!(outs[0][n], outs[1][n], "{what}");
    }
}

#[test]
fn clones_lay_their_processes_out_differently() {
    let script = "for i in 1 2 3; do cat /proc/self/maps; echo; done";
    let layouts: Vec<Vec<BTreeMap<String, String>>> = two(script)
        .into_iter()
        .map(|child| {
            let lines = answers(child);
            lines
                .split(String::is_empty)
                .filter(|p| !p.is_empty())
                .map(|process| {
                    // The first mapping of each file, with its address.
                    let mut first = BTreeMap::new();
                    for line in process {
                        let (address, name) = line.split_at(line.find('-').expect("a range"));
                        if let Some(file) = name.split_whitespace().nth(5) {
                            first.entry(file.to_owned()).or_insert_with(|| address.to_owned());
                        }
                    }
                    first
                })
                .collect()
        })
        .collect();
    assert!(layouts.iter().all(|of_clone| of_clone.len() == 3));
    for (process, (a, b)) in layouts[0].iter().zip(&layouts[1]).enumerate() {
        for name in ["[stack]", "[heap]", "[vdso]"] {
            assert_ne!(a[name], b[name], "{name} of process {process}");
        }
        let library = a.keys().find(|k| k.contains("libc.so")).expect("a C library");
        assert_ne!(a[library], b[library], "{library} of process {process}");
    }
}

#[test]
fn the_clock_is_the_hosts() {
    // Under emulation on a loaded host a process takes its time to start; the guest's clock was read between two of ours
    // if the guest says it and waits, so we look at our own right when the line arrives.
    let mut child = omnirun([
        "run",
        "--stdin",
        "--",
        "python3",
        "-uc",
        "import sys,time\nfor l in sys.stdin: print(time.time(), flush=True)",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .expect("omnirun starts");
    let mut ask = child.stdin.take().expect("a pipe");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut best = f64::MAX;
    for _ in 0..20 {
        let before = since_epoch();
        std::io::Write::write_all(&mut ask, b"?\n").expect("it listens");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
        let after = since_epoch();
        let guest: f64 = line.trim().parse().expect("a time");
        // Negative inside the interval: how far it is outside is what we know for certain.
        best = best.min((before - guest).max(guest - after).max(0.0));
    }
    drop(ask);
    assert!(child.wait().expect("it ends").success());
    assert!(best < 0.1, "the guest's clock is {best} s off");
}

#[test]
fn no_file_of_one_is_in_the_other() {
    let places = [
        "/planted",
        "/tmp/planted",
        "/workspace/planted",
        "/dev/shm/planted",
        "/etc/planted",
        "/var/tmp/planted",
    ];
    let plant: String = places
        .iter()
        .map(|p| format!("test -e {p} && echo seen {p}; echo x > {p} || echo cannot {p}; "))
        .collect();
    // The first stays alive with its files while the second looks.
    let mut holder = omnirun([
        "run",
        "--stdin",
        "--",
        "sh",
        "-c",
        &format!("{plant} echo ready; cat"),
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .expect("omnirun starts");
    let mut out = BufReader::new(holder.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let (code, seen, err) = run(&mut omnirun(["run", "--", "sh", "-c", &plant]));
    assert_eq!((code, seen.as_str()), (0, ""), "{err}");
    drop(holder.stdin.take());
    assert!(holder.wait().expect("it ends").success());
    // And once it has gone, a third finds nothing either.
    let (code, seen, err) = run(&mut omnirun(["run", "--", "sh", "-c", &plant]));
    assert_eq!((code, seen.as_str()), (0, ""), "{err}");
}

/// What is in every file under these folders, by where in it: a disk that is all holes takes no time.
fn contents(mut folders: Vec<PathBuf>) -> BTreeMap<PathBuf, Vec<(u64, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is there").flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => drop(files.insert(entry.path(), data_of(&entry.path()))),
            }
        }
    }
    files
}

fn data_of(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let file = fs::File::open(path).expect("it is there");
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let begin = match seek(&file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return found,
            begin => begin.expect("it can be looked through"),
        };
        at = seek(&file, SeekFrom::Hole(begin)).expect("there is one at its end");
        let mut bytes = vec![0; usize::try_from(at - begin).expect("it fits")];
        file.read_exact_at(&mut bytes, begin).expect("read");
        found.push((begin, bytes));
    }
}

/// What a root bent on harm does. mknod is refused; a devtmpfs of its own has the raw nodes all the same, because the VM
/// is the boundary, not the container in it.
const VANDAL: &str = r#"
mknod /tmp/vda b 254 0 2>/dev/null && echo "mknod works"
mkdir -p /tmp/d && mount -t devtmpfs none /tmp/d || echo "no devtmpfs"
for disk in /sys/block/*; do
    name=${disk##*/}
    echo 0 > $disk/ro 2>/dev/null
    blockdev --setrw /tmp/d/$name 2>/dev/null
    if dd if=/dev/urandom of=/tmp/d/$name bs=64k count=16 conv=fsync,notrunc 2>/dev/null
    then echo "$name written"
    else echo "$name refused"
    fi
done
mount -o remount,rw /proc/1/root 2>/dev/null
for memory in /tmp/d/mem /tmp/d/kmsg /tmp/d/port; do echo vandal 2>/dev/null > $memory; done
for rom in $(find /sys/devices -name rom -o -name 'resource[0-9]*' 2>/dev/null | head -50); do
    head -c 4096 /dev/zero 2>/dev/null > $rom
done
for file in /bin/sh /usr/bin/python3 /etc/passwd /init; do echo vandal > $file.new; mv $file.new $file 2>/dev/null; done
sync
echo done
"#;

#[test]
fn root_in_a_guest_writes_to_its_own_disk_only() {
    let private = private_data();
    let dir = private.path();
    let (code, _, err) = run(&mut omnirun_in(dir, ["run", "--memory", "256M", "--", "true"]));
    assert_eq!(code, 0, "{err}");
    let durable = || contents(vec![dir.join("images"), dir.join("snapshots")]);
    let before = durable();
    assert!(before.len() >= 7, "{:?}", before.keys());

    let (_, out, err) = run(&mut omnirun_in(
        dir,
        ["run", "--memory", "256M", "--", "sh", "-c", VANDAL],
    ));
    assert!(!out.contains("mknod works"), "{out}");
    // So the raw nodes were reached: the session's own disk could be written, the base could not.
    assert!(
        out.contains("vda refused") && out.contains("vdb written"),
        "{out} {err}"
    );
    let after = durable();
    assert!(after.keys().eq(before.keys()), "{:?}", after.keys());
    for (path, data) in &before {
        assert!(after[path] == *data, "{} changed", path.display());
    }

    let (code, out, err) = run(&mut omnirun_in(
        dir,
        [
            "run",
            "--",
            "python3",
            "-c",
            "print(open('/etc/passwd').read()[:5])",
        ],
    ));
    assert_eq!((code, out.as_str()), (0, "root:\n"), "{err}");
    assert_eq!(footprint_of(dir), Vec::<String>::new());
}

#[test]
fn a_restored_clone_does_not_reveal_the_hosts_files() {
    // The names that the VMM opened are the host's; nothing in a guest may carry the data folder's path.
    let name = data().canonicalize().expect("it is there").display().to_string();
    let script = "cat /proc/cmdline /proc/mounts /proc/1/mountinfo /proc/1/environ /proc/1/cmdline 2>/dev/null; \
         find /sys -name serial -exec cat {} + 2>/dev/null; dmesg 2>/dev/null; echo; echo end of it";
    let (code, out, err) = run(&mut omnirun(["run", "--", "sh", "-c", script]));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("end of it") && out.len() > 500, "{out}");
    assert!(!out.contains(&name), "{out}");
}
