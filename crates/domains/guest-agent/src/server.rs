//! The loop: one thread, one `poll`.

mod dispatch;

use crate::{
    bash::Bash,
    finish,
    machine::Machine,
    port::{Port, Received},
    process::{Process, Purpose},
    reply::{Failure, outcome},
    sandbox::Sandbox,
    syncer::Syncer,
};
use omnirun_guest_proto::{
    frame::Channel,
    guest::{GuestEnd, GuestEvent},
    message::{ErrorKind, Outcome, ToolResult},
};
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
    syncer: Syncer,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Port,
    /// The host wants a new connection.
    Caller,
    Bash,
    Syncer,
    Dying,
    /// The sandbox's init has ended.
    Init,
    Process(usize),
}

impl Agent {
    pub(crate) fn new(machine: Machine, sandbox: Sandbox, syncer: Syncer, port: Port) -> Self {
        Self::with(Some(machine), sandbox, syncer, port, Stage::Asleep)
    }

    #[cfg(test)]
    pub(crate) fn on_host(sandbox: Sandbox, port: Port) -> Self {
        let syncer = Syncer::start(sandbox.cwd()).unwrap();
        Self::with(None, sandbox, syncer, port, Stage::Claimed)
    }

    fn with(machine: Option<Machine>, sandbox: Sandbox, syncer: Syncer, port: Port, stage: Stage) -> Self {
        Self {
            machine,
            sandbox,
            port,
            end: GuestEnd::default(),
            stage,
            processes: Vec::with_capacity(8),
            dying: Vec::new(),
            bash: Bash::default(),
            syncer,
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
                    Token::Caller => {
                        if self.port.answer() {
                            self.lose_host();
                        }
                    }
                    Token::Process(at) => self.serve_process(at),
                    Token::Bash | Token::Syncer => {}
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
        if let Some(fd) = self.port.poll_fd() {
            fds.push(PollFd::from_borrowed_fd(fd, events));
            tokens.push(Token::Port);
        }
        let rest = self.port.rests_until();
        if let (Some(fd), None) = (self.port.callers(), rest) {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            tokens.push(Token::Caller);
        }
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
        if let Some(fd) = self.syncer.poll_fd() {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            tokens.push(Token::Syncer);
        }
        let deadlines = self.processes.iter().filter_map(Process::next_deadline);
        let deadline = deadlines
            .chain(self.bash.running.iter().filter_map(|r| r.deadline()))
            .chain(rest)
            .chain(self.syncer.next_deadline())
            .min();
        let timeout =
            deadline.and_then(|d| Timespec::try_from(d.saturating_duration_since(Instant::now())).ok());
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
                        self.lose_host();
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

    /// The connection is gone, and whatever of it was not finished.
    fn lose_host(&mut self) {
        self.drop_calls();
        self.end.disconnect();
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
        self.syncer.abandon();
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
                    let process = self.processes.swap_remove(at);
                    self.conclude(process);
                } else {
                    at += 1;
                }
            }
        }
        if self.bash.running.is_some()
            && let Some(ended) = self.bash.progress(&self.sandbox, &mut self.buffer)
            && let Some(call) = ended.call
        {
            self.answer(call, ended.result, ended.sync);
        }
        for (call, reply) in self.syncer.progress(Instant::now()) {
            self.end.reply(call, &reply);
        }
    }

    fn conclude(&mut self, mut process: Process) {
        let call = process.call;
        let mut reply = process.reply();
        if let Purpose::Tool { finish, sync } = process.purpose {
            let ended = if finish {
                finish::end_processes(&self.sandbox)
            } else {
                0
            };
            if let Some(Outcome::Tool(result)) = &mut reply.outcome {
                result.ended_processes = ended;
                let result = std::mem::take(result);
                return self.answer(call, result, sync);
            }
        }
        self.end.reply(call, &reply);
    }

    /// Answers a tool's call, if need be when what it wrote is on the session disk.
    fn answer(&mut self, call: u32, result: ToolResult, sync: bool) {
        if sync {
            self.sync(call, Some(result));
        } else {
            self.end.reply(call, &outcome(Outcome::Tool(result)));
        }
    }

    fn sync(&mut self, call: u32, result: Option<ToolResult>) {
        if let Err(reply) = self.syncer.answer_after(call, result) {
            self.end.reply(call, &reply);
        }
    }
}

#[cfg(test)]
mod tests;
