//! `omnirun run`: one command in a fresh microVM, as if it ran here.
//!
//! ```text
//!   clone of the template's snapshot  --.
//!   empty disk, without a name        --+--> wake, claim, exec: one exchange
//!                                              | stdout, stderr ---> writer task -> ours
//!                                              | stdin <--- reader thread <- ours (--stdin)
//!                                              | signals, timeout
//!                                              v
//!   teardown, report, exit code of the command
//! ```

mod finish;
mod pipes;
mod refused;

use crate::{
    Global,
    host::{self, DriverArgs},
    net::NetArgs,
    output,
};
use anyhow::Context;
use finish::Finish;
pub(in crate::commands) use finish::own_words;
use omnirun_egress_policy::Mode;
use omnirun_guest_client::message::Exec;
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_policy_files::PolicySource;
use omnirun_sandboxes::{
    Begun, Card, ClaimSpec, Egress, Engine, First, IsolationGroup, Sandbox, SandboxSize, SandboxSpec,
    check_disk,
};
use omnirun_store::AuditLog;
use pipes::Outcome;
use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Run a command in a fresh microVM.
///
/// The sandbox has its own Linux kernel, no network card unless --net gives it one, and a disk of its own
/// that goes with it. Output is live,
/// Ctrl-C is passed on (a second one kills), and the exit code is the command's: 128+N if signal N ended it, 124 after
/// --timeout, 126 or 127 if it cannot be run or is not there, 125 if OmniRun itself failed.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  omnirun run -- uname -a\n  echo hi | omnirun run --stdin -- cat\n  \
                        omnirun run --memory 2G --timeout 60 -- sh -c 'make test'\n  \
                        omnirun run --net allow:pypi.org,files.pythonhosted.org -- curl -sI https://pypi.org"
)]
pub struct Args {
    /// The template whose image is booted (omnirun image ls).
    #[arg(long, default_value = "default", value_name = "NAME")]
    template: TemplateName,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Memory; rounded up to a power of two.
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    memory: ByteSize,
    /// Size of the disk; it takes only what is written.
    #[arg(long, default_value = "8G", value_name = "SIZE")]
    disk: ByteSize,
    /// A variable of the command's environment; may be given again.
    #[arg(long, value_name = "K=V", value_parser = env_pair)]
    env: Vec<(String, String)>,
    /// Who runs it, a user of the template: NAME, UID, or either with :GROUP. Default: the template's.
    #[arg(long, value_name = "USER", default_value = "", hide_default_value = true)]
    user: String,
    /// Where it runs; made if it is missing. Default: the template's.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    cwd: String,
    #[command(flatten)]
    net: NetArgs,
    #[command(flatten)]
    driver: DriverArgs,
    /// Pass standard input on. Without it the command reads an empty one.
    #[arg(long)]
    stdin: bool,
    /// Kill the command after so many seconds (or 90s, 5m); no limit by default.
    #[arg(long, value_name = "S", value_parser = seconds)]
    timeout: Option<Duration>,
    /// End with one JSON line on standard error: sandbox, driver, accelerator, milliseconds of each phase, exit code.
    #[arg(long)]
    json: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn env_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// The longest time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a time limit: give seconds, or a duration like 90s or 5m, up to 30d");
    let parsed = match text.parse::<f64>() {
        Ok(s) => Duration::try_from_secs_f64(s).map_err(|_| wrong())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| wrong())?,
    };
    // Whole milliseconds travel, and 0 would mean "never". Clocks overflow at absurd ones.
    if parsed.as_millis() == 0 || parsed > MAX_TIMEOUT {
        Err(wrong())
    } else {
        Ok(parsed)
    }
}

/// Signals that end a program, the user's way and the system's.
struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            int: on(SignalKind::interrupt())?,
            term: on(SignalKind::terminate())?,
        })
    }

    /// The next one's number. Cancel-safe.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.int.recv() => libc_signal(SignalKind::interrupt()),
            _ = self.term.recv() => libc_signal(SignalKind::terminate()),
        }
    }
}

fn libc_signal(kind: SignalKind) -> i32 {
    kind.as_raw_value()
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let size = SandboxSize {
        vcpus: args.cpus,
        memory: args.memory,
    };
    let json = args.json;
    let mut finish = Finish::default();
    let runtime = output::runtime()?;
    let result = runtime.block_on(async {
        check_disk(args.disk)?;
        let mut signals = Signals::listen()?;
        run(global, args, size, &mut finish, &mut signals).await
    });
    // A reader of standard input may sit in a read for ever; nothing waits for it.
    runtime.shutdown_background();
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            let words = own_words(&error);
            output::print_error(&anyhow::Error::msg(words.clone()));
            finish.error = Some(words);
            output::EXIT_OWN_FAILURE
        }
    };
    finish.exit = code;
    if json {
        finish.print();
    }
    Ok(ExitCode::from(code))
}

async fn run(
    global: &Global,
    args: Args,
    size: SandboxSize,
    finish: &mut Finish,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let json = args.json;
    let source = args.net.source(global, None)?;
    let host = host::open(global, args.driver, "omnirun run", Some(ByteSize(0))).await?;
    finish.facts(host.engine.vmm());
    for line in host.engine.takeover().lines() {
        tracing::info!("took over from a dead owner: {line}");
    }
    let result = prepared(&host, args, &source, size, finish, signals, begun).await;
    let teardown = Instant::now();
    for report in host.engine.shutdown().await {
        if !report.is_clean() {
            say!("omnirun: {report}; `omnirun clean` tries again");
        }
    }
    finish.phase("teardown", teardown.elapsed());
    // Who asked for JSON has the sandbox's id, and reads the log by it.
    if let Some(sandbox) = &finish.sandbox
        && !json
        && source.policy().borrow().mode() != Mode::None
    {
        host.network.written().await;
        refused::say(&AuditLog::of(&host.data), sandbox);
    }
    finish.phase("total", begun.elapsed());
    result
}

async fn prepared(
    host: &host::Host,
    args: Args,
    source: &PolicySource,
    size: SandboxSize,
    finish: &mut Finish,
    signals: &mut Signals,
    begun: Instant,
) -> anyhow::Result<u8> {
    let image = Arc::new(host.images.get(&args.template)?);
    let policy = source.policy();
    let spec = SandboxSpec {
        image,
        size,
        group: IsolationGroup::local(),
        card: Card::of(policy.borrow().mode()),
        purpose: "omnirun run".to_owned(),
        suspendable: false,
    };
    let exec = Exec {
        argv: args.command.into_iter().map(OsStringExt::into_vec).collect(),
        timeout_ms: args
            .timeout
            .map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        stdin: args.stdin,
        ..Exec::default()
    };
    let egress = Egress {
        policy,
        tightened: None,
        subject: None,
        session: None,
    };
    let identity = (args.env, args.user, args.cwd, egress);
    let made = async {
        let empty = host.images.session_disk_template(args.disk)?;
        host.engine.prepare(&spec).await?;
        finish.phase("prepare", begun.elapsed());
        let disk = scratch(host.engine.clone(), empty, identity);
        let (sandbox, _, begun) = host.engine.create_claimed(spec, disk, First::Exec(exec)).await?;
        anyhow::Ok((sandbox, begun))
    };
    let (sandbox, exec) = tokio::select! {
        biased;
        // What was begun is dropped, and ended by the shutdown.
        number = signals.next() => return Ok(signal_code(number)),
        made = made => match made? {
            (sandbox, Begun::Exec(exec)) => (sandbox, exec),
            (sandbox, _) => anyhow::bail!("sandbox {} has not begun the command", sandbox.id()),
        },
    };
    finish.sandbox = Some(sandbox.id().to_string());
    let exec_begun = Instant::now();
    let outcome = pipes::attend(&sandbox, exec, args.stdin, args.timeout, signals).await;
    finish.phases(sandbox.timings());
    finish.phase("exec", exec_begun.elapsed());
    code_of(outcome, &sandbox).await
}

async fn scratch(
    engine: Arc<Engine>,
    empty: std::path::PathBuf,
    (env, user, cwd, egress): (Vec<(String, String)>, String, String, Egress),
) -> Result<ClaimSpec, omnirun_sandboxes::EngineError> {
    let (disk, disk_bytes) = engine.scratch_disk(empty).await?;
    Ok(ClaimSpec {
        disk,
        disk_bytes,
        env,
        user,
        cwd,
        egress: Some(egress),
        purpose: "omnirun run".to_owned(),
    })
}

async fn code_of(outcome: Outcome, sandbox: &Sandbox) -> anyhow::Result<u8> {
    match outcome {
        Outcome::Exited(exited) if exited.timed_out => Ok(124),
        Outcome::Exited(exited) => Ok(match (exited.code, exited.signal) {
            // A code is a byte, and a signal a small number; a guest that says otherwise gets their low bits.
            (Some(code), _) => (code & 0xff) as u8,
            (None, Some(number)) => signal_code(number),
            (None, None) => output::EXIT_OWN_FAILURE,
        }),
        Outcome::NotStarted { code, message } => {
            say!("omnirun: {message}");
            Ok(code)
        }
        Outcome::TimedOut => Ok(124),
        Outcome::Killed => Ok(signal_code(9)),
        Outcome::Gone(why) => {
            let console = sandbox.console_tail().await.unwrap_or_default().0;
            let console = finish::console(&console);
            anyhow::bail!("the sandbox ended while the command ran: {why}{console}")
        }
        Outcome::Broken(error) => Err(error).context("the connection to the sandbox failed"),
    }
}

fn signal_code(number: i32) -> u8 {
    (128 + (number & 0x7f)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_variables_are_checked() {
        assert_eq!(seconds("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(seconds("5m").unwrap(), Duration::from_secs(300));
        for bad in ["0", "-1", "x", "", "1e99", "1e18", "31d", "0.0001", "NaN"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(env_pair("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        for bad in ["A", "=b", ""] {
            assert!(env_pair(bad).is_err(), "{bad}");
        }
    }
}
