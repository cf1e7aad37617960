//! Progress of what takes a while, a build or a setup: bars with sizes and rates on a terminal, a line per step elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use omnirun_images::Progress;
use std::{
    fmt::Display,
    io::IsTerminal,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const SPINNER: &str = "{spinner:.cyan} {msg} {elapsed:.dim}";
const COUNTING: &str = "{spinner:.cyan} {msg}  {bytes} at {bytes_per_sec} {elapsed:.dim}";
const BAR: &str =
    "{spinner:.cyan} {msg}  {bar:24.cyan/dim} {bytes} of {total_bytes} at {bytes_per_sec}, {eta} left";

/// Shows progress on standard error.
pub struct Shown {
    prefix: String,
    terminal: bool,
    state: Mutex<Option<Step>>,
}

/// The step that is under way.
struct Step {
    words: String,
    since: Instant,
    bytes: u64,
    bar: ProgressBar,
    template: &'static str,
}

impl Shown {
    /// Progress of the making of so named a thing.
    pub fn new(name: &impl Display) -> Self {
        Self {
            prefix: name.to_string(),
            terminal: std::io::stderr().is_terminal(),
            state: Mutex::new(None),
        }
    }

    /// The last step is over.
    pub fn finish(&self) {
        self.end(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Step>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a line that says what the step came to.
    fn end(&self, state: &mut Option<Step>) {
        let Some(step) = state.take() else { return };
        step.bar.finish_and_clear();
        let seconds = step.since.elapsed().as_secs_f64();
        let size = match step.bytes {
            0 => String::new(),
            n => format!(
                "{}, {}/s, ",
                omnirun_ids::ByteSize(n),
                omnirun_ids::ByteSize((n as f64 / seconds.max(0.001)) as u64)
            ),
        };
        say!("{}: {} ({size}{seconds:.1} s)", self.prefix, step.words);
    }
}

impl Progress for Shown {
    fn step(&self, what: &str) {
        let mut state = self.lock();
        self.end(&mut state);
        let target = if self.terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_message(format!("{}: {what}", self.prefix));
        let mut step = Step {
            words: what.to_owned(),
            since: Instant::now(),
            bytes: 0,
            bar,
            template: "",
        };
        step.style(SPINNER);
        step.bar.enable_steady_tick(Duration::from_millis(120));
        *state = Some(step);
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let mut state = self.lock();
        let Some(step) = state.as_mut() else { return };
        step.bytes = done;
        match total {
            Some(total) if total > 0 => {
                step.style(BAR);
                step.bar.set_length(total);
            }
            _ => step.style(COUNTING),
        }
        step.bar.set_position(done);
    }

    fn note(&self, text: &str) {
        let state = self.lock();
        let line = || say!("{}: {text}", self.prefix);
        match state.as_ref() {
            Some(step) => step.bar.suspend(line),
            None => line(),
        }
    }
}

impl omnirun_firecracker_install::Progress for Shown {
    fn step(&self, what: &str) {
        Progress::step(self, what);
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        Progress::bytes(self, done, total);
    }
}

impl Step {
    fn style(&mut self, template: &'static str) {
        if self.template == template {
            return;
        }
        self.template = template;
        // A template that does not parse would be a mistake in the constants above, which a test reads.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_parses() {
        for template in [SPINNER, COUNTING, BAR] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
