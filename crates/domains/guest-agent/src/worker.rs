//! A copy of PID 1 that does one thing in the sandbox, as its user, and ends.
//!
//! It has three descriptors: 0 what comes from the host, 1 what goes there, 2 its reply. All others are closed before it
//! looks at anything of the guest's.

use crate::{
    process::{Process, Purpose, Source, ends_within},
    reply::Failure,
    sandbox::{GIVEN_UP, Sandbox},
};
use omnirun_guest_proto::{
    Message,
    limits::MAX_REPLY,
    message::{ErrorKind, Reply},
};
use omnirun_sys::guest::{
    own,
    spawn::{self, Namespaces},
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// Bytes that the end of a tool's call may add to its reply: what was ended, and whether the disk is synced.
const TO_COME: usize = 64;

/// How long a piece of work may take that the loop waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which streams a piece of work has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) input: bool,
    pub(crate) output: bool,
}

impl Streams {
    pub(crate) const NONE: Self = Self {
        input: false,
        output: false,
    };
    pub(crate) const INPUT: Self = Self {
        input: true,
        output: false,
    };
    pub(crate) const OUTPUT: Self = Self {
        input: false,
        output: true,
    };
}

/// Starts `work`.
pub(crate) fn start(
    sandbox: &Sandbox,
    call: u32,
    purpose: Purpose,
    timeout_ms: u64,
    streams: Streams,
    work: impl FnOnce() -> Reply,
) -> Result<Process, Failure> {
    let failed = |e: std::io::Error| Failure::of("cannot start a helper process", e);
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
    let input = streams.input.then(pipe).transpose()?;
    let output = streams.output.then(pipe).transpose()?;
    let (result, result_write) = pipe()?;
    let theirs = [
        input.as_ref().map_or(sandbox.null(), |(read, _)| read.as_fd()),
        output.as_ref().map_or(sandbox.null(), |(_, write)| write.as_fd()),
        result_write.as_fd(),
    ];
    let Some(child) = spawn::fork(Namespaces::Ours, sandbox.place().cgroup).map_err(failed)? else {
        let code = i32::from(enter(sandbox, theirs).is_none() || report(&work()).is_none());
        own::exit_now(code)
    };
    let ours = |fd: OwnedFd| {
        // Pipes of ours never make PID 1 wait.
        rustix::io::ioctl_fionbio(&fd, true).map(|()| fd)
    };
    let mut process = Process::new(call, purpose, child, timeout_ms);
    process.input = input.and_then(|(_, write)| ours(write).ok());
    process.output = output.and_then(|(read, _)| ours(read).ok()).map(Source::new);
    process.result = ours(result).ok();
    Ok(process)
}

/// Runs `work` in the sandbox and waits for its answer of a few bytes; for what is short and must be done before the next
/// step.
pub(crate) fn run(sandbox: &Sandbox, work: impl FnOnce() -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let null = sandbox.null();
    let (answer, answer_write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    let Some(child) = spawn::fork(Namespaces::Ours, sandbox.place().cgroup).ok()? else {
        let told = enter(sandbox, [null, null, answer_write.as_fd()])
            .and_then(|()| work())
            .and_then(|answer| rustix::io::write(rustix::stdio::stderr(), &answer).ok());
        own::exit_now(i32::from(told.is_none()))
    };
    if !ends_within(&child, PATIENCE) {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
        ends_within(&child, PATIENCE);
    }
    let exit = omnirun_sys::guest::wait::try_wait(child.pid).ok()??;
    let mut bytes = vec![0; 4096];
    let length = rustix::io::read(&answer, &mut bytes)
        .ok()
        .filter(|_| exit.code == Some(0))?;
    bytes.truncate(length);
    Some(bytes)
}

/// In the child: into the sandbox, as its user, with these three descriptors alone.
fn enter(sandbox: &Sandbox, fds: [std::os::fd::BorrowedFd<'_>; 3]) -> Option<()> {
    if let Some(mounts) = sandbox.place().mounts {
        move_into_link_name_space(mounts, Some(LinkNameSpaceType::Mount)).ok()?;
    }
    rustix::stdio::dup2_stdin(fds[0]).ok()?;
    rustix::stdio::dup2_stdout(fds[1]).ok()?;
    rustix::stdio::dup2_stderr(fds[2]).ok()?;
    own::close_from(3).ok()?;
    if sandbox.skeleton().is_some() {
        spawn::become_user(&sandbox.user().identity).ok()?;
    }
    if !sandbox.keeps_capabilities() {
        let mut sets = rustix::thread::capabilities(None).ok()?;
        let given_up = GIVEN_UP
            .into_iter()
            .fold(CapabilitySet::empty(), |all, one| all | one);
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(given_up);
        }
        rustix::thread::set_capabilities(None, sets).ok()?;
    }
    // Gone or forbidden: the work itself will say so, by its paths.
    if rustix::process::chdir(sandbox.cwd()).is_err() {
        rustix::process::chdir("/").ok()?;
    }
    Some(())
}

fn report(reply: &Reply) -> Option<()> {
    let mut bytes = reply.encode_to_vec();
    if bytes.len() > MAX_REPLY - TO_COME {
        bytes = Reply::from(Failure::new(ErrorKind::Internal, "the answer is too long")).encode_to_vec();
    }
    let mut rest = &*bytes;
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}
