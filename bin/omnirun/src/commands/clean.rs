//! `omnirun clean`

use crate::Global;
use std::process::ExitCode;

/// Remove what dead processes left behind.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
