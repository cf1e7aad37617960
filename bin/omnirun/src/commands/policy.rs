//! `omnirun policy`: looks at network policies, and at what sandboxes reached under them.

use super::session::table;
use crate::{Global, net};
use anyhow::Context;
use clap::Subcommand;
use omnirun_egress_policy::{AuditLine, NetFlag, learn};
use omnirun_policy_files::read;
use omnirun_store::{
    AuditLog, DataDir, Db,
    sessions::{Durability, Sessions},
};
use serde_json::json;
use std::process::ExitCode;

/// Check network policies, see what sandboxes reached, and learn a policy from it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  omnirun policy check ./policy.toml\n  \
                        omnirun run --net ./learn.toml -- pip download six    # with log_only = true in it\n  \
                        omnirun policy learn sbx_0123... > policy.toml")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read a policy and say what it means: a FILE, or anything that --net takes.
    Check {
        /// The policy.
        policy: NetFlag,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what a session or sandbox reached and what was refused, a line for each connection.
    Log {
        /// The session's id (or the start of it), or the sandbox's.
        subject: String,
        /// Print the lines as they are kept: JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the policy file that a session or sandbox would have needed for what it reached.
    Learn {
        /// The session's id (or the start of it), or the sandbox's.
        subject: String,
    },
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Check { policy, json } => check(global, &policy, json)?,
        Command::Log { subject, json } => log(&lines(global, &subject)?, json),
        Command::Learn { subject } => out!("{}", learn(&lines(global, &subject)?).trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn check(global: &Global, flag: &NetFlag, json: bool) -> anyhow::Result<()> {
    let policy = read(flag, &net::config(global))?;
    if json {
        out!(
            "{}",
            json!({ "mode": policy.mode().as_str(), "log_only": policy.log_only(), "layers": policy })
        );
        return Ok(());
    }
    out!("mode       {}", policy.mode().as_str());
    if policy.log_only() {
        out!(
            "           log_only: everything public is let through, and logged with the verdict that it would have had"
        );
    }
    let (allowed, denied) = policy.entries();
    for (title, entries) in [("allowed", allowed), ("denied", denied)] {
        for (n, entry) in entries.iter().enumerate() {
            out!("{:<10} {entry}", if n == 0 { title } else { "" });
        }
    }
    Ok(())
}

/// The lines of the subject that a person means.
fn lines(global: &Global, name: &str) -> anyhow::Result<Vec<AuditLine>> {
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    let log = AuditLog::of(&data);
    let subjects = log.subjects()?;
    let db = Db::open(&data).context("cannot open the state database")?;
    let rows = Sessions::new(&db, &data, Durability::default())?.list()?;
    // A session's log is kept under its hash.
    let fits = |subject: &&String| {
        let session = rows.iter().find(|row| row.hash.as_str() == subject.as_str());
        subject.starts_with(name) || session.is_some_and(|row| row.key.session.as_str().starts_with(name))
    };
    let found: Vec<&String> = subjects.iter().filter(fits).collect();
    let subject = match found.as_slice() {
        [one] => one,
        [] => anyhow::bail!(
            "nothing was logged of {name:?}: it had no network, or reached for nothing, or it is longer ago than 30 days"
        ),
        several => {
            let names: Vec<&str> = several.iter().map(|s| s.as_str()).collect();
            anyhow::bail!("{name:?} fits several; name one: {}", names.join(", "))
        }
    };
    audit_lines(&log, subject)
}

/// What was logged of a subject.
pub(super) fn audit_lines(log: &AuditLog, subject: &str) -> anyhow::Result<Vec<AuditLine>> {
    // A line of another version of OmniRun may be unreadable.
    let lines = log.lines(subject)?;
    Ok(lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn log(lines: &[AuditLine], json: bool) {
    if json {
        for line in lines {
            out!("{}", serde_json::to_string(line).unwrap_or_default());
        }
        return;
    }
    let mut table = table(&[
        "TIME",
        "VERDICT",
        "REASON",
        "PROTOCOL",
        "DESTINATION",
        "RULE",
        "OUT",
        "IN",
    ]);
    for line in lines {
        let time = jiff::Timestamp::from_millisecond(line.time_ms).unwrap_or_default();
        let destination = match (&line.name, line.to) {
            (Some(name), _) => format!("{name}:{}", line.port),
            (None, Some(to)) => to.to_string(),
            (None, None) => String::new(),
        };
        table.add_row([
            time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            format!("{:?}", line.verdict).to_lowercase(),
            line.reason.to_string(),
            format!("{:?}", line.protocol).to_lowercase(),
            destination,
            line.rule.clone().unwrap_or_default(),
            line.bytes_up.to_string(),
            line.bytes_down.to_string(),
        ]);
    }
    out!("{}", table.trim_fmt());
}
