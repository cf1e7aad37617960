//! A process of a call, with its pipes: an exec, a worker, or what syncs the disk behind a tool.
//!
//! ```text
//!   input   host -> queue (one window at most) -> pipe      granted to the host as the pipe takes it
//!   output  pipe -> host                                    read only while the host has granted room
//!   error   likewise (exec)
//!   result  pipe -> memory, at most MAX_REPLY               (worker) the encoded reply
//! ```
//!
//! The call ends when the process has been reaped and its pipes have been read: to their end, or, where somebody who was
//! left behind holds them open, as far as they were filled when the process ended, and a moment longer.

use omnirun_guest_proto::{
    frame::Channel,
    guest::GuestEnd,
    limits::{DATA_WINDOW, MAX_REPLY},
    message::{ErrorKind, Exited, Outcome, Reply, ToolResult},
};
use omnirun_sys::guest::{
    spawn::Child,
    wait::{self, Exit},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal},
};
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use crate::reply::{Failure, complaint, outcome};

/// How long a pipe that others hold open is listened to after the process is gone.
const GRACE: Duration = Duration::from_millis(200);
/// Read from a pipe at once.
const PIECE: usize = 32 * 1024;

/// Waits until a child has ended; whether it did in time. For what is short, or killed: the loop stands still meanwhile.
pub(crate) fn ends_within(child: &Child, limit: Duration) -> bool {
    let timeout = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, timeout.as_ref()), Ok(n) if n > 0)
}

/// What the process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Exec,
    Worker,
    /// A worker that runs a tool; whether the call's end is the end of every process, and syncs the disk.
    Tool {
        finish: bool,
        sync: bool,
    },
}

/// A pipe that we read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) fd: OwnedFd,
    /// Bytes that were in it when the process ended and have not been read.
    tail: u64,
}

impl Source {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, tail: 0 }
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) call: u32,
    pub(crate) purpose: Purpose,
    pub(crate) child: Child,
    pub(crate) exit: Option<Exit>,
    pub(crate) input: Option<OwnedFd>,
    queue: Vec<u8>,
    input_ended: bool,
    pub(crate) output: Option<Source>,
    pub(crate) error: Option<Source>,
    pub(crate) result: Option<OwnedFd>,
    result_bytes: Vec<u8>,
    deadline: Option<Instant>,
    grace: Option<Instant>,
    timed_out: bool,
    cancelled: bool,
}

impl Process {
    pub(crate) fn new(call: u32, purpose: Purpose, child: Child, timeout_ms: u64) -> Self {
        let started = Instant::now();
        Self {
            call,
            purpose,
            child,
            exit: None,
            input: None,
            queue: Vec::new(),
            input_ended: false,
            output: None,
            error: None,
            result: None,
            result_bytes: Vec::new(),
            deadline: (timeout_ms > 0)
                .then(|| started.checked_add(Duration::from_millis(timeout_ms)))
                .flatten(),
            grace: None,
            timed_out: false,
            cancelled: false,
        }
    }

    /// When something has to be done though nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.exit {
            None => self.deadline,
            Some(_) => self.grace,
        }
    }

    /// Signals the process group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match Pid::from_raw(self.child.pid) {
            Some(pid) if self.exit.is_none() => rustix::process::kill_process_group(pid, signal),
            _ => Err(Errno::SRCH),
        }
    }

    pub(crate) fn kill(&self) {
        // A worker leads no group. (Its pidfd is of it alone, whoever has its number by now.)
        let _ = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if self.purpose == Purpose::Exec {
            let _ = self.signal(Signal::KILL);
        }
    }

    pub(crate) fn cancel(&mut self) {
        self.cancelled = true;
        self.kill();
    }

    pub(crate) fn push_input(&mut self, bytes: &[u8], end: &mut GuestEnd) {
        if self.input.is_none() {
            // Nobody reads it: the host need not wait.
            end.grant(self.call, bytes.len());
            return;
        }
        debug_assert!(self.queue.len() + bytes.len() <= DATA_WINDOW as usize);
        self.queue.extend_from_slice(bytes);
        self.write_input(end);
    }

    pub(crate) fn end_input(&mut self) {
        self.input_ended = true;
        if self.queue.is_empty() {
            self.input = None;
        }
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        self.input.is_some() && !self.queue.is_empty()
    }

    /// Writes what the pipe takes.
    pub(crate) fn write_input(&mut self, end: &mut GuestEnd) {
        let Some(fd) = &self.input else { return };
        let mut done = 0;
        while done < self.queue.len() {
            match rustix::io::write(fd, &self.queue[done..]) {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody reads any more.
                Err(_) => {
                    done = self.queue.len();
                    self.input_ended = true;
                }
            }
        }
        self.queue.drain(..done);
        end.grant(self.call, done);
        if self.queue.is_empty() && self.input_ended {
            self.input = None;
        }
    }

    /// Reads a channel once, if the host has room.
    pub(crate) fn read_channel(&mut self, channel: Channel, end: &mut GuestEnd, buffer: &mut [u8]) {
        let source = if channel == Channel::Output {
            &mut self.output
        } else {
            &mut self.error
        };
        let Some(from) = source else { return };
        let room = end.room(self.call, channel).min(buffer.len()).min(PIECE);
        if room == 0 {
            return;
        }
        match rustix::io::read(&from.fd, &mut buffer[..room]) {
            Ok(0) => *source = None,
            Ok(count) => {
                from.tail = from.tail.saturating_sub(count as u64);
                end.send(self.call, channel, &buffer[..count]);
            }
            Err(Errno::AGAIN) => from.tail = 0,
            Err(Errno::INTR) => {}
            Err(_) => *source = None,
        }
    }

    pub(crate) fn read_result(&mut self, buffer: &mut [u8]) {
        let Some(fd) = &self.result else { return };
        match rustix::io::read(fd, &mut *buffer) {
            Ok(count) if count > 0 && self.result_bytes.len() + count <= MAX_REPLY => {
                self.result_bytes.extend_from_slice(&buffer[..count]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Its end, or more than a reply can be.
            _ => self.result = None,
        }
    }

    /// Looks whether the process has ended.
    pub(crate) fn reap(&mut self) {
        if self.exit.is_some() {
            return;
        }
        if let Ok(Some(exit)) = wait::try_wait(self.child.pid) {
            self.exit = Some(exit);
            self.grace = Instant::now().checked_add(GRACE);
            self.input = None;
            for source in [&mut self.output, &mut self.error].into_iter().flatten() {
                source.tail = rustix::io::ioctl_fionread(&source.fd).unwrap_or(0);
            }
        }
    }

    /// Does what is due, and says whether the call is over.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        if self.exit.is_none() {
            if self.deadline.is_some_and(|d| d <= now) {
                self.timed_out = true;
                self.deadline = None;
                self.kill();
            }
            return false;
        }
        if self.grace.is_some_and(|g| g <= now) {
            self.grace = None;
        }
        if self.grace.is_none() {
            // Whoever holds them still will not be heard.
            for source in [&mut self.output, &mut self.error] {
                if source.as_ref().is_some_and(|s| s.tail == 0) {
                    *source = None;
                }
            }
            self.result = None;
        }
        self.output.is_none() && self.error.is_none() && self.result.is_none()
    }

    /// The reply of a call that is over.
    pub(crate) fn reply(&mut self) -> Reply {
        let exit = self.exit.unwrap_or(Exit {
            code: None,
            signal: None,
            user_us: 0,
            system_us: 0,
            max_rss: 0,
        });
        match self.purpose {
            Purpose::Exec => {
                return outcome(Outcome::Exited(Exited {
                    code: exit.code,
                    signal: exit.signal,
                    timed_out: self.timed_out,
                    user_us: exit.user_us,
                    system_us: exit.system_us,
                    max_rss: exit.max_rss,
                }));
            }
            Purpose::Worker | Purpose::Tool { .. } => {}
        }
        let failure = if self.timed_out {
            Failure::new(ErrorKind::Timeout, "it took too long and was ended")
        } else if self.cancelled {
            Failure::new(ErrorKind::Cancelled, "it was cancelled")
        } else {
            let decoded = <Reply as omnirun_guest_proto::Message>::decode(&*self.result_bytes);
            match (exit.code, decoded) {
                (Some(0), Ok(reply)) => return reply,
                (_, _) if exit.signal.is_some() => Failure::new(
                    ErrorKind::Internal,
                    "its process was ended, perhaps for want of memory",
                ),
                _ => Failure::new(ErrorKind::Internal, "its process failed"),
            }
        };
        if self.purpose == Purpose::Worker {
            return failure.into();
        }
        // The model's to see: nothing is wrong with the sandbox.
        outcome(Outcome::Tool(ToolResult {
            timed_out: self.timed_out,
            ..complaint(format!(
                "the tool has no result: {}; check what it did before you repeat it",
                failure.message
            ))
        }))
    }
}
