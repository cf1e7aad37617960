//! The six tools of `agent_toolset_20260401`, as they run inside a microVM.
//!
//! ```text
//!   bash   forked by the agent; what to fork and what its answer means: [`bash`]
//!   read, write, edit, glob, grep
//!          [`run_file_tool`], in a helper process with the identity of the template's user, over a [`Root`]
//! ```
//!
//! The texts that a model sees are those of the official Python and Go workers; where the two differ, the better one,
//! and where a model would be stuck, a word more. A tool never fails as a call: whatever goes wrong is a
//! [`ToolResult`] with `is_error` and a sentence in it.
//!
//! # Paths
//!
//! A path is resolved to a canonical one (`.` and `..` lexically, then every symbolic link) that has to lie in a
//! permitted directory, and is then opened by `openat2` with links forbidden. So what was checked is what is opened: a
//! component that was exchanged for a link in between makes the open fail. FIFOs, sockets and devices are looked at
//! through `O_PATH` and never opened.
//!
//! # Bounds
//!
//! Memory by the limits in [`limits`]; time by a deadline ([`limits::FILE_TOOL_TIME`]) that every loop over files or
//! bytes looks at.

mod answer;
pub mod bash;
mod edit;
mod error;
mod glob;
mod grep;
pub mod limits;
mod read;
mod replace;
mod root;
mod spill;
mod write;

pub use root::{Root, RootConfig};
pub use spill::save_output;

use error::ToolError;
use omnirun_guest_proto::message::ToolResult;
use omnirun_tool_schema::ToolInput;
use std::time::Instant;

/// Runs `read`, `write`, `edit`, `glob` or `grep`. `input` is the JSON of the call.
pub fn run_file_tool(root: &Root, name: &str, input: &[u8]) -> ToolResult {
    let started = Instant::now();
    let deadline = started + limits::FILE_TOOL_TIME;
    let result = omnirun_tool_schema::check(name, input)
        .map_err(ToolError::Input)
        .and_then(|input| match input {
            ToolInput::Read(input) => read::run(root, &input, deadline),
            ToolInput::Write(input) => write::run(root, &input),
            ToolInput::Edit(input) => edit::run(root, &input),
            ToolInput::Glob(input) => glob::run(root, &input, deadline),
            ToolInput::Grep(input) => grep::run(root, &input, deadline),
            ToolInput::Bash(_) => Err(ToolError::message("bash is not a file tool")),
        });
    let mut result = result.unwrap_or_else(|error| answer::error(error.to_string()));
    result.elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    result
}

#[cfg(test)]
mod tests;
