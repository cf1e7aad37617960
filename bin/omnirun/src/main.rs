//! `omnirun`: one binary, a subcommand per file in [`commands`]. This file knows flags, logging and exit codes; what a
//! command does is in its file, and what it does it with is in the libraries.

#[macro_use]
mod output;
mod commands;
mod host;
mod net;
mod progress;

use clap::{CommandFactory, Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Runs AI agents' tool calls inside microVMs on your own box.
#[derive(Parser)]
#[command(
    name = "omnirun",
    version,
    about,
    max_term_width = 110,
    arg_required_else_help = true,
    after_help = "First steps:\n  omnirun doctor            what this host can do, and what it lacks\n  \
                  omnirun image build       once, from Debian packages\n  omnirun run -- uname -a   a command in a microVM"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Folder for images, snapshots and session disks. Default: /var/lib/omnirun for root, else
    /// $XDG_DATA_HOME/omnirun or ~/.local/share/omnirun.
    #[arg(long, global = true, env = "OMNIRUN_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder for policies of environments and presets. Default: /etc/omnirun for root, else $XDG_CONFIG_HOME/omnirun or
    /// ~/.config/omnirun.
    #[arg(long, global = true, env = "OMNIRUN_CONFIG_DIR", value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// How log lines on standard error look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Log more: -v for what is decided, -vv for what is done. OMNIRUN_LOG takes a filter instead.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Formats of log lines.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Subcommand)]
enum Command {
    Run(commands::run::Args),
    Worker(commands::worker::Args),
    Spawn(commands::spawn::Args),
    Session(commands::session::Args),
    Policy(commands::policy::Args),
    Image(commands::image::Args),
    EscapeTest(commands::escape_test::Args),
    Doctor(commands::doctor::Args),
    Setup(commands::setup::Args),
    Clean(commands::clean::Args),
    Bench(commands::bench::Args),
    Sim(commands::sim::Args),
    /// The process that guests' connections go through. Started by the others, never by hand.
    #[command(hide = true)]
    EgressProxy,
    /// Print a completion script: omnirun completions bash > /etc/bash_completion.d/omnirun
    Completions {
        /// The shell to complete in.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // A mistake in the line is not to be taken for the exit code of a command that ran.
            return match error.use_stderr() {
                true => ExitCode::from(output::EXIT_OWN_FAILURE),
                false => ExitCode::SUCCESS,
            };
        }
    };
    // It logs nothing and has no folders: it is confined before it does anything.
    if matches!(cli.command, Command::EgressProxy) {
        return omnirun_egress::child::main();
    }
    output::init_logging(&cli.global);
    let global = &cli.global;
    let result = match cli.command {
        Command::Run(args) => commands::run::main(global, args),
        Command::Worker(args) => commands::worker::main(global, args),
        Command::Spawn(args) => commands::spawn::main(global, args),
        Command::Policy(args) => commands::policy::main(global, args),
        Command::Session(args) => commands::session::main(global, args),
        Command::Image(args) => commands::image::main(global, args),
        Command::EscapeTest(args) => commands::escape_test::main(global, args),
        Command::Doctor(args) => commands::doctor::main(global, args),
        Command::Setup(args) => commands::setup::main(global, args),
        Command::Clean(args) => commands::clean::main(global, args),
        Command::Bench(args) => commands::bench::main(global, args),
        Command::Sim(args) => commands::sim::main(global, args),
        Command::EgressProxy => Ok(ExitCode::FAILURE),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "omnirun", &mut script);
            out!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        output::print_error(&error);
        ExitCode::from(output::EXIT_OWN_FAILURE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
