//! The loop: one thread, one `poll`.

use crate::{
    bash::{Bash, Start},
    boot::Machine,
    claim, exec, files, finish,
    port::{Port, Received},
    process::{Process, Purpose},
    reply::{Failure, done, outcome},
    sandbox::Sandbox,
    tar_stream, wake, warm,
    worker::{self, Streams},
};
use omnirun_guest_proto::{
    frame::Channel,
    guest::{GuestEnd, GuestEvent},
    message::{Claimed, ErrorKind, Op, Outcome, Pong, Reply, Request, Signal, Tool},
};
use omnirun_guest_tools::{Root, RootConfig};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::time::Instant;

/// While so much waits to be written, no pipe is read.
const BACKLOG: usize = 256 * 1024;
/// Read at once, from the channel and from pipes.
const BUFFER: usize = 64 * 1024;

/// How far a clone has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Asleep,
    Awake,
    Claimed,
    /// A claim failed half-way: nothing runs any more.
    Broken,
}

pub(crate) struct Agent {
    machine: Option<Machine>,
    sandbox: Sandbox,
    port: Port,
    end: GuestEnd,
    stage: Stage,
    processes: Vec<Process>,
    /// Killed, of calls that nobody waits for.
    dying: Vec<Process>,
    bash: Bash,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Port,
    Bash,
    Dying,
    /// The sandbox's init has ended.
    Init,
    Process(usize),
}

impl Agent {
    pub(crate) fn new(machine: Machine, sandbox: Sandbox, port: Port) -> Self {
        Self::with(Some(machine), sandbox, port, Stage::Asleep)
    }

    #[cfg(test)]
    pub(crate) fn on_host(sandbox: Sandbox, port: Port) -> Self {
        Self::with(None, sandbox, port, Stage::Claimed)
    }

    fn with(machine: Option<Machine>, sandbox: Sandbox, port: Port, stage: Stage) -> Self {
        Self {
            machine,
            sandbox,
            port,
            end: GuestEnd::default(),
            stage,
            processes: Vec::with_capacity(8),
            dying: Vec::new(),
            bash: Bash::default(),
            buffer: vec![0; BUFFER],
        }
    }

    /// Serves until the sandbox's init has ended, which ends everything.
    pub(crate) fn serve(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    eprintln!("omnirun-guest: cannot wait: {error}");
                    return;
                }
            };
            for token in ready {
                match token {
                    Token::Port => {
                        if !self.read_port() {
                            return;
                        }
                    }
                    Token::Process(at) => self.serve_process(at),
                    Token::Bash => {}
                    Token::Dying => self.reap_dying(),
                    // Everything in the sandbox has ended with it; so do we, and the VM.
                    Token::Init => return,
                }
            }
            self.progress();
            self.port.write(&mut self.end.out);
        }
    }

    fn wait(&self) -> Result<Vec<Token>, Errno> {
        let mut fds = Vec::with_capacity(8);
        let mut tokens = Vec::with_capacity(8);
        let mut events = PollFlags::IN;
        if !self.end.out.is_empty() {
            events |= PollFlags::OUT;
        }
        fds.push(PollFd::from_borrowed_fd(self.port.poll_fd(), events));
        tokens.push(Token::Port);
        if let Some(skeleton) = self.sandbox.skeleton() {
            fds.push(PollFd::new(&skeleton.init.pidfd, PollFlags::IN));
            tokens.push(Token::Init);
        }
        let room = self.end.out.len() < BACKLOG;
        for (at, process) in self.processes.iter().enumerate() {
            let token = Token::Process(at);
            if process.exit.is_none() {
                fds.push(PollFd::new(&process.child.pidfd, PollFlags::IN));
                tokens.push(token);
            }
            for (source, channel) in [
                (&process.output, Channel::Output),
                (&process.error, Channel::Error),
            ] {
                if let Some(source) = source
                    .as_ref()
                    .filter(|_| room && self.end.room(process.call, channel) > 0)
                {
                    fds.push(PollFd::new(&source.fd, PollFlags::IN));
                    tokens.push(token);
                }
            }
            if let Some(result) = &process.result {
                fds.push(PollFd::new(result, PollFlags::IN));
                tokens.push(token);
            }
            if let Some(input) = process.input.as_ref().filter(|_| process.wants_to_write()) {
                fds.push(PollFd::new(input, PollFlags::OUT));
                tokens.push(token);
            }
        }
        for process in &self.dying {
            fds.push(PollFd::new(&process.child.pidfd, PollFlags::IN));
            tokens.push(Token::Dying);
        }
        if let Some(running) = &self.bash.running {
            for fd in running.fds() {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                tokens.push(Token::Bash);
            }
        }
        let deadlines = self.processes.iter().filter_map(Process::next_deadline);
        let deadline = deadlines
            .chain(self.bash.running.iter().filter_map(|r| r.deadline()))
            .min();
        let timeout = deadline.map(|d| {
            let left = d.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        poll(&mut fds, timeout.as_ref())?;
        let ready = fds.iter().zip(tokens).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, token)| token).collect())
    }

    /// `false`: the stream has ended for good.
    fn read_port(&mut self) -> bool {
        let was_connected = self.port.is_connected();
        // A large transfer must not keep the loop from everything else.
        for _ in 0..16 {
            match self.port.read(&mut self.buffer) {
                Received::Bytes(count) => {
                    self.end.push(&self.buffer[..count]);
                    while let Some(event) = self.end.next() {
                        self.handle(event);
                    }
                }
                Received::Nothing => break,
                Received::Gone => {
                    if was_connected || self.end.is_connected() {
                        self.drop_calls();
                        self.end.disconnect();
                    }
                    return !self.port.ends_for_good();
                }
            }
            if self.end.out.len() >= BACKLOG {
                break;
            }
        }
        true
    }

    fn handle(&mut self, event: GuestEvent) {
        match event {
            GuestEvent::Connected | GuestEvent::Lost => self.drop_calls(),
            GuestEvent::Request(call, request) => {
                if let Err(failure) = self.dispatch(call, request) {
                    self.end.reply(call, &failure.into());
                }
            }
            GuestEvent::Unreadable(call) => {
                self.end.reply(
                    call,
                    &Failure::new(ErrorKind::Invalid, "not a request that is known here").into(),
                );
            }
            GuestEvent::Data(call, bytes) => match self.processes.iter_mut().find(|p| p.call == call) {
                Some(process) => process.push_input(&bytes, &mut self.end),
                None => self.end.grant(call, bytes.len()),
            },
            GuestEvent::Eof(call) => {
                if let Some(process) = self.processes.iter_mut().find(|p| p.call == call) {
                    process.end_input();
                }
            }
            GuestEvent::Cancel(call) => {
                if let Some(process) = self.processes.iter_mut().find(|p| p.call == call) {
                    process.cancel();
                } else {
                    self.bash.cancel(call);
                }
            }
        }
    }

    /// The host is gone: its calls are, the sandbox stays as it is.
    fn drop_calls(&mut self) {
        for process in std::mem::take(&mut self.processes) {
            process.kill();
            if process.exit.is_none() {
                self.dying.push(process);
            }
        }
        self.bash.abandon();
    }

    fn reap_dying(&mut self) {
        self.dying.retain_mut(|process| {
            process.reap();
            process.exit.is_none()
        });
    }

    fn serve_process(&mut self, at: usize) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        process.write_input(&mut self.end);
        if self.end.out.len() < BACKLOG {
            process.read_channel(Channel::Output, &mut self.end, &mut self.buffer);
            process.read_channel(Channel::Error, &mut self.end, &mut self.buffer);
        }
        process.read_result(&mut self.buffer);
        process.reap();
    }

    /// Ends the calls that are over.
    fn progress(&mut self) {
        if !self.processes.is_empty() {
            let now = Instant::now();
            let mut at = 0;
            while at < self.processes.len() {
                if self.processes[at].is_over(now) {
                    let mut process = self.processes.swap_remove(at);
                    let reply = self.conclude(&mut process);
                    self.end.reply(process.call, &reply);
                } else {
                    at += 1;
                }
            }
        }
        if self.bash.running.is_some()
            && let Some((Some(call), result)) = self.bash.progress(&self.sandbox, &mut self.buffer)
        {
            self.end.reply(call, &outcome(Outcome::Tool(result)));
        }
    }

    fn conclude(&self, process: &mut Process) -> Reply {
        let mut reply = process.reply();
        if process.purpose == (Purpose::Tool { finish: true }) {
            let ended = finish::end_processes(&self.sandbox);
            if let Some(Outcome::Tool(result)) = &mut reply.outcome {
                result.ended_processes = ended;
                result.synced = finish::sync(&self.sandbox).is_ok();
            }
        }
        reply
    }

    fn need(&self, stage: Stage) -> Result<(), Failure> {
        match (self.stage, stage) {
            (Stage::Broken, _) => Err(Failure::new(
                ErrorKind::State,
                "a claim of this sandbox has failed",
            )),
            (have, need) if have >= need => Ok(()),
            (Stage::Asleep, _) => Err(Failure::new(ErrorKind::State, "not awake")),
            _ => Err(Failure::new(ErrorKind::State, "not claimed")),
        }
    }

    fn dispatch(&mut self, call: u32, request: Request) -> Result<(), Failure> {
        let Some(op) = request.op else {
            return Err(Failure::new(
                ErrorKind::Invalid,
                "a request for nothing that is known here",
            ));
        };
        let reply = match op {
            Op::Ping(_) => self.pong(),
            Op::Wake(request) => self.wake(&request)?,
            Op::Claim(request) => self.claim(&request)?,
            Op::Warm(_) => {
                if self.stage != Stage::Asleep {
                    return Err(Failure::new(ErrorKind::State, "awake already"));
                }
                warm::warm(&self.sandbox);
                done()
            }
            Op::Shutdown(_) => self.shutdown(),
            other => {
                self.need(Stage::Claimed)?;
                match other {
                    Op::Exec(exec) => {
                        self.processes.push(exec::start(&self.sandbox, call, &exec)?);
                        return Ok(());
                    }
                    Op::Signal(signal) => self.signal(signal)?,
                    Op::Sync(_) => {
                        finish::sync(&self.sandbox)
                            .map_err(|e| Failure::of("cannot sync the session disk", e))?;
                        done()
                    }
                    Op::Tool(tool) => return self.tool(call, &tool),
                    other => return self.file(call, other),
                }
            }
        };
        self.end.reply(call, &reply);
        Ok(())
    }

    fn pong(&self) -> Reply {
        // Reading the boot id draws it: not before the wake.
        let boot_id = if self.stage >= Stage::Awake {
            claim::boot_id()
        } else {
            String::new()
        };
        outcome(Outcome::Pong(Pong {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id,
        }))
    }

    fn wake(&mut self, request: &omnirun_guest_proto::message::Wake) -> Result<Reply, Failure> {
        let Some(machine) = self.machine.as_ref().filter(|_| self.stage == Stage::Asleep) else {
            return Err(Failure::new(ErrorKind::State, "awake already"));
        };
        wake::wake(machine, request)?;
        self.stage = Stage::Awake;
        Ok(done())
    }

    fn claim(&mut self, request: &omnirun_guest_proto::message::Claim) -> Result<Reply, Failure> {
        self.need(Stage::Awake)?;
        let Some(machine) = self.machine.as_ref().filter(|_| self.stage == Stage::Awake) else {
            return Err(Failure::new(ErrorKind::State, "claimed already"));
        };
        match claim::claim(machine, &mut self.sandbox, request) {
            Ok(fresh) => {
                self.stage = Stage::Claimed;
                Ok(outcome(Outcome::Claimed(Claimed { fresh })))
            }
            Err(failure) => {
                self.stage = Stage::Broken;
                Err(failure)
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<Reply, Failure> {
        let number = rustix::process::Signal::from_named_raw(signal.signal)
            .ok_or_else(|| Failure::new(ErrorKind::Invalid, "not a signal"))?;
        let process = self
            .processes
            .iter()
            .find(|p| p.call == signal.call && p.purpose == Purpose::Exec);
        let process = process.ok_or_else(|| Failure::new(ErrorKind::NotFound, "no such process"))?;
        process
            .signal(number)
            .map_err(|e| Failure::of("cannot signal", e))?;
        Ok(done())
    }

    fn shutdown(&mut self) -> Reply {
        self.drop_calls();
        finish::end_processes(&self.sandbox);
        let synced = finish::sync(&self.sandbox);
        if self.machine.is_some() {
            let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
        }
        match synced {
            Ok(()) => done(),
            Err(error) => Failure::of("cannot sync the session disk", error).into(),
        }
    }

    fn tool(&mut self, call: u32, tool: &Tool) -> Result<(), Failure> {
        if tool.name == "bash" {
            if let Start::Answer(mut result) = self.bash.start(&self.sandbox, call, tool)? {
                result.synced = tool.finish && finish::sync(&self.sandbox).is_ok();
                self.end.reply(call, &outcome(Outcome::Tool(result)));
            }
            return Ok(());
        }
        let config = RootConfig {
            workdir: self.sandbox.cwd().into(),
            ..RootConfig::default()
        };
        let purpose = Purpose::Tool { finish: tool.finish };
        let work = || match Root::open(std::path::Path::new("/"), &config) {
            Ok(root) => outcome(Outcome::Tool(omnirun_guest_tools::run_file_tool(
                &root,
                &tool.name,
                &tool.input,
            ))),
            Err(error) => Failure::of(self.sandbox.cwd(), error).into(),
        };
        let process = worker::start(&self.sandbox, call, purpose, tool.timeout_ms, Streams::NONE, work)?;
        self.processes.push(process);
        Ok(())
    }

    fn file(&mut self, call: u32, op: Op) -> Result<(), Failure> {
        let streams = match &op {
            Op::FileRead(_) | Op::TarOut(_) => Streams::OUTPUT,
            Op::FileWrite(_) | Op::TarIn(_) => Streams::INPUT,
            _ => Streams::NONE,
        };
        let work = || {
            files::answer(match &op {
                Op::FileRead(request) => files::read(request),
                Op::FileWrite(request) => files::write(request),
                Op::FileStat(request) => files::stat(&request.path),
                Op::FileList(request) => files::list(&request.path),
                Op::FileMkdir(request) => files::mkdir(request),
                Op::FileRename(request) => files::rename(request),
                Op::FileRemove(request) => files::remove(request),
                Op::TarIn(request) => tar_stream::unpack(&request.path),
                Op::TarOut(request) => tar_stream::pack(&request.path),
                _ => Err(Failure::new(ErrorKind::Invalid, "not an operation on files")),
            })
        };
        let process = worker::start(&self.sandbox, call, Purpose::Worker, 0, streams, work)?;
        self.processes.push(process);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
