//! Guests that do their worst. The agent of a sandbox that is short of something still answers, a sandbox that is lost
//! is seen at once, and the host pays nothing but what it gave.

use omnirun_e2e::{data, omnirun, run, vmms_of, wait_until};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// A small machine, so that its memory is soon full.
fn sh(script: &str) -> Command {
    omnirun([
        "run",
        "--memory",
        "256M",
        "--disk",
        "256M",
        "--timeout",
        "120",
        "--",
        "sh",
        "-c",
        script,
    ])
}

fn survives(what: &str, script: &str) -> String {
    let begun = Instant::now();
    let (code, out, err) = run(&mut sh(script));
    assert_eq!(code, 0, "{what}: {out} {err}");
    assert!(out.ends_with("alive\n"), "{what}: {out} {err}");
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{what}: {:?}",
        begun.elapsed()
    );
    out
}

/// Largest resident set of a live process, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

fn started(script: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = sh(script).stdout(Stdio::piped()).spawn().expect("omnirun starts");
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, out)
}

#[test]
fn memory_hogs_are_killed_and_the_rest_lives() {
    let out = survives(
        "memory hogs",
        // A small program, a large one (whose own pages the kernel might push out and back in for ever), many at once, and
        // memory that is no process's.
        "tail /dev/zero; echo hog $?
         hog() { python3 -c 'l = []
while True: l.append(bytearray(1 << 20))'; echo hog $?; }
         hog; hog & hog & hog & wait
         dd if=/dev/zero of=/dev/shm/hog bs=1M 2>&1 | grep -c 'No space'; rm /dev/shm/hog
         echo alive",
    );
    assert_eq!(out, "hog 137\n".repeat(5) + "1\nalive\n");
}

#[test]
fn a_full_disk_is_an_error_of_the_command() {
    let out = survives(
        "full disk",
        "dd if=/dev/zero of=/big bs=1M 2>&1 | grep -c 'No space'; rm /big; echo x > /small && cat /small; echo alive",
    );
    assert_eq!(out, "1\nx\nalive\n");
}

#[test]
fn a_fork_bomb_goes_with_its_sandbox() {
    let begun = Instant::now();
    // Bounded by the kernel's own limits on processes; the command itself ends while the bomb goes on.
    let (code, out, err) = run(&mut sh("b() { b | b & }; b 2>/dev/null; echo alive"));
    assert_eq!((code, out.as_str()), (0, "alive\n"), "{err}");
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
    // With the bomb in the foreground, the time limit holds.
    let begun = Instant::now();
    let (code, _, err) = run(&mut omnirun([
        "run",
        "--memory",
        "256M",
        "--timeout",
        "3",
        "--",
        "sh",
        "-c",
        "b() { b | b & }; b 2>/dev/null; while :; do :; done",
    ]));
    assert_eq!(code, 124, "{err}");
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn endless_output_is_streamed_not_held() {
    let bytes = 256u64 << 20;
    let (mut child, mut out) = started(&format!("head -c {bytes} /dev/zero"));
    let mut chunk = vec![0u8; 1 << 20];
    let mut count = 0;
    let mut peak = 0;
    loop {
        let n = out.read(&mut chunk).expect("it can be read");
        if n == 0 {
            break;
        }
        assert!(chunk[..n].iter().all(|b| *b == 0));
        count += n as u64;
        peak = peak.max(peak_kib(child.id()));
    }
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(count, bytes);
    assert!((1..200 << 10).contains(&peak), "{peak} KiB held by omnirun");
}

#[test]
fn a_reader_who_does_not_read_holds_the_guest_not_the_host() {
    let (mut child, mut out) = started("echo ready; exec head -c 1073741824 /dev/zero");
    out.read_line(&mut String::new()).expect("a line");
    // Nobody reads on: what the host holds comes to rest, far below what the guest would like to say.
    let mut last = (0, Instant::now());
    wait_until("memory comes to rest", Duration::from_secs(90), || {
        let now = peak_kib(child.id());
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(2)
    });
    assert!(last.0 < 200 << 10, "{} KiB", last.0);
    drop(out);
    assert_eq!(child.wait().expect("it ends").code(), Some(141));
}

#[test]
fn closed_standard_streams_are_no_reason_to_hang() {
    assert_eq!(
        survives("closed", "sh -c 'exec <&- >&- 2>&-; true'; echo alive"),
        "alive\n"
    );
    let begun = Instant::now();
    let (code, out, _) = run(&mut sh("exec <&- >&- 2>&-; exit 5"));
    assert_eq!((code, out.as_str()), (5, ""));
    // A child that keeps the output open does not keep the command.
    let (code, out, err) = run(&mut sh("setsid sleep 600 & echo alive"));
    assert_eq!((code, out.as_str()), (0, "alive\n"), "{err}");
    let (code, out, err) = run(&mut sh(
        "(setsid sh -c 'trap \"\" TERM INT HUP; cd /; exec sleep 600' </dev/null >/dev/null 2>&1 &) ; echo alive",
    ));
    assert_eq!((code, out.as_str()), (0, "alive\n"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
}

#[test]
fn killing_all_there_is_kills_neither_the_agent_nor_the_answer() {
    // Everything that this shell can see, but for itself. Its name space's init is beyond its reach.
    let (code, out, err) = run(&mut sh("sleep 600 & kill -9 -1; echo alive"));
    assert_eq!((code, out.as_str()), (0, "alive\n"), "{err}");
    let (code, _, err) = run(&mut sh("kill -9 1; kill -9 $$"));
    assert_eq!(code, 137, "{err}");
}

#[test]
fn a_kernel_panic_is_seen_at_once_and_shown() {
    let (mut child, mut out) = started("echo ready; echo c > /proc/sysrq-trigger; sleep 600");
    out.read_line(&mut String::new()).expect("a line");
    let begun = Instant::now();
    assert_eq!(child.wait().expect("it ends").code(), Some(125));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let (code, out, err) = run(&mut sh("echo alive"));
    assert_eq!((code, out.as_str()), (0, "alive\n"), "{err}");
}

#[test]
fn a_vmm_that_is_killed_is_seen_at_once() {
    let (mut child, mut out) = started("echo ready; sleep 600");
    out.read_line(&mut String::new()).expect("a line");
    let parent = child.id();
    let is_ours = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        after.split(' ').nth(1) == Some(&parent.to_string())
    };
    let vmm = vmms_of(data())
        .into_iter()
        .find(is_ours)
        .expect("a VMM of this omnirun");
    let vmm = rustix::process::Pid::from_raw(i32::try_from(vmm).expect("a pid")).expect("a pid");
    let begun = Instant::now();
    rustix::process::kill_process(vmm, rustix::process::Signal::KILL).expect("it lives");
    assert_eq!(child.wait().expect("it ends").code(), Some(125));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
