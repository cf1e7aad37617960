//! What the agent has to start for a shell.

use super::{
    fds::{SharedFile, out_of_the_way},
    state::ShellState,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::PipeFlags,
};
use std::{
    ffi::{CString, OsStr, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

/// Our functions, in the shell's language.
const DRIVER: &str = include_str!("driver.sh");

/// Takes the boot file into the shell. The first command follows on the same line: bash counts the lines of an `eval`
/// from the line that it stands on, so error messages then name the right one.
pub(super) const BOOT_LINE: &str = "builtin mapfile -u59 __omnirun_a;\
    builtin printf -v __omnirun_c %s \"${__omnirun_a[@]}\";builtin unset -v __omnirun_a;\
    builtin eval \"$__omnirun_c\" 2>&60;exec 59<&-;";

/// Runs the command in a shell that ends with it; its EXIT trap does the rest.
pub(super) const SAVED_LINE: &str = "__omnirun_load;\\builtin eval \"$__omnirun_c\" <&60\n";

/// Runs the command in a shell that stays.
pub(super) const LIVE_LINE: &str =
    "__omnirun_load;\\builtin eval \"$__omnirun_c\" <&60;{ __omnirun_end; } 2>&60\n";

/// What every shell of a sandbox starts with.
#[derive(Debug, Clone, Default)]
pub struct ShellConfig {
    /// The environment of tool processes: the template's and the claim's.
    pub env: Vec<(OsString, OsString)>,
    /// Where a shell begins that has no state, and where it goes when its directory is gone.
    pub workdir: OsString,
}

impl ShellConfig {
    /// The environment that the shell gets: nothing of the worker's own, and a terminal without tricks.
    fn shell_env(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let defaults = [("PS1", ""), ("PS2", ""), ("TERM", "dumb")];
        let missing = defaults
            .into_iter()
            .filter(|(name, _)| !self.env.iter().any(|(have, _)| have == name));
        let own = self
            .env
            .iter()
            .filter(|(name, _)| !name.as_bytes().starts_with(b"ANTHROPIC_"));
        own.map(|(name, value)| (name.as_os_str(), value.as_os_str()))
            .chain(missing.map(|(name, value)| (OsStr::new(name), OsStr::new(value))))
    }
}

/// A process to start: fork, set up the descriptors, `chdir`, `execve`. Nothing else of the agent may stay open in it,
/// signals are at their defaults and unblocked, and it leads a process group (and session) of its own, which is what
/// gets killed on a timeout.
#[derive(Debug)]
pub struct Launch {
    /// The program.
    pub program: CString,
    /// Its arguments, the name first.
    pub argv: Vec<CString>,
    /// Its whole environment, as `NAME=value`.
    pub envp: Vec<CString>,
    /// Where to change to; when that fails, `/` will do (the shell says so itself).
    pub cwd: CString,
    /// Descriptors and the numbers that they get in the child. All sources are 100 or above and close-on-exec, all
    /// targets below 64, so plain `dup2` in any order is right.
    pub fds: Vec<(OwnedFd, i32)>,
    /// The end of the output pipe that is ours, non-blocking. Background processes may hold the other end for ever, so
    /// its end-of-file is not the end of the command: after that, read it empty and no further.
    pub output: OwnedFd,
}

/// The parts of a launch that live and saved shells share.
pub(super) struct Parts {
    pub(super) launch: Launch,
    pub(super) command: SharedFile,
    pub(super) state: SharedFile,
}

/// A pipe whose read end is ours and does not block.
pub(super) fn pipe_to_us() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((out_of_the_way(read)?, out_of_the_way(write)?))
}

/// Builds the launch of a shell whose script is `stdin`.
pub(super) fn prepare(
    config: &ShellConfig,
    state: Option<&ShellState>,
    stdin: OwnedFd,
) -> Result<Parts, Errno> {
    let boot = SharedFile::new("omnirun-boot")?;
    let (before, after) = state.map_or((&[][..], &[][..]), |state| state.scripts());
    let workdir = super::state::quote(config.workdir.as_bytes());
    // Order matters: state first, then our functions (an older release's copies may be in the state), then options
    // such as `posix`, under which our functions could not be defined.
    let start = [b"__omnirun_w=", workdir.as_slice(), b"\n"].concat();
    boot.fill(&[&start, before, b"\n", DRIVER.as_bytes(), b"\n", after, b"\n"])?;
    let command = SharedFile::new("omnirun-command")?;
    let after = SharedFile::with_capacity("omnirun-state", super::state::MAX_RAW as u64)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (output, output_write) = pipe_to_us()?;
    let fds = vec![
        (stdin, 0),
        (out_of_the_way(&output_write)?, 1),
        (output_write, 2),
        (boot.share()?, 59),
        (out_of_the_way(null)?, 60),
        (command.share()?, 61),
        (after.share()?, 62),
    ];
    let launch = Launch {
        program: c"/bin/bash".to_owned(),
        argv: vec![
            c"/bin/bash".to_owned(),
            c"--noprofile".to_owned(),
            c"--norc".to_owned(),
        ],
        envp: config
            .shell_env()
            .filter_map(|(name, value)| env_string(name, value))
            .collect(),
        cwd: CString::new(config.workdir.as_bytes()).unwrap_or_else(|_| c"/".to_owned()),
        fds,
        output,
    };
    Ok(Parts {
        launch,
        command,
        state: after,
    })
}

/// `NAME=value`; nothing for what no environment can hold.
fn env_string(name: &OsStr, value: &OsStr) -> Option<CString> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return None;
    }
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}
