//! `omnirun spawn`

use crate::Global;
use std::process::ExitCode;

/// Serve one session that another poller claimed (ant beta:worker poll --on-work).
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
