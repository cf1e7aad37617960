//! A tool call's host side: what OmniRun adds on the host, beside the whole of the same call in the official Python
//! worker on the bare host, both against the simulator, in one run.
//!
//! Ours: from the event's arrival to the beginning of its result's post, less the time between the request's frame and
//! the guest's answer. The official worker's: from the event's emission to its result's arrival, at the simulator.

use crate::{BenchError, Figure, Samples, Setup};
use omnirun_redact::Secret;
use omnirun_sessions::{EnginePlatform, Isolation, SessionFactory, SessionsConfig};
use omnirun_sim::{Scenario, Sim, SimHandle};
use omnirun_work_client::{Client, ClientConfig, Limits};
use omnirun_worker::{ItemConfig, Observer, Shutdown, Timing, WindDown, WorkerConfig, WorkerEvent};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Calls of a run; the first has a VM or a shell to start and is not counted.
const CALLS: usize = 50;
/// What a run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The official worker, unmodified, until it is killed.
const PYTHON: &str = r#"
import asyncio, os, sys
from anthropic import AsyncAnthropic

async def main():
    client = AsyncAnthropic(base_url=os.environ["ANTHROPIC_BASE_URL"])
    worker = client.beta.environments.work.worker(
        environment_id=os.environ["ANTHROPIC_ENVIRONMENT_ID"],
        environment_key=os.environ["ANTHROPIC_ENVIRONMENT_KEY"],
        workdir=sys.argv[1], max_idle=1.0)
    await worker.run()

asyncio.run(main())
"#;

/// Takes the figure; without a Python it has no floor.
///
/// # Errors
/// [`BenchError`].
pub async fn host_side(setup: &Setup, python: Option<&Path>) -> Result<Figure, BenchError> {
    (setup.say)("host side of a tool call");
    let ours = our_calls(setup).await?;
    let reference = match python {
        Some(python) => Some(reference_calls(setup, python).await?),
        None => None,
    };
    Ok(Figure::time("tool_call_host_side", &ours, reference.as_ref()))
}

async fn start_sim() -> Result<SimHandle, BenchError> {
    let mut yaml =
        String::from("name: bench\nsessions:\n  - name: calls\n    steps:\n      - user: Run true.\n");
    for call in 0..=CALLS {
        yaml.push_str(&format!(
            "      - call: {{name: c{call}, tool: bash, input: {{command: 'true'}}}}\n"
        ));
    }
    let scenario = Scenario::parse(&yaml).map_err(|error| BenchError::Reference(error.to_string()))?;
    Sim::start(scenario, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .map_err(|error| BenchError::Reference(error.to_string()))
}

#[derive(Default)]
struct Collect(Mutex<Vec<Duration>>);

impl Observer for Collect {
    fn event(&self, event: &WorkerEvent<'_>) {
        if let WorkerEvent::CallFinished {
            until_post, timings, ..
        } = event
        {
            let guest = timings
                .iter()
                .filter(|(name, _)| *name == "guest")
                .map(|(_, took)| *took)
                .sum();
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(until_post.saturating_sub(guest));
        }
    }
}

async fn our_calls(setup: &Setup) -> Result<Samples, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Reference(error.to_string());
    let sim = start_sim().await?;
    let config = SessionsConfig {
        isolation: Isolation::Session,
        size: setup.size,
        disk: setup.disk(),
        // A bench that is killed leaves none for a week.
        keep: Duration::ZERO,
        ..SessionsConfig::new(setup.image.template.name.clone())
    };
    let platform = Arc::new(EnginePlatform::new(setup.engine.clone(), setup.images.clone()));
    let hands = SessionFactory::new(config, platform, setup.engine.db(), setup.engine.data())
        .map_err(|error| BenchError::Sessions(Box::new(error)))?;
    let client = Client::new(ClientConfig {
        base: sim.url().parse().map_err(|e| failed(&e))?,
        user_agent: concat!("omnirun-bench/", env!("CARGO_PKG_VERSION")).to_owned(),
        limits: Limits::default(),
    })
    .map_err(|e| failed(&e))?;
    let key = Secret::new(sim.environment_key());
    let collect = Arc::new(Collect::default());
    let item = ItemConfig {
        client,
        environment: sim.environment_id().parse()?,
        key: Some(key.clone()),
        hands: Arc::new(hands),
        max_idle: Some(Duration::from_secs(1)),
        timing: Timing::default(),
        wind_down: WindDown::within(Duration::from_secs(30)),
        observer: collect.clone(),
    };
    let worker = Arc::new(WorkerConfig {
        item: Arc::new(item),
        key,
        worker_id: "omnirun-bench".to_owned(),
        max_sessions: 1,
        drain: false,
    });
    let shutdown = Shutdown::new();
    let run = omnirun_worker::run(&worker, &shutdown);
    tokio::pin!(run);
    let done = tokio::select! {
        // Neither loses anything: both are awaited or dropped for good.
        done = sim.wait_done(LIMIT) => done,
        _ = &mut run => false,
    };
    shutdown.wind_down();
    if done {
        run.await;
    }
    let report = sim.stop().await;
    if !report.ok {
        return Err(failed(&report.failures.join("; ")));
    }
    let mut samples = Samples::default();
    for took in collect
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .skip(1)
    {
        samples.push_ms(*took);
    }
    Ok(samples)
}

async fn reference_calls(setup: &Setup, python: &Path) -> Result<Samples, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Reference(error.to_string());
    let sim = start_sim().await?;
    let workdir = setup.dir.join("reference");
    std::fs::create_dir_all(&workdir).map_err(|source| BenchError::File {
        step: "make",
        path: workdir.clone(),
        source,
    })?;
    let mut child = tokio::process::Command::new(python)
        .args(["-c", PYTHON])
        .arg(&workdir)
        .env("ANTHROPIC_BASE_URL", sim.url())
        .env("ANTHROPIC_ENVIRONMENT_ID", sim.environment_id())
        .env("ANTHROPIC_ENVIRONMENT_KEY", sim.environment_key())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(&e))?;
    let done = sim.wait_done(LIMIT).await;
    child.kill().await.map_err(|e| failed(&e))?;
    let report = sim.stop().await;
    if !done || !report.ok {
        return Err(failed(&format!(
            "{} ({})",
            report.failures.join("; "),
            python.display()
        )));
    }
    let mut samples = Samples::default();
    for call in report.sessions.iter().flat_map(|session| &session.calls).skip(1) {
        samples.push(call.milliseconds.unwrap_or(0.0));
    }
    Ok(samples)
}
