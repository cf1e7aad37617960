//! Starting a program for the host.

use crate::{
    process::{Process, Purpose, Source},
    reply::Failure,
    sandbox::{self, Sandbox},
};
use omnirun_guest_proto::message::{ErrorKind, Exec};
use omnirun_sys::guest::spawn::{self, Command, SpawnError, Step};
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

pub(crate) fn start(sandbox: &Sandbox, call: u32, exec: &Exec) -> Result<Process, Failure> {
    let user = if exec.user.is_empty() {
        sandbox.user().clone()
    } else {
        sandbox.find_user(&exec.user)?
    };
    let env = sandbox.env(&user, &exec.env);
    let invalid = |_| Failure::new(ErrorKind::Invalid, "a zero byte in an argument");
    let mut argv = Vec::with_capacity(3);
    if exec.shell {
        argv.extend([c"/bin/sh".to_owned(), c"-c".to_owned()]);
    }
    for argument in &exec.argv {
        argv.push(CString::new(argument.as_slice()).map_err(invalid)?);
    }
    let Some(program) = argv
        .first()
        .filter(|p| !p.is_empty() && (!exec.shell || argv.len() == 3))
    else {
        return Err(Failure::new(ErrorKind::Invalid, "not a command"));
    };
    let programs = sandbox::candidates(program.to_bytes(), &env);
    let cwd = match exec.cwd.as_slice() {
        [] => CString::new(sandbox.cwd()),
        [b'/', ..] => CString::new(exec.cwd.as_slice()),
        relative => CString::new([sandbox.cwd().as_bytes(), b"/", relative].concat()),
    }
    .map_err(invalid)?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::of("cannot make a pipe", e));
    let input = exec.stdin.then(pipe).transpose()?;
    let ((output, output_write), (error, error_write)) = (pipe()?, pipe()?);
    let child = spawn::spawn(&Command {
        programs: &programs,
        argv: &argv,
        env: &sandbox::env_strings(&env),
        cwd: &cwd,
        fds: &[
            (input.as_ref().map_or(sandbox.null(), |(read, _)| read.as_fd()), 0),
            (output_write.as_fd(), 1),
            (error_write.as_fd(), 2),
        ],
        place: sandbox.place(),
        identity: sandbox.skeleton().map(|_| &user.identity),
    })
    .map_err(|e| explain(e, program, &cwd))?;
    let ours = |fd: OwnedFd| rustix::io::ioctl_fionbio(&fd, true).map(|()| fd).ok();
    let mut process = Process::new(call, Purpose::Exec, child, exec.timeout_ms);
    process.input = input.and_then(|(_, write)| ours(write));
    process.output = ours(output).map(Source::new);
    process.error = ours(error).map(Source::new);
    Ok(process)
}

pub(crate) fn explain(error: SpawnError, program: &CString, cwd: &CString) -> Failure {
    let program = program.to_string_lossy();
    match error.step {
        Step::Exec => Failure::of(program, error.source),
        Step::Cwd => Failure::of(format!("cannot work in {}", cwd.to_string_lossy()), error.source),
        step => Failure::of(format!("cannot start {program} ({step:?})"), error.source),
    }
}
