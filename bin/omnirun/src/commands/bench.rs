//! `omnirun bench`: what this host does, each figure beside its floor.

use crate::{Global, host, host::DriverArgs};
use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use omnirun_bench::{Floor, HostFacts, Report, Setup};
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_sandboxes::SandboxSize;
use omnirun_store::sessions::{Durability, Sessions};
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// Measure this host, each figure beside its floor.
///
/// A floor is what cannot be avoided: a minimal agent on the same kernel, devices and channel, with a snapshot of its
/// own, measured in turn with OmniRun's in this very run. Machines are noisy: compare the ratios, not the milliseconds.
/// Takes some minutes with hardware virtualisation, a quarter of an hour under emulation.
#[derive(clap::Args)]
pub struct Args {
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Rounds of the main figures.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// The template to measure.
    #[arg(long, default_value = "default", value_name = "NAME")]
    template: TemplateName,
    /// Virtual CPUs of a sandbox.
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Memory of a sandbox.
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    memory: ByteSize,
    /// Take only these figures.
    #[arg(long, value_enum)]
    only: Option<Group>,
    #[command(flatten)]
    driver: DriverArgs,
    /// A Python that has the official `anthropic` package: compares a tool call's host side with the official worker's.
    #[arg(long, value_name = "PATH")]
    reference_python: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Cold boot, clone, warm claim, teardown, memory.
    Boots,
    /// Exec, throughput, tool calls.
    Calls,
    /// Clone and teardown with a network card. The floor is the same without one.
    Network,
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    crate::output::runtime()?.block_on(async {
        let host = host::open(global, args.driver, "omnirun bench", None).await?;
        // Under our name as an owner, so that whoever finds it knows whether we live.
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .suffix(&format!(".{}", host.engine.owner()))
            .tempdir_in(host.data.tmp())?;
        let result = tokio::select! {
            result = measure(&host, &args, dir.path().to_path_buf()) => Ok(result),
            code = crate::output::interrupted() => Err(code),
        };
        for report in host.engine.shutdown().await.iter().filter(|r| !r.is_clean()) {
            say!("omnirun: {report}; `omnirun clean` tries again");
        }
        // The sessions of the bench: their time was over when they ended.
        Sessions::new(&host.db, &host.data, Durability::default())?.sweep()?;
        let result = match result {
            Ok(result) => result,
            Err(code) => return Ok(ExitCode::from(code)),
        };
        let report = result?;
        if args.json {
            out!("{}", serde_json::to_string(&report)?);
        } else {
            print(&report);
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn measure(host: &host::Host, args: &Args, dir: PathBuf) -> anyhow::Result<Report> {
    let size = SandboxSize {
        vcpus: args.cpus,
        memory: args.memory,
    };
    let setup = Setup {
        engine: host.engine.clone(),
        vmm: host.vmm.clone(),
        images: host.images.clone(),
        image: Arc::new(host.images.get(&args.template)?),
        size,
        disk_bytes: ByteSize::gib(8).0,
        rounds: args.rounds as usize,
        dir: dir.clone(),
        say: Box::new(|what| say!("omnirun bench: {what}")),
    };
    (setup.say)("preparing snapshots");
    let machine = host.engine.prepare(&setup.spec()).await?.machine();
    let mut results = Vec::new();
    let wanted = |group| args.only.is_none_or(|only| only == group);
    if wanted(Group::Boots) || wanted(Group::Calls) {
        let floor = Floor::prepare(host.vmm.clone(), &host.images, &setup.image, machine, &dir)
            .await
            .context("cannot prepare the floor")?;
        if wanted(Group::Boots) {
            results.extend(omnirun_bench::boots(&setup, &floor).await?);
        }
        if wanted(Group::Calls) {
            results.extend(omnirun_bench::calls(&setup, &floor).await?);
            results.push(omnirun_bench::host_side(&setup, args.reference_python.as_deref()).await?);
        }
    }
    if wanted(Group::Network) {
        match omnirun_netns::problem() {
            Some(problem) if args.only.is_none() => say!("omnirun bench: no figures of networks: {problem}"),
            Some(problem) => anyhow::bail!("there can be no networks here: {problem}"),
            None => results.extend(omnirun_bench::network(&setup).await?),
        }
    }
    Ok(Report {
        host: HostFacts::gather(&setup),
        results,
    })
}

fn print(report: &Report) {
    let host = &report.host;
    out!(
        "{} CPUs, {}, {}, Linux {}",
        host.cpus,
        host.cpu,
        ByteSize(host.memory),
        host.kernel
    );
    out!(
        "{} ({}), guest Linux {}, {}",
        host.vmm,
        host.accelerator,
        host.guest_kernel,
        host.sandbox
    );
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["", "unit", "n", "p50", "p99", "floor p50", "ratio"]);
    for figure in &report.results {
        let number = |value: f64| {
            if value < 10.0 {
                format!("{value:.2}")
            } else {
                format!("{value:.1}")
            }
        };
        table.add_row([
            figure.name.to_owned(),
            figure.unit.to_owned(),
            figure.n.to_string(),
            number(figure.p50),
            number(figure.p99),
            figure.floor_p50.map_or_else(|| "-".to_owned(), number),
            figure
                .ratio
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    out!("{table}");
}
