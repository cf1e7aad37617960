//! `omnirun worker`

use crate::Global;
use std::process::ExitCode;

/// Serve an environment's sessions, polling Anthropic's work queue.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
