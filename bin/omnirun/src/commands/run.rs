//! `omnirun run`

use crate::Global;
use std::process::ExitCode;

/// Run a command in a fresh microVM.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
