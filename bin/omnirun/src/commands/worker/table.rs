//! `--watch`: a line for each call, as it ends.

use omnirun_worker::{Observer, WorkerEvent};
use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

/// Prints calls on standard output. Ids and figures only; a closed output stops nothing.
pub struct Table {
    begun: AtomicBool,
}

impl Table {
    /// Nothing printed yet.
    pub fn new() -> Self {
        Self {
            begun: AtomicBool::new(false),
        }
    }
}

/// The columns. Wide enough for real ids, so that lines stay under each other.
fn row(call: &str, tool: &str, vm: &str, ms: &str, exit: &str) -> String {
    format!("{call:<28} {tool:<6} {vm:<28} {ms:>7} {exit:>5}")
}

impl Observer for Table {
    fn event(&self, event: &WorkerEvent<'_>) {
        let WorkerEvent::CallFinished {
            call,
            tool,
            sandbox,
            exit_code,
            is_error,
            took,
            ..
        } = event
        else {
            return;
        };
        let mut out = std::io::stdout().lock();
        if !self.begun.swap(true, Ordering::Relaxed) {
            let _ = writeln!(out, "{}", row("CALL", "TOOL", "VM", "MS", "EXIT"));
        }
        let exit = match exit_code {
            Some(code) => code.to_string(),
            None if *is_error => "error".to_owned(),
            None => "ok".to_owned(),
        };
        // Names of tools are ours (others are not served), ids are checked: nothing here needs escaping.
        let line = row(
            call.as_str(),
            tool,
            sandbox.unwrap_or("-"),
            &took.as_millis().to_string(),
            &exit,
        );
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}
