//! Processes of this host, for tests that end them.

use std::fs;

/// SIGKILL, if it is still there.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Whether it is there, and the words of its command line hold this one.
pub fn lives(pid: u32, word: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).any(|arg| arg == word.as_bytes())
}

/// Children of a process with this word on their command line.
pub fn children(parent: u32, word: &str) -> Vec<u32> {
    let mut pids = all();
    pids.retain(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let is_child = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        is_child && lives(*pid, word)
    });
    pids
}

/// All of them.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
