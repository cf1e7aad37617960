//! `omnirun worker`: serves an environment's sessions, polling Anthropic's work queue. The protocol is in
//! `omnirun_worker`, the sandboxes are behind `omnirun_sessions`; this is flags, wiring and exit codes.

pub mod flags;
mod table;

use crate::{Global, host, output};
use anyhow::Context;
use flags::{ConnectionArgs, ServeArgs};
use omnirun_worker::{Exit, Ignore, ItemConfig, Observer, Shutdown, Timing, WindDown, WorkerConfig};
use std::{process::ExitCode, sync::Arc, time::Duration};

/// The queue refuses this worker for good: a bad key, an unknown environment.
const EXIT_REFUSED: u8 = 3;

/// Serve an environment's sessions, polling Anthropic's work queue.
///
/// Each tool call of a session runs in a microVM of its own (or, with --isolation session, each session in one), on the
/// session's own disk. Credentials stay on this host. Ends with SIGTERM or Ctrl-C: no more polling, what runs gets
/// --grace to end, a second signal stops at once. docs/worker.md has the rest.
///
/// Exit codes: 0 ended as asked, 1 stopped at once, 3 the queue refuses this worker (sessions were served to their
/// end), 125 OmniRun could not start.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    serve: ServeArgs,
    /// How this worker is called in the queue's statistics [default: host name and a random number].
    #[arg(long, help_heading = "Worker", value_name = "ID", env = "ANTHROPIC_WORKER_ID")]
    worker_id: Option<String>,
    /// How many sessions at once; while there are as many, it does not poll.
    #[arg(long, help_heading = "Worker", value_name = "N", default_value_t = 4, value_parser = flags::at_least_one)]
    max_sessions: usize,
    /// How long ending may take after a signal. The last third of it (10 s at most) is for cancelling, saving and
    /// posting; what needs longer comes back when its lease has run out.
    #[arg(long, help_heading = "Worker", value_name = "TIME", default_value = "30s", value_parser = flags::duration)]
    grace: Duration,
    /// Leave after the first empty poll, once the claimed sessions are over.
    #[arg(long, help_heading = "Worker")]
    drain: bool,
    /// Print each call on standard output as it ends: call, tool, VM, milliseconds, exit.
    #[arg(long, help_heading = "Worker")]
    watch: bool,
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        std::env::var_os("ANTHROPIC_API_KEY").is_none_or(|key| key.is_empty()),
        "ANTHROPIC_API_KEY is set. A worker needs the environment key alone (ANTHROPIC_ENVIRONMENT_KEY); an \
         organization's API key opens far more than one queue and has no business on a worker host. Unset it and \
         start again: env -u ANTHROPIC_API_KEY omnirun worker ..."
    );
    let connection = args.connection.checked()?;
    let key = connection.key.clone().context(
        "an environment key is needed: set ANTHROPIC_ENVIRONMENT_KEY, or give --environment-key-file FILE",
    )?;
    let worker_id = match args.worker_id {
        Some(id) => flags::header_safe(id)?,
        None => default_worker_id(),
    };
    output::runtime()?.block_on(async {
        let shutdown = Shutdown::new();
        let _signals = shutdown.on_signals(args.grace).context("cannot listen for signals")?;
        // The first line says where everything goes, before anything is sent there.
        tracing::info!(
            api = connection.client.origin(), environment = %connection.environment, worker_id,
            max_sessions = args.max_sessions, "worker starting"
        );
        let policy = args.serve.net.source(global, Some(connection.environment.as_str()))?;
        let host = host::open(global, args.serve.driver, "omnirun worker", args.serve.pool_memory).await?;
        for line in host.engine.takeover().lines() {
            tracing::info!("took over from a dead owner: {line}");
        }
        let observer: Arc<dyn Observer> = if args.watch { Arc::new(table::Table::new()) } else { Arc::new(Ignore) };
        let exit = async {
            let hands = args.serve.hands(&host, &policy)?;
            let _sweeping = hands.keep_swept();
            // Without an image or a VMM that works every session would fail: better not to claim any.
            tokio::select! {
                biased;
                // What was begun is dropped, and ended with the engine.
                () = shutdown.winding_down().cancelled() => return Ok(Exit::Stopped),
                prepared = args.serve.prepare(&host, &connection, &policy) => prepared?,
            }
            let config = Arc::new(WorkerConfig {
                item: Arc::new(ItemConfig {
                    client: connection.client.clone(),
                    environment: connection.environment.clone(),
                    key: connection.key.clone(),
                    hands: Arc::new(hands),
                    max_idle: args.serve.max_idle(),
                    timing: Timing::default(),
                    wind_down: WindDown::within(args.grace),
                    observer,
                }),
                key,
                worker_id,
                max_sessions: args.max_sessions,
                drain: args.drain,
            });
            anyhow::Ok(omnirun_worker::run(&config, &shutdown).await)
        }
        .await;
        flags::close(&host).await;
        Ok(match exit? {
            Exit::Drained | Exit::Stopped => ExitCode::SUCCESS,
            Exit::StoppedHard => ExitCode::FAILURE,
            Exit::Refused(error) => {
                output::print_error(&anyhow::Error::new(error).context(
                    "the queue refuses this worker; check the environment id, the environment key and the base URL",
                ));
                ExitCode::from(EXIT_REFUSED)
            }
        })
    })
}

/// Host name and random digits, as the official workers call themselves.
fn default_worker_id() -> String {
    let uname = rustix::system::uname();
    let host: String = uname
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        .take(64)
        .collect();
    let host = if host.is_empty() {
        "omnirun".to_owned()
    } else {
        host
    };
    format!("{host}-{:012x}", fastrand::u64(..1 << 48))
}
