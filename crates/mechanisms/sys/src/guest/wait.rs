//! How a child ended, and what it used.

use std::io;

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// CPU time in user code, its waited-for children included.
    pub user_us: u64,
    /// CPU time in the kernel, theirs included.
    pub system_us: u64,
    /// Largest resident set, in bytes.
    pub max_rss: u64,
}

/// Reaps a child if it has ended.
///
/// # Errors
/// It is not a child of ours.
pub fn try_wait(pid: i32) -> io::Result<Option<Exit>> {
    wait4(pid, libc::WNOHANG).map(|found| found.map(|(_, exit)| exit))
}

/// Reaps a child of ours, whichever ends next; its id too.
///
/// # Errors
/// There is none.
pub fn wait_any() -> io::Result<(i32, Exit)> {
    loop {
        match wait4(-1, 0) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait4(pid: i32, flags: i32) -> io::Result<Option<(i32, Exit)>> {
    let mut status = 0;
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types.
    let found = unsafe { libc::wait4(pid, &raw mut status, flags, &raw mut usage) };
    if found < 0 {
        return Err(io::Error::last_os_error());
    }
    if found == 0 {
        return Ok(None);
    }
    let micros = |t: libc::timeval| {
        (t.tv_sec as u64)
            .saturating_mul(1_000_000)
            .saturating_add(t.tv_usec as u64)
    };
    let exit = Exit {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss: (usage.ru_maxrss as u64).saturating_mul(1024),
    };
    Ok(Some((found, exit)))
}
