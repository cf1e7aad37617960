//! `omnirun doctor`: what this host can do, what is missing, and the command that mends it.
//!
//! ```text
//!   report     a check's outcome, the verdict, the table
//!   sandboxes  what sandboxes need: QEMU, accelerator, data folder, image, snapshot, confinement
//!   host       what the host is like: memory, tools, cgroups, and the checklist of a production host
//! ```
//!
//! Only what keeps a sandbox from running makes the exit code 1; everything else is advice.

mod host;
mod report;
mod sandboxes;

use crate::{Global, output};
use report::Report;
use std::process::ExitCode;

/// Say what this host can do, what is missing and how to mend it.
///
/// Ends with 0 if sandboxes can run here, else with 1.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let mut checks = output::runtime()?.block_on(sandboxes::checks(global));
    checks.extend(host::checks());
    let report = Report::new(checks);
    if args.json {
        out!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
