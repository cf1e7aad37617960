//! `omnirun clean`: removes what processes that died have left, and says what it was.

use crate::{Global, output};
use anyhow::Context;
use omnirun_sandboxes::{look, take_over};
use omnirun_store::{
    DataDir, Db,
    sessions::{Durability, Sessions},
};
use omnirun_vmm::Reaper;
use serde_json::json;
use std::process::ExitCode;

/// Remove what killed processes left, and sessions whose time is over.
///
/// That is: VMs, run folders, unfinished builds and setups, half-written files, half-made sessions. Commands that run sandboxes do this by themselves when they start. Sessions within their time are kept: see
/// `omnirun session`.
#[derive(clap::Args)]
pub struct Args {
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    let db = Db::open(&data).context("cannot open the state database")?;
    let mut clean = true;
    let sessions = Sessions::new(&db, &data, Durability::default())?;
    let mut lines = if args.dry_run {
        let mut lines = omnirun_images::look(&data.tmp());
        lines.extend(omnirun_firecracker_install::look(&data));
        lines.extend(look(&data, &db)?);
        lines
    } else {
        let mut lines = omnirun_images::sweep(&data.tmp());
        lines.extend(omnirun_firecracker_install::sweep(&data));
        let runtime = output::runtime()?;
        let report = runtime.block_on(take_over(&data, &db, &Reaper))?;
        clean = report.is_clean();
        lines.extend(report.lines());
        lines.extend(runtime.block_on(omnirun_network::sweep(&data))?);
        lines
    };
    // Behind the VMs: one that a dead process left may still have had a disk.
    let overdue = if args.dry_run {
        sessions.overdue()?
    } else {
        sessions.sweep()?
    };
    lines.extend(overdue.into_iter().map(|removal| removal.what));
    if args.json {
        let key = if args.dry_run { "would_remove" } else { "removed" };
        out!("{}", json!({ key: lines, "clean": clean }));
    } else if lines.is_empty() {
        out!("nothing to clean");
    } else {
        lines.iter().for_each(|line| out!("{line}"));
    }
    if clean {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("something is still there; see above")
}
