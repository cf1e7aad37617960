//! `omnirun sim`: a double of Anthropic's side, from a scenario file.

use crate::Global;
use anyhow::Context;
use omnirun_sim::{Report, Scenario, Sim, SimHandle};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

/// Stand in for Anthropic's side, from a scenario file.
///
/// Serves work queue, sessions and events as docs/simulator.md says, for `omnirun worker`, the official SDKs and `ant`.
/// Prints the lines that point a worker at it, runs until Ctrl-C, then prints what each call was answered with. Exit
/// code 0 when every expectation held and everything ended, else 1.
#[derive(clap::Args)]
pub struct Args {
    /// The scenario, as docs/simulator.md describes it.
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
    /// Where to listen. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the report there, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// End once all scripts have ended and the worker has let every work item go.
    #[arg(long)]
    exit_when_done: bool,
    /// End after this long at the latest (30s, 5m).
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Print one JSON line at the start and the report as JSON at the end, instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn main(_global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let scenario = Scenario::load(&args.scenario).with_context(|| args.scenario.display().to_string())?;
    let runtime = crate::output::runtime()?;
    let report = runtime.block_on(async {
        let sim = Sim::start(scenario, args.listen).await?;
        announce(&sim, args.json);
        let done = async {
            if args.exit_when_done {
                sim.wait_done(Duration::MAX).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let timeout = async {
            match args.timeout {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            // Whichever comes first ends the run; nothing is lost with the others.
            () = done => {}
            () = timeout => {}
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
        anyhow::Ok(sim.stop().await)
    })?;
    if let Some(path) = &args.report {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write the report {}", path.display()))?;
    }
    if args.json {
        out!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn announce(sim: &SimHandle, json: bool) {
    let (url, environment, key) = (sim.url(), sim.environment_id(), sim.environment_key());
    if json {
        let line = serde_json::json!({"url": url, "environment_id": environment, "environment_key": key,
            "organization_key": sim.organization_key()});
        out!("{line}");
        return;
    }
    out!("listening on {url}");
    out!("export ANTHROPIC_BASE_URL={url}");
    out!("export ANTHROPIC_ENVIRONMENT_ID={environment}");
    out!("export ANTHROPIC_ENVIRONMENT_KEY={key}");
}

fn print(report: &Report) {
    use comfy_table::{Table, presets};
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["session", "call", "tool", "outcome", "results", "ms", "held"]);
    for session in &report.sessions {
        for call in &session.calls {
            table.add_row([
                session.name.clone(),
                call.name.clone(),
                call.tool.clone(),
                call.outcome.clone(),
                call.received.to_string(),
                call.milliseconds.map(|ms| format!("{ms:.1}")).unwrap_or_default(),
                if call.ok {
                    "yes".into()
                } else {
                    call.failure.clone().unwrap_or_else(|| "no".into())
                },
            ]);
        }
    }
    out!("\n{table}");
    for failure in &report.failures {
        out!("failed: {failure}");
    }
    let calls: usize = report.sessions.iter().map(|s| s.calls.len()).sum();
    let verdict = if report.ok { "all held" } else { "not all held" };
    out!(
        "{}: {} sessions, {calls} calls: {verdict}",
        report.scenario,
        report.sessions.len()
    );
}
