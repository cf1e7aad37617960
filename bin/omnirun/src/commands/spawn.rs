//! `omnirun spawn`: serves one work item that another poller claimed and acknowledged. `ant beta:worker poll --on-work
//! ./omnirun-spawn.sh` ends here.
//!
//! What the poller gives: ids and the environment key in the environment, the item itself (its secret included) as JSON
//! on standard input. What it expects: that this process serves the session to its end and then exits. It may send
//! SIGTERM, and kills 30 s later. If it dies, the item is served to its end all the same: nothing here looks at the
//! parent, and standard error may be closed.

use crate::{
    Global,
    commands::worker::flags::{self, ConnectionArgs, ServeArgs},
    host, output,
};
use anyhow::Context;
use omnirun_work_proto::WorkItem;
use omnirun_worker::{End, Ignore, ItemConfig, Shutdown, Timing, WindDown};
use std::{
    io::{IsTerminal, Read},
    process::ExitCode,
    sync::{Arc, mpsc},
    time::Duration,
};

/// Serve one session that another poller claimed (ant beta:worker poll --on-work).
///
/// Takes the work item from the environment (ANTHROPIC_WORK_ID, ANTHROPIC_SESSION_ID, ANTHROPIC_ENVIRONMENT_ID,
/// ANTHROPIC_ENVIRONMENT_KEY) and from standard input (the item as JSON), heartbeats it, runs its tool calls in
/// microVMs and stops it at the end. Exit code 0 when the session ended, went idle or was asked to end, else 1; 125
/// when OmniRun could not start.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    serve: ServeArgs,
    /// The work item.
    #[arg(
        long,
        help_heading = "Work item",
        value_name = "ID",
        env = "ANTHROPIC_WORK_ID"
    )]
    work_id: Option<String>,
    /// Its session.
    #[arg(
        long,
        help_heading = "Work item",
        value_name = "ID",
        env = "ANTHROPIC_SESSION_ID"
    )]
    session_id: Option<String>,
    /// Its secret, where standard input does not bring it.
    #[arg(
        long,
        help_heading = "Work item",
        env = "ANTHROPIC_WORK_SECRET",
        hide = true,
        hide_env_values = true
    )]
    work_secret: Option<String>,
}

/// How long the poller may take to write the item.
const STDIN_LIMIT: Duration = Duration::from_secs(5);
/// More than any work item has.
const STDIN_BYTES: u64 = 1 << 20;

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let connection = args.connection.checked()?;
    let item = item(&args, &stdin())?;
    if std::env::var_os("ANTHROPIC_API_KEY").is_some_and(|key| !key.is_empty()) {
        // The item is claimed already: refusing would only burn it.
        tracing::warn!("ANTHROPIC_API_KEY is set and not used; keep it away from worker hosts");
    }
    anyhow::ensure!(
        connection.key.is_some() || item.secret.is_some(),
        "a credential is needed: the item's secret on standard input, or ANTHROPIC_ENVIRONMENT_KEY"
    );
    output::runtime()?.block_on(async {
        let wind_down = WindDown::under_ant();
        let shutdown = Shutdown::new();
        let _signals = shutdown.on_signals(wind_down.total).context("cannot listen for signals")?;
        tracing::info!(
            api = connection.client.origin(), environment = %connection.environment, work = %item.id, "spawn starting"
        );
        let policy = args.serve.net.source(global, Some(connection.environment.as_str()))?;
        let host = host::open(global, args.serve.driver, "omnirun spawn", args.serve.pool_memory).await?;
        for line in host.engine.takeover().lines() {
            tracing::info!("took over from a dead owner: {line}");
        }
        let end = async {
            let config = Arc::new(ItemConfig {
                client: connection.client.clone(),
                environment: connection.environment.clone(),
                key: connection.key.clone(),
                hands: Arc::new(args.serve.hands(&host, &policy)?),
                max_idle: args.serve.max_idle(),
                timing: Timing::default(),
                wind_down,
                observer: Arc::new(Ignore),
            });
            anyhow::Ok(omnirun_worker::serve(&config, &item, &shutdown).await)
        }
        .await;
        flags::close(&host).await;
        Ok(code(end?))
    })
}

fn code(end: End) -> ExitCode {
    if end.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Reads standard input to its end, within bounds of size and time. A poller that forgets to close it costs that time;
/// a terminal is not read at all.
fn stdin() -> Vec<u8> {
    if std::io::stdin().is_terminal() {
        return Vec::new();
    }
    let (send, receive) = mpsc::channel();
    // Ends with the process: a thread that waits for a poller which never writes has nothing to be joined for.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock().take(STDIN_BYTES);
        let mut buffer = [0u8; 16 << 10];
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if send.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let deadline = std::time::Instant::now() + STDIN_LIMIT;
    let mut all = Vec::new();
    while let Ok(piece) = receive.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()))
    {
        all.extend(piece);
        // A whole item needs no end of file.
        if serde_json::from_slice::<WorkItem>(&all).is_ok() {
            break;
        }
    }
    all
}

/// The item, from standard input and the environment. Where both name it they must agree: the secret is the item's.
fn item(args: &Args, stdin: &[u8]) -> anyhow::Result<WorkItem> {
    let given = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
    let (work, session) = (given(&args.work_id), given(&args.session_id));
    let environment =
        given(&args.connection.environment_id).context("ANTHROPIC_ENVIRONMENT_ID is not set")?;
    let mut item: WorkItem = if stdin.trim_ascii().is_empty() {
        let work = work.clone().context(
            "no work item: ANTHROPIC_WORK_ID is not set and standard input is empty. This command is started by a \
             poller (ant beta:worker poll --on-work ./omnirun-spawn.sh); to poll by itself there is: omnirun worker",
        )?;
        let session = session.clone().context("ANTHROPIC_SESSION_ID is not set")?;
        serde_json::from_value(serde_json::json!({
            "id": work, "environment_id": environment, "data": {"type": "session", "id": session},
        }))
        .context("the work item's ids")?
    } else {
        serde_json::from_slice(stdin).map_err(|e| {
            // The parser's own words could quote the secret.
            anyhow::anyhow!(
                "standard input is no work item (line {}, column {})",
                e.line(),
                e.column()
            )
        })?
    };
    if item.secret.is_none() {
        item.secret =
            given(&args.work_secret).map(|s| omnirun_work_proto::WorkSecret(omnirun_redact::Secret::new(s)));
    }
    let agree = work.is_none_or(|w| w == item.id.as_str())
        && session.is_none_or(|s| s == item.data.id)
        && environment == item.environment_id.as_str();
    anyhow::ensure!(
        agree,
        "standard input and the environment name different work items"
    );
    Ok(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(extra: &[&str]) -> Args {
        let base = ["spawn", "--environment-id", "env_1", "--environment-key", "k"];
        Cli::try_parse_from(base.iter().chain(extra))
            .map(|c| c.args)
            .unwrap()
    }

    const IDS: [&str; 4] = ["--work-id", "work_1", "--session-id", "sesn_1"];

    #[test]
    fn the_item_comes_from_standard_input_or_the_environment() {
        let json = br#"{"type":"work","id":"work_1","environment_id":"env_1","state":"","acknowledged_at":"",
            "data":{"type":"session","id":"sesn_1"},"metadata":{},"secret":"c2VjcmV0"}"#;
        let item_1 = item(&args(&IDS), json).unwrap();
        assert_eq!(item_1.secret.unwrap().0.expose(), "c2VjcmV0");
        let item_2 = item(&args(&[]), json).unwrap();
        assert_eq!(item_2.session().unwrap().as_str(), "sesn_1");
        let item_3 = item(&args(&IDS), b" \n").unwrap();
        assert_eq!((item_3.id.as_str(), item_3.secret), ("work_1", None));
    }

    #[test]
    fn items_that_do_not_fit_are_refused_without_quoting_them() {
        let other = br#"{"id":"work_2","environment_id":"env_1","data":{"type":"session","id":"sesn_1"}}"#;
        for (extra, stdin, says) in [
            (&IDS[..], &other[..], "different"),
            (&[], b"", "omnirun worker"),
            (&IDS[..2], b"", "ANTHROPIC_SESSION_ID"),
            (&IDS[..], br#"{"secret":"hush""#, "line 1"),
            (&["--work-id", "../x", "--session-id", "s"], b"", "ids"),
        ] {
            let error = format!("{:#}", item(&args(extra), stdin).unwrap_err());
            assert!(error.contains(says) && !error.contains("hush"), "{error}");
        }
    }
}
