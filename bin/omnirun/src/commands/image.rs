//! `omnirun image`

use crate::Global;
use std::process::ExitCode;

/// Build and manage images.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
