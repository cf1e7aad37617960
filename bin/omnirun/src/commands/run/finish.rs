//! What `omnirun run` says at its end.

use crate::output::printable;
use omnirun_guest_client::ClientError;
use omnirun_sandboxes::EngineError;
use omnirun_vmm::VmmFacts;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Lines of a dead VM's console that are shown.
const CONSOLE_LINES: usize = 12;

/// The facts of a run, for `--json`.
#[derive(Debug, Default)]
pub(super) struct Finish {
    pub(super) sandbox: Option<String>,
    pub(super) error: Option<String>,
    pub(super) exit: u8,
    driver: Option<(String, String)>,
    phases: Vec<(&'static str, Duration)>,
}

impl Finish {
    pub(super) fn facts(&mut self, vmm: &VmmFacts) {
        self.driver = Some((
            format!("{} {}", vmm.driver, vmm.version),
            vmm.accelerator.to_owned(),
        ));
    }

    pub(super) fn phase(&mut self, name: &'static str, took: Duration) {
        self.phases.push((name, took));
    }

    pub(super) fn phases(&mut self, phases: Vec<(&'static str, Duration)>) {
        self.phases.extend(phases);
    }

    /// One line on standard error.
    pub(super) fn print(&self) {
        let ms = |d: &Duration| Value::from((d.as_secs_f64() * 1e6).round() / 1e3);
        let phases: Map<String, Value> = self
            .phases
            .iter()
            .map(|(n, d)| ((*n).to_owned(), ms(d)))
            .collect();
        let mut line = json!({
            "sandbox": self.sandbox,
            "driver": self.driver.as_ref().map(|d| &d.0),
            "accelerator": self.driver.as_ref().map(|d| &d.1),
            "phases_ms": phases,
            "exit": self.exit,
        });
        if let (Some(error), Some(object)) = (&self.error, line.as_object_mut()) {
            object.insert("error".to_owned(), Value::from(error.as_str()));
        }
        say!("{line}");
    }
}

/// Our own failure in words: its causes, what the guest's agent had to say, and what the console said last.
pub(in crate::commands) fn own_words(error: &anyhow::Error) -> String {
    let mut words = format!("{error:#}");
    let mut seen = None;
    for cause in error.chain() {
        if let Some(ClientError::Guest { message, .. }) = cause.downcast_ref::<ClientError>() {
            words.push_str(": ");
            words.push_str(&printable(&message.0));
        }
        if let Some(engine) = cause.downcast_ref::<EngineError>() {
            seen = seen.or(engine.console());
        }
    }
    words + &console(seen.unwrap_or_default())
}

/// The last lines of a console, each indented; empty if there are none.
pub(super) fn console(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(CONSOLE_LINES));
    last.fold(String::new(), |text, line| text + "\n  | " + &printable(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_text_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        let long: String = (0..100).map(|n| format!("line {n}\n\n")).collect();
        let shown = console(&long);
        assert_eq!(shown.lines().filter(|l| !l.is_empty()).count(), CONSOLE_LINES);
        assert!(shown.ends_with("| line 99") && console("").is_empty());
    }
}
