//! `omnirun doctor`: what this host can do, what is missing, and the command that mends it.
//!
//! ```text
//!   report      a check's outcome, the verdict, the table
//!   drivers     the VMMs: which is used and why, accelerator, confinement
//!   sandboxes   what sandboxes need beside: data folder, image, snapshot
//!   network     whether sandboxes can have a card
//!   host        what the host is like: memory, namespaces, kernel
//!   production  Firecracker's checklist for production hosts
//! ```
//!
//! Only what keeps a sandbox from running makes the exit code 1; everything else is advice.

mod drivers;
mod host;
mod network;
mod production;
mod report;
mod sandboxes;

use crate::{Global, host::DriverArgs, output};
use production::{Facts, List};
use report::Report;
use serde::Serialize;
use std::process::ExitCode;

/// Say what this host can do, what is missing and how to mend it.
///
/// Ends with 0 if sandboxes can run here, else with 1. Of Firecracker's checklist for production hosts only what is
/// serious is shown, unless --production is given; --json always has all of it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    driver: DriverArgs,
    /// Show the whole checklist for production hosts.
    #[arg(long)]
    production: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// All that is said.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    report: Report,
    production: List,
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let found = output::runtime()?.block_on(sandboxes::look(global, args.driver));
    let mut checks = found.checks;
    checks.extend(host::checks());
    checks.push(network::check());
    let facts = Facts::read(found.paths, found.image);
    let whole = Whole {
        report: Report::new(checks),
        production: List::judge(&facts, &found.driver),
    };
    if args.json {
        out!("{}", serde_json::to_string_pretty(&whole)?);
    } else {
        whole.report.print();
        whole.production.print(args.production);
        whole.report.print_verdict();
    }
    Ok(if whole.report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
