//! The live shell of isolation mode `session`.

use super::{
    Launch, ShellConfig, ShellState, StateAfter,
    fds::{SharedFile, out_of_the_way},
    launch::{BOOT_LINE, LIVE_LINE, pipe_to_us, prepare},
    state,
};
use rustix::{io::Errno, pipe::PipeFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The agent's end of a live shell.
#[derive(Debug)]
pub struct LiveShell {
    control: OwnedFd,
    status: Option<OwnedFd>,
    command: SharedFile,
    state: SharedFile,
    config: ShellConfig,
    /// What this shell's state was before the running command.
    before: Option<ShellState>,
    nonce: String,
    received: Vec<u8>,
}

/// Longest status line that we wait for: a nonce and a number. More is not ours.
const MAX_STATUS: usize = 4096;
/// Reads of the status pipe before other work has its turn. More than a pipe holds.
const MAX_READS: usize = 512;

impl LiveShell {
    /// Prepares a shell that starts with the given state (none: a new one).
    pub fn launch(config: &ShellConfig, state: Option<ShellState>) -> Result<(Launch, Self), Errno> {
        let (stdin, control) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (status, status_write) = pipe_to_us()?;
        let control = out_of_the_way(control)?;
        // Nobody who does not read may hold us up. What we write at a time is far less than a pipe holds.
        rustix::io::ioctl_fionbio(&control, true)?;
        let mut parts = prepare(config, state.as_ref(), out_of_the_way(stdin)?)?;
        parts.launch.fds.push((status_write, 63));
        write_line(&control, BOOT_LINE)?;
        let shell = Self {
            control,
            status: Some(status),
            command: parts.command,
            state: parts.state,
            config: config.clone(),
            before: state,
            nonce: String::new(),
            received: Vec::new(),
        };
        Ok((parts.launch, shell))
    }

    /// Starts a command. An error means that the shell is gone (or stuck): end it and launch the next one with
    /// [`LiveShell::into_state`].
    pub fn begin(&mut self, command: &str) -> Result<(), Errno> {
        self.nonce = state::nonce()?;
        self.received.clear();
        self.state.rewind()?;
        self.command
            .fill(&[self.nonce.as_bytes(), b"\n", command.as_bytes()])?;
        write_line(&self.control, LIVE_LINE)
    }

    /// Becomes readable when there may be news for [`Self::poll_done`]. None: nobody is left who could write there.
    pub fn status_fd(&self) -> Option<BorrowedFd<'_>> {
        self.status.as_ref().map(AsFd::as_fd)
    }

    /// Whether the command is done, and its exit code. Never blocks. All that its foreground processes wrote is in the
    /// output pipe by then. (A shell that ends does not say so here; the agent sees its process exit.)
    pub fn poll_done(&mut self) -> Result<Option<i32>, Errno> {
        let mut buffer = [0; 256];
        // A process of the sandbox may write here too, faster than we read.
        for _ in 0..MAX_READS {
            let Some(status) = &self.status else { break };
            match rustix::io::read(status, &mut buffer) {
                Ok(0) => self.status = None,
                Err(Errno::AGAIN) => break,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            let excess = self.received.len().saturating_sub(MAX_STATUS);
            self.received.drain(..excess);
            if let Some(code) = self.code() {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// The exit code behind this command's nonce, wherever that stands.
    fn code(&self) -> Option<i32> {
        let at = memchr::memmem::find(&self.received, self.nonce.as_bytes())?;
        let line = self.received.get(at + self.nonce.len() + 1..)?;
        let end = line.iter().position(|byte| *byte == b'\n')?;
        std::str::from_utf8(&line[..end]).ok()?.parse().ok()
    }

    /// What the command left as state: call it once when it is done or its shell has exited. It becomes what
    /// [`Self::into_state`] returns.
    pub fn take_state(&mut self) -> Result<StateAfter, Errno> {
        let after = state::read(&self.state.written()?, &self.nonce, &self.config);
        if let StateAfter::Saved { state, .. } = &after {
            self.before = Some(state.clone());
        }
        Ok(after)
    }

    /// The state for the next shell when this one is over: that after the last command that was brought to an end.
    pub fn into_state(self) -> Option<ShellState> {
        self.before
    }
}

fn write_line(control: &OwnedFd, line: &str) -> Result<(), Errno> {
    // Shorter than PIPE_BUF: written whole or not at all.
    rustix::io::write(control, line.as_bytes()).map(drop)
}
