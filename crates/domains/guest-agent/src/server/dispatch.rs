//! What a request asks for, and whether it may be done now.

use super::{Agent, Stage};
use crate::{
    bash::Start,
    claim, exec, files, finish,
    process::Purpose,
    reply::{Failure, done, outcome},
    tar_stream, wake, warm,
    worker::{self, Streams},
};
use omnirun_guest_proto::message::{Claimed, ErrorKind, Op, Outcome, Pong, Reply, Request, Signal, Tool};
use omnirun_guest_tools::{Root, RootConfig};

impl Agent {
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

    pub(super) fn dispatch(&mut self, call: u32, request: Request) -> Result<(), Failure> {
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
                        self.sync(call, None);
                        return Ok(());
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
        match (&self.machine, self.stage) {
            (Some(machine), Stage::Asleep) => {
                wake::wake(machine, request)?;
                self.stage = Stage::Awake;
            }
            (Some(machine), Stage::Claimed) if request.hostname.is_empty() => wake::again(machine, request)?,
            _ => return Err(Failure::new(ErrorKind::State, "awake already")),
        }
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
            if let Start::Answer(result) = self.bash.start(&self.sandbox, call, tool)? {
                self.answer(call, result, tool.finish || tool.sync);
            }
            return Ok(());
        }
        let config = RootConfig {
            workdir: self.sandbox.cwd().into(),
            ..RootConfig::default()
        };
        let purpose = Purpose::Tool {
            finish: tool.finish,
            sync: tool.finish || tool.sync,
        };
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
