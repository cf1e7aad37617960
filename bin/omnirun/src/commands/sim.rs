//! `omnirun sim`

use crate::Global;
use std::process::ExitCode;

/// Stand in for Anthropic's side, from a scenario file.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
