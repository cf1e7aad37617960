//! The `bash` tool, apart from forking: what to start, what to tell it, what its answer means.
//!
//! The agent forks and waits; everything else about the shell is here, so that it can be tested with a `/bin/bash` and
//! no microVM. A call goes like this:
//!
//! ```text
//!   mode `session`                                       mode `call`
//!   LiveShell::launch(config, state) -> (Launch, shell)  SavedCall::launch(config, state, command) -> (Launch, call)
//!   fork + exec Launch, in a process group of its own    the same
//!   shell.begin(command)                                 -
//!   read Launch::output into an Output                   the same
//!   until shell.poll_done() says Some(exit code),        until the process has exited,
//!     or the process exits, or the time limit              or the time limit
//!   shell.take_state()                                   call.take_state()
//!   report(...)                                          report(...)
//! ```
//!
//! # What the shell is given
//!
//! Descriptors, all of them beyond those that people use in scripts ([`Launch::fds`]):
//!
//! | fd | what | why |
//! | -- | -- | -- |
//! | 0 | a pipe (live) or a memory file (saved) with one line per command | the shell's script |
//! | 1, 2 | one pipe | stdout and stderr in the order in which they were written |
//! | 59 | memory file: saved state and our functions | read once, then closed |
//! | 60 | `/dev/null` | stdin of commands; survives `rm /dev/null` |
//! | 61 | memory file: the command | no length limit, no quoting, read in one go |
//! | 62 | memory file, cannot grow | the state after the command |
//! | 63 | pipe (live only) | "done, exit code": apart from stdout, so that output cannot be taken for it |
//!
//! The line on descriptor 0 is constant: load the command into a variable, `eval` it with stdin from 60, say that it is
//! done. `eval` at top level keeps `declare` global and makes syntax errors, unclosed quotes and a bare comment
//! ordinary failures. A shell that reads a pipe does so byte by byte, so the command does not travel there.
//!
//! # State
//!
//! After every command the shell prints its state (builtins only, no fork) into descriptor 62, also when it exits by
//! `exit` or `set -e`: an EXIT trap does it, and a function named `trap` keeps a user's own EXIT trap beside ours.
//! [`state`] turns that print into a script which restores it. A live shell needs this as well: when a command times
//! out or kills its shell, the next shell starts with what the one before the command had.

mod ansi;
mod declare;
mod fds;
mod launch;
mod live;
mod output;
mod report;
mod saved;
pub mod state;

pub use launch::{Launch, ShellConfig};
pub use live::LiveShell;
pub use output::{OUTPUT_LIMIT, Output, SPILL_LIMIT};
pub use report::{Ending, Report, restarted};
pub use saved::SavedCall;
pub use state::{ShellState, StateAfter};

use omnirun_tool_schema::BashInput;
use std::time::Duration;

/// Time limit of a command that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a command may take: what its input says, else [`DEFAULT_TIMEOUT`]; and never longer than the request's own
/// limit (0: none).
pub fn time_limit(input: &BashInput, request_ms: u64) -> Duration {
    let asked = input.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
    if request_ms == 0 {
        asked
    } else {
        asked.min(Duration::from_millis(request_ms))
    }
}

/// What a shell's print becomes, for fuzzing.
#[doc(hidden)]
pub fn fuzz_state(print: &[u8], nonce: &str, config: &ShellConfig) -> StateAfter {
    state::read(print, nonce, config)
}

#[cfg(test)]
mod tests;
