//! `--watch`: a line for each call, as it ends.

use omnirun_worker::{Observer, WorkerEvent};
use std::{
    io::Write,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

/// Lines that wait for a slow reader. What comes beyond them is left out: a reader that stands still (a pager) must not
/// hold up what serves sessions and keeps their leases.
const WAITING: usize = 1024;
/// How long the last lines may take at the end.
const END: Duration = Duration::from_secs(1);

/// Prints calls on standard output, from a thread of its own. Ids and figures only; a closed output stops nothing.
pub struct Table {
    lines: Option<SyncSender<String>>,
    /// Closed when the thread has written its last line.
    written: Mutex<Receiver<()>>,
}

impl Table {
    /// Nothing printed yet.
    pub fn new() -> Self {
        Self::over(std::io::stdout())
    }

    fn over(mut out: impl Write + Send + 'static) -> Self {
        let (lines, waiting) = sync_channel::<String>(WAITING);
        let (writing, written) = channel::<()>();
        std::thread::spawn(move || {
            let _writing = writing;
            let mut head = Some(row("CALL", "TOOL", "VM", "MS", "EXIT"));
            for line in waiting {
                for line in head.take().into_iter().chain([line]) {
                    let _ = writeln!(out, "{line}");
                }
                let _ = out.flush();
            }
        });
        Self {
            lines: Some(lines),
            written: Mutex::new(written),
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        drop(self.lines.take());
        let written = self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = written.recv_timeout(END);
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
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirun_worker::CallFate;
    use std::{io, sync::Arc, time::Instant};

    fn call_ends(table: &Table) {
        let id = "sevt_1".parse().unwrap();
        table.event(&WorkerEvent::CallFinished {
            session: &id,
            call: &id,
            tool: "bash",
            sandbox: None,
            exit_code: Some(7),
            is_error: true,
            took: Duration::from_millis(12),
            until_post: Duration::ZERO,
            timings: &[],
            fate: CallFate::Posted,
        });
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_there_at_the_end_below_one_head() {
        let out = Shared::default();
        let table = Table::over(out.clone());
        call_ends(&table);
        call_ends(&table);
        drop(table);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        let line = vec!["sevt_1", "bash", "-", "12", "7"];
        assert_eq!(
            lines,
            [vec!["CALL", "TOOL", "VM", "MS", "EXIT"], line.clone(), line]
        );
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up() {
        let out = Shared::default();
        let still = out.0.lock().unwrap();
        let table = Table::over(out.clone());
        let begun = Instant::now();
        (0..3 * WAITING).for_each(|_| call_ends(&table));
        drop(table);
        assert!(begun.elapsed() < 10 * END, "{:?}", begun.elapsed());
        drop(still);
    }
}
