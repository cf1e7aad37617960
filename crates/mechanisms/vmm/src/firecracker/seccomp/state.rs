//! Whether a process filters its system calls. The kernel says of every thread whether it has a filter, not which: also of
//! one that lets everything through.

use std::{fs, io};

/// The thread that serves the API.
const API_THREAD: &str = "fc_api";

/// Whether the API's thread has a filter: it takes it on before it answers, so this is to be asked once it has.
pub(in crate::firecracker) fn is_on(pid: u32) -> io::Result<bool> {
    for thread in threads(pid)? {
        let (name, filtered) = thread?;
        if name == API_THREAD {
            return Ok(filtered);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("process {pid} has no thread {API_THREAD}"),
    ))
}

/// A thread without a filter, by its name, if there is one. The last threads take theirs on just before the machine is
/// there. Of a process that has ended none is left.
pub(in crate::firecracker) fn unfiltered(pid: u32) -> io::Result<Option<String>> {
    let threads = match threads(pid) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        threads => threads?,
    };
    for thread in threads {
        let (name, filtered) = thread?;
        if !filtered {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The threads of a process: their names, and whether they have a filter.
fn threads(pid: u32) -> io::Result<impl Iterator<Item = io::Result<(String, bool)>>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(tasks.filter_map(|task| {
        let read = task.and_then(|task| fs::read_to_string(task.path().join("status")));
        match read {
            Ok(status) => Some(Ok((
                field(&status, "Name").to_owned(),
                field(&status, "Seccomp") == FILTER,
            ))),
            // A thread may end meanwhile.
            Err(e) if gone(&e) => None,
            Err(e) => Some(Err(e)),
        }
    }))
}

/// The kernel's word for a filter.
const FILTER: &str = "2";

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.map(str::trim).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_filter_counts() {
        let filters = |status| field(status, "Seccomp") == FILTER;
        assert!(filters("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!filters("Seccomp:\t0\nSeccomp_filters:\t2\n"));
        assert!(!filters(""));
    }

    #[test]
    fn a_thread_without_one_is_named_and_a_process_without_the_apis_is_none() {
        let me = std::process::id();
        assert!(is_on(me).is_err());
        // Not in a container that filters all that runs in it.
        if fs::read_to_string("/proc/self/status").is_ok_and(|s| field(&s, "Seccomp") == "0") {
            assert!(unfiltered(me).expect("read").is_some());
        }
        assert_eq!(unfiltered(u32::MAX).expect("nobody"), None);
    }
}
