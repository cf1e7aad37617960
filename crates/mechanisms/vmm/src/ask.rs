//! Asking a program for its version. Bounded in time and size: it may be any program.

use crate::VmmError;
use omnirun_sys::host::spawn::{SpawnError, Spawned};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};
use std::{
    fs,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

/// How long a program may take to say its version: milliseconds, on a machine under load seconds.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);
/// More than that is no version.
const MAX_SAID: usize = 64 * 1024;

/// What a program says on its standard output and error until it ends well. `spawn` starts it with the descriptors that
/// it is given; `what` is what it should be, for people.
pub(crate) fn said(
    program: &Path,
    what: &'static str,
    spawn: impl FnOnce(&[BorrowedFd<'_>]) -> Result<Spawned, SpawnError>,
) -> Result<String, VmmError> {
    let failed = |source| VmmError::Spawn {
        program: program.display().to_string(),
        source,
    };
    let null = fs::File::open("/dev/null").map_err(failed)?;
    let (read, write) = io::pipe().map_err(failed)?;
    let spawned = spawn(&[null.as_fd(), write.as_fd(), write.as_fd()]).map_err(|e| failed(e.source))?;
    drop(write);
    let deadline = Instant::now() + ANSWER;
    let mut said = Vec::new();
    let in_time = read_all(&read, &mut said, deadline).map_err(failed)? && ready(&spawned.pidfd, deadline);
    if !in_time {
        let _ = pidfd_send_signal(&spawned.pidfd, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED)
        .ok()
        .flatten();
    let said = String::from_utf8_lossy(&said).into_owned();
    let how = match status.as_ref().map(|s| (s.exit_status(), s.terminating_signal())) {
        Some((Some(0), _)) => return Ok(said),
        _ if !in_time => "does not end".to_owned(),
        Some((Some(code), _)) => format!("exits with code {code}"),
        Some((_, Some(signal))) => format!("is ended by signal {signal}"),
        _ => "ends in an unknown way".to_owned(),
    };
    let words = match excerpt(&said) {
        words if words.is_empty() => "says nothing".to_owned(),
        words => format!("says {words:?}"),
    };
    Err(VmmError::Unusable {
        program: program.display().to_string(),
        what,
        reason: format!("asked for its version, it {words} and {how}"),
    })
}

/// The first words of what a program said, for people.
pub(crate) fn excerpt(said: &str) -> String {
    first_line(said, 200)
}

/// The first line of what a program said, for people, and no more of it than so many characters.
pub(crate) fn first_line(said: &str, most: usize) -> String {
    let line = said.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// Reads a pipe to its end; `false` if that did not come in time, or after too much.
fn read_all(pipe: &io::PipeReader, into: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    let mut pipe = pipe;
    let mut chunk = [0u8; 4096];
    while into.len() < MAX_SAID && ready(pipe, deadline) {
        match pipe.read(&mut chunk)? {
            0 => return Ok(true),
            n => into.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(false)
}

/// Waits until a descriptor can be read from (a pidfd: until its process has ended); `false` if the time is over.
fn ready(fd: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|n| n > 0),
        }
    }
}
