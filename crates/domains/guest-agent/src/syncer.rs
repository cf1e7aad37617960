//! Syncing the session disk, in a process that was made for it before the snapshot.
//!
//! ```text
//!   PID 1 --- a byte ---> syncer: syncfs --- what the kernel said ---> PID 1
//! ```
//!
//! A slow disk must not keep PID 1 from its other calls, and no call shall pay for a fork. The syncer is made before the
//! sandbox's namespaces are, so that nobody in them sees it, and lives as long as PID 1. It answers in the order in which
//! it was asked, so an answer needs no number. It opens the disk when it is first asked, and keeps that descriptor: the
//! kernel tells each one once of a write that failed since the last time.

use crate::reply::{Failure, done, outcome};
use omnirun_guest_proto::message::{ErrorKind, Outcome, Reply, ToolResult};
use omnirun_sys::guest::{
    own,
    spawn::{self, Namespaces},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair},
    stdio::stdin,
};
use std::{
    collections::VecDeque,
    ffi::CString,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long an answer waits for the disk. What the host hears then is that the disk is not synced.
const PATIENCE: Duration = Duration::from_secs(30);

/// A call whose answer waits for the disk.
struct Waiting {
    /// None: nobody's any more, but the syncer's answer for it is still to come.
    call: Option<u32>,
    /// A tool's, or none of a plain request.
    result: Option<ToolResult>,
    deadline: Instant,
}

pub(crate) struct Syncer {
    socket: OwnedFd,
    waiting: VecDeque<Waiting>,
}

impl Syncer {
    /// Makes the process. `disk` is a path for PID 1 of what is to be synced; it may come to be there later.
    pub(crate) fn start(disk: &str) -> io::Result<Self> {
        let disk = CString::new(disk)?;
        let (socket, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        if spawn::fork(Namespaces::Ours, None)?.is_none() {
            own::exit_now(i32::from(serve(&disk, &theirs).is_err()));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            waiting: VecDeque::with_capacity(8),
        })
    }

    /// Syncs, and answers the call then. What has become of a tool's `result` is its `synced`.
    pub(crate) fn answer_after(&mut self, call: u32, result: Option<ToolResult>) -> Result<(), Reply> {
        match send(&self.socket, &[1], SendFlags::NOSIGNAL) {
            Ok(_) => {
                self.waiting.push_back(Waiting {
                    call: Some(call),
                    result,
                    deadline: Instant::now() + PATIENCE,
                });
                Ok(())
            }
            Err(errno) => Err(answer(result, Err(unsynced(errno)))),
        }
    }

    /// What to poll for reading.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.waiting.is_empty()).then(|| self.socket.as_fd())
    }

    /// When something has to be done though nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let waited_for = self.waiting.iter().filter(|w| w.call.is_some());
        waited_for.map(|w| w.deadline).min()
    }

    /// The answers that are due, with their calls.
    pub(crate) fn progress(&mut self, now: Instant) -> Vec<(u32, Reply)> {
        let mut due = Vec::new();
        while !self.waiting.is_empty() {
            let mut said = [0; 4];
            let synced = match rustix::io::read(&self.socket, &mut said) {
                Ok(4) => match i32::from_ne_bytes(said) {
                    0 => Ok(()),
                    errno => Err(unsynced(Errno::from_raw_os_error(errno))),
                },
                Err(Errno::AGAIN | Errno::INTR) => break,
                // It has ended.
                Ok(_) | Err(_) => Err(unsynced(Errno::PIPE)),
            };
            if let Some(Waiting {
                call: Some(call),
                result,
                ..
            }) = self.waiting.pop_front()
            {
                due.push((call, answer(result, synced)));
            }
        }
        for waiting in &mut self.waiting {
            if waiting.deadline <= now
                && let Some(call) = waiting.call.take()
            {
                let late = Failure::new(ErrorKind::Timeout, "the session disk takes too long");
                due.push((call, answer(waiting.result.take(), Err(late))));
            }
        }
        due
    }

    /// The host is gone, and its calls.
    pub(crate) fn abandon(&mut self) {
        for waiting in &mut self.waiting {
            waiting.call = None;
            waiting.result = None;
        }
    }
}

fn unsynced(errno: Errno) -> Failure {
    Failure::of("cannot sync the session disk", errno)
}

fn answer(result: Option<ToolResult>, synced: Result<(), Failure>) -> Reply {
    match (result, synced) {
        (Some(result), synced) => outcome(Outcome::Tool(ToolResult {
            synced: synced.is_ok(),
            ..result
        })),
        (None, Ok(())) => done(),
        (None, Err(failure)) => failure.into(),
    }
}

/// In that process: nothing is left there but the socket, as its stdin.
fn serve(disk: &CString, socket: &OwnedFd) -> io::Result<()> {
    // A kernel out of memory has others to choose from. Only PID 1 may say so, and a test need not.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    rustix::stdio::dup2_stdin(socket)?;
    own::close_from(1)?;
    own::give_up_capabilities()?;
    let mut opened: Option<OwnedFd> = None;
    while rustix::io::read(stdin(), &mut [0; 1])? == 1 {
        let synced = match &opened {
            Some(fd) => rustix::fs::syncfs(fd),
            None => rustix::fs::open(
                disk.as_c_str(),
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .and_then(|fd| {
                let synced = rustix::fs::syncfs(&fd);
                opened = Some(fd);
                synced
            }),
        };
        let said = synced.err().map_or(0, Errno::raw_os_error);
        rustix::io::write(stdin(), &said.to_ne_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A syncer that answers when the test says so.
    fn silent() -> (Syncer, OwnedFd) {
        let (socket, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let waiting = VecDeque::new();
        (Syncer { socket, waiting }, theirs)
    }

    fn result() -> ToolResult {
        ToolResult {
            elapsed_us: 7,
            ..ToolResult::default()
        }
    }

    fn tool(synced: bool) -> Reply {
        outcome(Outcome::Tool(ToolResult { synced, ..result() }))
    }

    fn say(to: &OwnedFd, errno: i32) {
        rustix::io::write(to, &errno.to_ne_bytes()).unwrap();
    }

    #[test]
    fn answers_come_in_order_and_a_late_one_hits_nobody_else() {
        let (mut syncer, disk) = silent();
        syncer.answer_after(1, Some(result())).unwrap();
        let late = Instant::now() + PATIENCE;
        assert!(syncer.progress(Instant::now()).is_empty() && syncer.next_deadline().is_some());
        assert_eq!(syncer.progress(late), [(1, tool(false))], "the disk is stuck");
        assert!(syncer.next_deadline().is_none() && syncer.poll_fd().is_some());
        syncer.answer_after(2, Some(result())).unwrap();
        syncer.answer_after(3, Some(result())).unwrap();
        for errno in [0, 0, Errno::IO.raw_os_error()] {
            say(&disk, errno);
        }
        assert_eq!(
            syncer.progress(Instant::now()),
            [(2, tool(true)), (3, tool(false))]
        );
        assert!(syncer.poll_fd().is_none());
    }

    #[test]
    fn what_a_host_that_went_away_had_asked_for_is_nobodys() {
        let (mut syncer, disk) = silent();
        syncer.answer_after(1, Some(result())).unwrap();
        syncer.abandon();
        // Calls are counted anew.
        syncer.answer_after(1, None).unwrap();
        say(&disk, 0);
        assert!(syncer.progress(Instant::now()).is_empty());
        say(&disk, 0);
        assert_eq!(syncer.progress(Instant::now()), [(1, done())]);
    }

    #[test]
    fn one_that_has_ended_leaves_nobody_waiting() {
        let (mut syncer, disk) = silent();
        syncer.answer_after(1, Some(result())).unwrap();
        drop(disk);
        assert_eq!(syncer.progress(Instant::now()), [(1, tool(false))]);
        assert_eq!(syncer.answer_after(2, Some(result())), Err(tool(false)));
    }
}
