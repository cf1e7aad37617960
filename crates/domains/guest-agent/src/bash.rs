//! The `bash` tool's processes. What the shell is given and what its answer means is `omnirun_guest_tools::bash`'s.
//!
//! ```text
//!   none --start--> running --done--> none            (saved: a shell for each command, its state in /state/shell)
//!   idle --start--> running --done--> idle            (live: one shell until it ends or is killed)
//! ```

mod stored;

use crate::{
    finish,
    process::ends_within,
    reply::{Failure, complaint},
    sandbox::Sandbox,
    worker,
};
use omnirun_guest_proto::message::{ErrorKind, Tool, ToolResult};
use omnirun_guest_tools::bash::{
    Ending, Launch, LiveShell, Output, Report, SavedCall, ShellConfig, ShellState, StateAfter, restarted,
    time_limit,
};
use omnirun_sys::guest::{
    spawn::{self, Child, Command},
    wait::{self, Exit},
};
use omnirun_tool_schema::ToolInput;
use rustix::{
    io::Errno,
    process::{Pid, Signal},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

enum Shell {
    Live(LiveShell),
    Saved(SavedCall),
}

/// A shell that has been started.
struct Started {
    shell: Shell,
    child: Child,
    /// None: nobody is left who could write to it (after `exec >file 2>&1`). Polled, it would be ready for ever.
    output: Option<OwnedFd>,
}

/// A command that is running.
pub(crate) struct Running {
    /// Whose it is; nobody's once the host has gone (its next connection begins to count anew).
    call: Option<u32>,
    finish: bool,
    sync: bool,
    shell: Started,
    output: Output,
    limit: Duration,
    deadline: Option<Instant>,
    started: Instant,
    exit: Option<Exit>,
    done: Option<i32>,
    killed: Option<Ending>,
}

/// A command that is over.
pub(crate) struct Ended {
    /// Whose it was.
    pub(crate) call: Option<u32>,
    pub(crate) result: ToolResult,
    /// Whether the disk is to be synced before the answer.
    pub(crate) sync: bool,
}

#[derive(Default)]
pub(crate) struct Bash {
    idle: Option<Started>,
    /// What the next live shell starts with.
    state: Option<ShellState>,
    pub(crate) running: Option<Running>,
}

/// What starting came to.
pub(crate) enum Start {
    Running,
    Answer(ToolResult),
}

impl Bash {
    pub(crate) fn start(&mut self, sandbox: &Sandbox, call: u32, tool: &Tool) -> Result<Start, Failure> {
        if self.running.is_some() {
            return Err(Failure::new(
                ErrorKind::Busy,
                "another command is running in this shell",
            ));
        }
        let input = match omnirun_tool_schema::check("bash", &tool.input) {
            Ok(ToolInput::Bash(input)) => input,
            Ok(_) => return Err(Failure::new(ErrorKind::Invalid, "not an input of bash")),
            Err(error) => return Ok(Start::Answer(complaint(error.to_string()))),
        };
        if input.restart {
            self.restart(sandbox, tool.saved_shell);
        }
        let Some(command) = &input.command else {
            return Ok(Start::Answer(if input.restart {
                restarted()
            } else {
                complaint("bash: command is required".to_owned())
            }));
        };
        let started = Instant::now();
        let config = config(sandbox);
        let failed = |e: Errno| Failure::of("cannot start the shell", e);
        let shell = if tool.saved_shell {
            let (launch, saved) =
                SavedCall::launch(&config, stored::load(sandbox).as_ref(), command).map_err(failed)?;
            launch_shell(sandbox, launch, Shell::Saved(saved))?
        } else {
            self.live(sandbox, &config, command)
                .map_err(|e| e.unwrap_or_else(failed))?
        };
        let limit = time_limit(&input, tool.timeout_ms);
        self.running = Some(Running {
            call: Some(call),
            finish: tool.finish,
            sync: tool.finish || tool.sync,
            shell,
            output: Output::default(),
            limit,
            deadline: started.checked_add(limit),
            started,
            exit: None,
            done: None,
            killed: None,
        });
        Ok(Start::Running)
    }

    fn restart(&mut self, sandbox: &Sandbox, saved: bool) {
        self.state = None;
        if let Some(shell) = self.idle.take() {
            end(&shell.child);
        }
        if saved {
            stored::forget(sandbox);
        }
    }

    /// The live shell, with the command begun: the one that is there, or a new one if it has ended meanwhile.
    fn live(
        &mut self,
        sandbox: &Sandbox,
        config: &ShellConfig,
        command: &str,
    ) -> Result<Started, Result<Failure, Errno>> {
        if let Some(mut idle) = self.idle.take() {
            let alive = matches!(wait::try_wait(idle.child.pid), Ok(None));
            if let Shell::Live(shell) = &mut idle.shell
                && alive
                && shell.begin(command).is_ok()
            {
                return Ok(idle);
            }
            end(&idle.child);
            if let Shell::Live(shell) = idle.shell {
                self.state = shell.into_state();
            }
        }
        let (launch, mut shell) = LiveShell::launch(config, self.state.take()).map_err(Err)?;
        shell.begin(command).map_err(Err)?;
        launch_shell(sandbox, launch, Shell::Live(shell)).map_err(Ok)
    }

    /// The host gives a call up.
    pub(crate) fn cancel(&mut self, call: u32) {
        if let Some(running) = self.running.as_mut().filter(|r| r.call == Some(call)) {
            running.kill(Ending::Cancelled);
        }
    }

    /// The host has gone.
    pub(crate) fn abandon(&mut self) {
        if let Some(running) = &mut self.running {
            running.call = None;
            running.kill(Ending::Cancelled);
        }
    }

    /// After anything has happened: the command, when it is over.
    pub(crate) fn progress(&mut self, sandbox: &Sandbox, buffer: &mut [u8]) -> Option<Ended> {
        let running = self.running.as_mut()?;
        if !running.advance(buffer) {
            return None;
        }
        let running = self.running.take()?;
        Some(Ended {
            call: running.call,
            sync: running.sync,
            result: self.conclude(sandbox, running),
        })
    }

    fn conclude(&mut self, sandbox: &Sandbox, mut running: Running) -> ToolResult {
        running.output.finish();
        let ending = match (running.killed, running.exit, running.done) {
            (Some(killed), ..) => killed,
            (None, _, Some(code)) => Ending::Done(code),
            (None, Some(exit), None) => match exit.signal {
                Some(signal) => Ending::Signaled(signal),
                None => Ending::Exited(exit.code.unwrap_or(-1)),
            },
            (None, None, None) => Ending::Exited(-1),
        };
        let by_itself = running.killed.is_none();
        let live = matches!(running.shell.shell, Shell::Live(_));
        let mut state = match &mut running.shell.shell {
            _ if !by_itself => None,
            Shell::Live(shell) => shell.take_state().ok(),
            Shell::Saved(saved) => saved.take_state().ok(),
        };
        // Before anything is written for it.
        let mut ended_processes = if running.finish {
            finish::end_processes(sandbox)
        } else {
            0
        };
        if !by_itself {
            // Those of the command itself, which has been killed: the answer says so.
            ended_processes = 0;
        }
        if let (false, Some(StateAfter::Saved { state: saved, .. })) = (live, &state)
            && stored::store(sandbox, saved).is_err()
        {
            // The disk is full or broken: the state from before stays.
            state = Some(StateAfter::Lost);
        }
        let spill = running
            .output
            .is_cut()
            .then(|| spill(sandbox, &running.output))
            .flatten();
        let mut result = Report {
            output: &running.output,
            ending,
            state: state.as_ref(),
            live,
            ended_processes,
            spill: spill.as_deref(),
        }
        .result();
        if let Shell::Live(shell) = running.shell.shell {
            if running.exit.is_none() && by_itself {
                self.idle = Some(Started {
                    shell: Shell::Live(shell),
                    ..running.shell
                });
            } else {
                self.state = shell.into_state();
            }
        }
        result.elapsed_us = u64::try_from(running.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        result
    }
}

impl Running {
    /// What to poll for reading.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let status = match &self.shell.shell {
            Shell::Live(shell) => shell.status_fd(),
            Shell::Saved(_) => None,
        };
        let output = self.shell.output.as_ref().map(AsFd::as_fd);
        std::iter::once(self.shell.child.pidfd.as_fd())
            .chain(output)
            .chain(status)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn kill(&mut self, why: Ending) {
        if self.killed.is_none() {
            self.killed = Some(why);
            self.deadline = None;
            end_group(&self.shell.child);
        }
    }

    /// Takes what there is; whether the command is over.
    fn advance(&mut self, buffer: &mut [u8]) -> bool {
        if self.deadline.is_some_and(|d| d <= Instant::now()) {
            self.kill(Ending::TimedOut(self.limit));
        }
        // In this order: what was written before the command's end is in the pipe when its end is seen.
        if self.exit.is_none() {
            self.exit = wait::try_wait(self.shell.child.pid).ok().flatten();
        }
        if let Shell::Live(shell) = &mut self.shell.shell
            && self.done.is_none()
        {
            self.done = shell.poll_done().ok().flatten();
        }
        let over = self.exit.is_some() || self.done.is_some();
        // A little more than a pipe holds: who goes on writing behind the command's end is not listened to for ever.
        let most = if over {
            (1 << 20) + buffer.len()
        } else {
            buffer.len()
        };
        let mut taken = 0;
        while let Some(output) = self.shell.output.as_ref().filter(|_| taken < most) {
            match rustix::io::read(output, &mut *buffer) {
                Ok(0) => self.shell.output = None,
                Ok(count) => {
                    taken += count;
                    self.output.push(&buffer[..count]);
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        over
    }
}

fn end_group(child: &Child) {
    if let Some(pid) = Pid::from_raw(child.pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
}

/// Ends a shell and reaps it.
fn end(child: &Child) {
    end_group(child);
    ends_within(child, Duration::from_secs(5));
    let _ = wait::try_wait(child.pid);
}

fn config(sandbox: &Sandbox) -> ShellConfig {
    let env = sandbox.env(sandbox.user(), &[]);
    ShellConfig {
        env: env.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
        workdir: sandbox.cwd().into(),
    }
}

fn launch_shell(sandbox: &Sandbox, launch: Launch, shell: Shell) -> Result<Started, Failure> {
    let fds: Vec<_> = launch
        .fds
        .iter()
        .map(|(fd, number)| (fd.as_fd(), *number))
        .collect();
    let start = |cwd: &std::ffi::CString| {
        spawn::spawn(&Command {
            programs: std::slice::from_ref(&launch.program),
            argv: &launch.argv,
            env: &launch.envp,
            cwd,
            fds: &fds,
            place: sandbox.place(),
            identity: sandbox.skeleton().map(|_| &sandbox.user().identity),
        })
    };
    // The shell says itself that its directory is gone.
    let started = match start(&launch.cwd) {
        Err(error) if error.step == spawn::Step::Cwd => start(&c"/".to_owned()),
        other => other,
    };
    let child = started.map_err(|e| crate::exec::explain(e, &launch.program, &launch.cwd))?;
    Ok(Started {
        shell,
        child,
        output: Some(launch.output),
    })
}

/// Puts the whole output where the sandbox can look into it.
fn spill(sandbox: &Sandbox, output: &Output) -> Option<String> {
    let path = worker::run(sandbox, || {
        omnirun_guest_tools::save_output(output.spill())
            .ok()
            .map(String::into_bytes)
    });
    String::from_utf8(path?).ok()
}
