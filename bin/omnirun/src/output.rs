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

/// Prints a line for people. Unlike `eprintln!` it does not panic when nobody reads it any more.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints an error and its causes on one line.
pub fn print_error(error: &anyhow::Error) {
    use owo_colors::OwoColorize;
    say(format_args!("{} {error:#}", "omnirun:".red().bold()));
}

/// A runtime for one command.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
