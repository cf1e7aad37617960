//! `omnirun session`

use crate::Global;
use std::process::ExitCode;

/// List, show, remove or copy from and to sessions kept on this host.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
