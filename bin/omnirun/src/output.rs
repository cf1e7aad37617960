//! What a person sees: log lines, errors, exit codes. Colours only on a terminal.

use crate::{Global, LogFormat};
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// OmniRun's own failure, as opposed to the command's that it ran.
pub const EXIT_OWN_FAILURE: u8 = 125;

/// Sets up logging to standard error.
pub fn init_logging(global: &Global) {
    let default = match global.verbose {
        0 => "warn,omnirun_worker=info,omnirun=info",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("OMNIRUN_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // A log that nobody reads any more (a dead parent's pipe) must not stop what it tells of.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
    }
}

/// Prints a line on standard output. Unlike `println!` it does not panic when nobody reads it any more (`| head`).
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::print(format_args!($($arg)*)) };
}

/// Prints a line for people on standard error, the same way.
macro_rules! say {
    ($($arg:tt)*) => { $crate::output::say(format_args!($($arg)*)) };
}

/// Prints a line on standard output.
pub fn print(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stdout(), "{line}");
}

/// Prints a line for people.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints an error and its causes on one line.
pub fn print_error(error: &anyhow::Error) {
    use owo_colors::OwoColorize;
    say!("{} {error:#}", "omnirun:".red().bold());
}

/// Text of a guest's or an agent's, without what a terminal would act upon.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Resolves at Ctrl-C or SIGTERM, with the exit code that says so.
pub async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => 130,
        _ = terminate.recv() => 143,
    }
}

/// A runtime for one command.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
