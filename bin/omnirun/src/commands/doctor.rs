//! `omnirun doctor`

use crate::Global;
use std::process::ExitCode;

/// Say what this host can do, what is missing and how to mend it.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn main(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
