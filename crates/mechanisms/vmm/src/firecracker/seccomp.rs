//! Whether a Firecracker process filters its system calls.
//!
//! A release has its filters built in. A build for the gnu target has one that lets everything through: the kernel then
//! says of its threads what it says of filtered ones, so such a build is told by its C library, and counts as unfiltered
//! unless a compiled filter is passed to it. (A debug build for musl has the same and is not told from a release.) That a
//! filter is there at all is looked at: the thread that serves the API takes it on before it answers, and the kernel says
//! of every thread whether it has one.

use std::{fs, io};

/// The thread that serves the API.
const API_THREAD: &str = "fc_api";

/// Whether the API's thread has a filter. To be asked once the API has answered.
pub(super) fn is_on(pid: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread may end meanwhile.
        let Ok(name) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        if name.trim_end() == API_THREAD {
            return Ok(filters(&fs::read_to_string(task.join("status"))?));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("process {pid} has no thread {API_THREAD}"),
    ))
}

/// Whether a thread's status shows a filter.
fn filters(status: &str) -> bool {
    const FILTER: &str = "2";
    status
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").map(str::trim) == Some(FILTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_filter_counts() {
        assert!(filters("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!filters("Seccomp:\t0\nSeccomp_filters:\t2\n"));
        assert!(!filters(""));
    }

    #[test]
    fn a_process_without_that_thread_is_none() {
        assert!(is_on(std::process::id()).is_err());
    }
}
