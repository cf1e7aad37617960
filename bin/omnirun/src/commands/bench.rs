//! `omnirun bench`

use crate::Global;
use std::process::ExitCode;

/// Measure this host, each figure beside its floor.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
