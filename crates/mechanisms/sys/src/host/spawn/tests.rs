use super::*;
use std::{io::Read, os::fd::AsFd};

/// What a process writes until it ends. It is reaped then.
fn said(spawned: &Spawned, mut read: io::PipeReader) -> String {
    let mut out = String::new();
    read.read_to_string(&mut out).expect("the pipe is read");
    let id = rustix::process::WaitId::PidFd(spawned.pidfd.as_fd());
    rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).expect("it is waited for");
    out
}

fn sh(script: &str, change: impl Fn(&mut Spawn<'_>)) -> Result<String, SpawnError> {
    let (read, write) = io::pipe().expect("a pipe");
    let null = std::fs::File::open("/dev/null").expect("the null device");
    let args: Vec<_> = ["sh", "-c", script]
        .iter()
        .map(|a| CString::new(*a).expect("no NUL"))
        .collect();
    let fds = [null.as_fd(), write.as_fd(), write.as_fd()];
    let mut what = Spawn {
        program: c"/bin/sh",
        args: &args,
        fds: &fds,
        limits: &[],
        oom_score_adj: None,
        user_namespace: None,
        network_namespace: None,
        unshare: 0,
        mounts: &[],
        cgroup: None,
        credentials: None,
        landlock: None,
    };
    change(&mut what);
    let spawned = spawn(&what)?;
    drop(write);
    Ok(said(&spawned, read))
}

#[test]
fn hands_over_only_what_is_named() {
    // A descriptor that a careless exec would hand on.
    let (leaky, _other) = io::pipe().expect("a pipe");
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).expect("the flag is cleared");
    let out = sh(
        "for n in $(seq 0 99); do [ -e /proc/$$/fd/$n ] && echo $n; done; wc -c < /proc/$$/environ",
        |_| {},
    );
    let out = out.expect("it starts");
    // 10 is where this shell keeps a redirected descriptor meanwhile.
    let lines: Vec<_> = out.lines().filter(|l| *l != "10").collect();
    assert_eq!(
        lines,
        ["0", "1", "2", "0"],
        "descriptors 0 to 2 and an empty environment"
    );
}

#[test]
fn takes_a_session_limits_and_scores() {
    let out = sh("ulimit -c; cat /proc/$$/oom_score_adj; grep -E NoNewPrivs /proc/$$/status; cut -d' ' -f6 /proc/$$/stat; echo $$", |w| {
        w.limits = &[(libc::RLIMIT_CORE, 0, 0)];
        w.oom_score_adj = Some("700");
    })
    .expect("it starts");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["0", "700", "NoNewPrivs:\t1"]);
    assert_eq!(lines[3], lines[4], "its session is its own");
}

#[test]
fn an_identity_changes_the_child_and_not_us() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let before = rustix::process::dumpable_behavior().expect("ours");
    let who = Credentials {
        uid: 4242,
        gid: 4243,
        groups: Some(vec![]),
    };
    let out = sh("id -u; id -g; id -G; grep CapEff /proc/$$/status", |w| {
        w.credentials = Some(who.clone())
    });
    assert_eq!(
        out.expect("it starts"),
        "4242\n4243\n4243\nCapEff:\t0000000000000000\n"
    );
    assert_eq!(rustix::process::dumpable_behavior().expect("ours"), before);
    assert!(rustix::process::geteuid().is_root());
}

#[test]
fn says_which_step_failed() {
    let error = sh("true", |w| w.program = c"/nonexistent").expect_err("there is no such program");
    assert_eq!(error.step, "running the program");
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn is_in_the_network_namespace_that_is_named_and_the_caller_is_not() {
    use crate::host::net;
    let here = net::namespace().expect("ours");
    let there = match net::in_new_namespace(net::namespace) {
        Ok(there) => there,
        Err(error) => return eprintln!("nothing tested: no namespace can be had: {error}"),
    };
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("it is open").st_ino;
    let (read, write) = io::pipe().expect("a pipe");
    let args = [c"readlink".to_owned(), c"/proc/self/ns/net".to_owned()];
    let spawned = spawn(&Spawn {
        program: c"/usr/bin/readlink",
        args: &args,
        fds: &[write.as_fd(), write.as_fd(), write.as_fd()],
        limits: &[],
        oom_score_adj: None,
        user_namespace: None,
        network_namespace: Some(there.as_fd()),
        unshare: 0,
        mounts: &[],
        cgroup: None,
        credentials: None,
        landlock: None,
    });
    drop(write);
    let out = said(&spawned.expect("it starts"), read);
    assert_eq!(out.trim(), format!("net:[{}]", inode(&there)));
    assert_eq!(inode(&net::namespace().expect("ours")), inode(&here));
}

#[test]
fn is_the_first_of_a_pid_namespace_and_has_mounts_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = std::env::temp_dir().join(format!("omnirun-spawn-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a folder");
    let (from, to) = (dir.join("from"), dir.join("to"));
    std::fs::write(&from, "words").expect("written");
    std::fs::write(&to, "").expect("written");
    let file = std::fs::File::open(&from).expect("opened");
    let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE
        | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC
        | rustix::mount::OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&file, c"", flags).expect("a mount");
    let at = CString::new(to.to_string_lossy().into_owned()).expect("no NUL");
    let script = format!("echo $$; cat {0}; echo x > {0} || echo no", to.display());
    let mounts = [Mount {
        tree: tree.as_fd(),
        at: &at,
        runs: false,
    }];
    let (read, write) = io::pipe().expect("a pipe");
    let null = std::fs::File::open("/dev/null").expect("the null device");
    let args = [
        c"sh".to_owned(),
        c"-c".to_owned(),
        CString::new(script).expect("no NUL"),
    ];
    let spawned = spawn(&Spawn {
        program: c"/bin/sh",
        args: &args,
        fds: &[null.as_fd(), write.as_fd(), write.as_fd()],
        limits: &[],
        oom_score_adj: None,
        user_namespace: None,
        network_namespace: None,
        unshare: NEW_PID,
        mounts: &mounts,
        cgroup: None,
        credentials: None,
        landlock: None,
    });
    let spawned = spawned.expect("it starts");
    drop(write);
    let out = said(&spawned, read);
    assert!(out.starts_with("1\nwords") && out.ends_with("no\n"), "{out}");
    assert_eq!(std::fs::read_to_string(&to).expect("read"), "", "not on the host");
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn is_in_its_control_group_before_it_runs() {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("our mounts");
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == "cgroup2").then(|| std::path::PathBuf::from(at))
    });
    let name = format!("omnirun-spawn-{}", std::process::id());
    let group = root.map(|root| root.join(&name));
    let Some(group) = group.filter(|group| std::fs::create_dir(group).is_ok()) else {
        eprintln!("SKIPPED: no control group can be made here");
        return;
    };
    let folder = std::fs::File::open(&group).expect("opened");
    let (cat, null) = (
        [c"cat".to_owned(), c"/proc/self/cgroup".to_owned()],
        std::fs::File::open("/dev/null").expect("the null device"),
    );
    let begin = |cgroup: BorrowedFd<'_>, born_in| {
        let (read, write) = io::pipe().expect("a pipe");
        let what = Spawn {
            program: c"/bin/cat",
            args: &cat,
            fds: &[null.as_fd(), write.as_fd(), write.as_fd()],
            limits: &[],
            oom_score_adj: None,
            user_namespace: None,
            network_namespace: None,
            unshare: NEW_PID,
            mounts: &[],
            cgroup: Some(cgroup),
            credentials: None,
            landlock: None,
        };
        let spawned = start(&what, born_in);
        drop(write);
        spawned.map(|spawned| said(&spawned, read))
    };
    let seen = [true, false].map(|born_in| begin(folder.as_fd(), born_in));
    // What is no group is said to be none, whichever way was tried.
    let no_group = [true, false].map(|born_in| begin(null.as_fd(), born_in));
    std::fs::remove_dir(&group).expect("nothing is in it");
    for seen in seen {
        let seen = seen.expect("it starts");
        assert!(seen.lines().any(|l| l == format!("0::/{name}")), "{seen}");
    }
    for error in no_group {
        assert_eq!(error.expect_err("no group").step, "joining the control group");
    }
}
