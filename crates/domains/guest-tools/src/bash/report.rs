//! What the model is told about a command.

use super::{OUTPUT_LIMIT, Output, StateAfter};
use crate::answer;
use omnirun_guest_proto::message::ToolResult;
use std::{fmt::Write as _, time::Duration};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code. A live shell goes on.
    Done(i32),
    /// Its shell exited with this code.
    Exited(i32),
    /// A signal ended its shell.
    Signaled(i32),
    /// Killed after this time.
    TimedOut(Duration),
    /// Killed because the host cancelled the call.
    Cancelled,
}

/// All that there is to tell.
#[derive(Debug)]
pub struct Report<'a> {
    /// What it printed, finished.
    pub output: &'a Output,
    /// How it ended.
    pub ending: Ending,
    /// The state that it left; none where nothing was to be left (a kill).
    pub state: Option<&'a StateAfter>,
    /// Whether the shell is a live one (isolation mode `session`).
    pub live: bool,
    /// Processes that were left and have been ended.
    pub ended_processes: u32,
    /// Where the output beyond the limit has been put, if it could be ([`Output::spill`]).
    pub spill: Option<&'a str>,
}

const KEPT: &str = "working directory, variables and functions";

/// `bash` with `restart: true` and no command.
pub fn restarted() -> ToolResult {
    answer::text("bash session restarted")
}

impl Report<'_> {
    /// The tool's answer. `elapsed_us` and `synced` are the agent's to fill in.
    pub fn result(&self) -> ToolResult {
        let mut text = String::new();
        if self.output.is_cut() {
            text.push_str("[output truncated]\n");
        }
        let output = self.output.text();
        text.push_str(output.trim_end_matches('\n'));
        let code = match self.ending {
            Ending::Done(code) | Ending::Exited(code) => Some(code),
            Ending::Signaled(signal) => Some(128 + signal),
            Ending::TimedOut(_) | Ending::Cancelled => None,
        };
        if text.is_empty() && code == Some(0) {
            text.push_str("(no output)");
        }
        match self.ending {
            Ending::Signaled(signal) => line(
                &mut text,
                format_args!("exit code: {} (signal {signal})", 128 + signal),
            ),
            Ending::Done(0) | Ending::Exited(0) | Ending::TimedOut(_) | Ending::Cancelled => {}
            Ending::Done(code) | Ending::Exited(code) => line(&mut text, format_args!("exit code: {code}")),
        }
        self.notes(&mut text);
        ToolResult {
            is_error: code != Some(0),
            exit_code: code,
            timed_out: matches!(self.ending, Ending::TimedOut(_)),
            ended_processes: self.ended_processes,
            ..answer::text(text)
        }
    }

    fn notes(&self, text: &mut String) {
        if self.output.is_cut() {
            self.where_the_rest_is(text);
        }
        let what = match self.ending {
            Ending::TimedOut(limit) => Some(format!("timed out after {} s", limit.as_secs_f64())),
            Ending::Cancelled => Some("cancelled".to_owned()),
            _ => None,
        };
        match (what, self.live) {
            (Some(what), true) => line(
                text,
                format_args!(
                    "[{what}; it and the shell's background processes were ended; the shell goes on with the {KEPT} \
                     from before this command]"
                ),
            ),
            (Some(what), false) => {
                line(
                    text,
                    format_args!("[{what}; the {KEPT} are still those from before this command]"),
                );
            }
            (None, live) => self.about_the_state(live, text),
        }
        if self.ended_processes > 0 && !self.live {
            let (count, s) = (
                self.ended_processes,
                if self.ended_processes == 1 { "" } else { "es" },
            );
            let were = if count == 1 { "was" } else { "were" };
            line(
                text,
                format_args!(
                    "[{count} background process{s} {were} ended: none outlives its call in this sandbox]"
                ),
            );
        }
    }

    fn about_the_state(&self, live: bool, text: &mut String) {
        let ended = live && !matches!(self.ending, Ending::Done(_));
        match self.state {
            Some(StateAfter::Saved { dropped, .. }) => {
                // A live shell that goes on has everything anyway.
                if !dropped.is_empty() && (!live || ended) {
                    line(
                        text,
                        format_args!(
                            "[too large to be kept for the next command: {}]",
                            some_of(dropped)
                        ),
                    );
                }
                if ended {
                    line(
                        text,
                        format_args!("[the shell exited; a new one goes on with its {KEPT}]"),
                    );
                }
            }
            Some(StateAfter::Lost | StateAfter::TooLarge) if live && !ended => {}
            Some(StateAfter::TooLarge) => line(
                text,
                format_args!(
                    "[the shell's variables are too large to be kept; the next command has the {KEPT} from before \
                     this one]"
                ),
            ),
            Some(StateAfter::Lost) | None if ended || !live => line(
                text,
                format_args!(
                    "[the shell ended without saving its state; the next command has the {KEPT} from before this one]"
                ),
            ),
            Some(StateAfter::Lost) | None => {}
        }
    }

    fn where_the_rest_is(&self, text: &mut String) {
        let total = self.output.total();
        match self.spill {
            Some(path) if self.output.spill_is_whole() => line(
                text,
                format_args!(
                    "[only the last {OUTPUT_LIMIT} of {total} bytes are shown; all of it is in {path}: look with \
                     head, sed or grep in bash]"
                ),
            ),
            Some(path) => line(
                text,
                format_args!(
                    "[only the last {OUTPUT_LIMIT} of {total} bytes are shown; the last {} are in {path}: look with \
                     head, sed or grep in bash]",
                    self.output.spill().len()
                ),
            ),
            None => line(
                text,
                format_args!(
                    "[only the last {OUTPUT_LIMIT} of {total} bytes are shown; to see the rest, send the output to a \
                     file (command > /tmp/out.txt 2>&1) and look into that]"
                ),
            ),
        }
    }
}

/// The first few names, so that the sentence stays one.
fn some_of(names: &[String]) -> String {
    const NAMES: usize = 20;
    const LETTERS: usize = 100;
    let mut text = names
        .iter()
        .take(NAMES)
        .map(|name| name.chars().take(LETTERS).collect::<String>())
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more) = names.len().checked_sub(NAMES).filter(|more| *more > 0) {
        // Writing to a string does not fail.
        let _ = write!(text, " and {more} more");
    }
    text
}

/// Adds a line of ours.
fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    if !text.is_empty() {
        text.push('\n');
    }
    // Writing to a string does not fail.
    let _ = text.write_fmt(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::tests::text_of;

    fn report(printed: &[u8], ending: Ending) -> ToolResult {
        let mut output = Output::default();
        output.push(printed);
        output.finish();
        let state = Some(&StateAfter::Lost);
        Report {
            output: &output,
            ending,
            state,
            live: true,
            ended_processes: 0,
            spill: None,
        }
        .result()
    }

    #[test]
    fn success_is_the_output_alone() {
        let result = report(b"\n a\n\n", Ending::Done(0));
        assert_eq!(
            (text_of(&result), result.is_error, result.exit_code),
            ("\n a".into(), false, Some(0))
        );
        assert_eq!(text_of(&report(b"", Ending::Done(0))), "(no output)");
    }

    #[test]
    fn failure_shows_its_code() {
        let result = report(b"oops\n", Ending::Done(3));
        assert_eq!(
            (text_of(&result), result.is_error),
            ("oops\nexit code: 3".into(), true)
        );
        assert_eq!(text_of(&report(b"", Ending::Done(1))), "exit code: 1");
        let result = report(b"", Ending::Signaled(9));
        assert!(text_of(&result).starts_with("exit code: 137 (signal 9)"));
        assert_eq!(result.exit_code, Some(137));
    }

    #[test]
    fn a_timeout_keeps_what_was_printed() {
        let result = report(b"half", Ending::TimedOut(Duration::from_millis(1500)));
        assert!(result.timed_out && result.is_error && result.exit_code.is_none());
        assert!(
            text_of(&result).starts_with("half\n[timed out after 1.5 s; "),
            "{}",
            text_of(&result)
        );
    }

    #[test]
    fn of_what_does_not_fit_a_few_are_named() {
        let names: Vec<String> = (0..21).map(|n| format!("v{n}")).collect();
        assert_eq!(some_of(&names[..2]), "v0, v1");
        assert!(some_of(&names).ends_with(", v19 and 1 more"));
        assert_eq!(some_of(&["\u{e9}".repeat(1000)]).chars().count(), 100);
    }

    #[test]
    fn a_cut_output_says_so_first_and_where_the_rest_is_last() {
        let mut output = Output::default();
        output.push(&vec![b'x'; OUTPUT_LIMIT + 1]);
        output.finish();
        let spill = Some("/var/tmp/omnirun/1.txt");
        let ending = Ending::Done(0);
        let result = Report {
            output: &output,
            ending,
            state: None,
            live: true,
            ended_processes: 0,
            spill,
        }
        .result();
        let text = text_of(&result);
        assert!(text.starts_with("[output truncated]\nxxx"));
        assert!(
            text.contains("of 102401 bytes are shown; all of it is in /var/tmp/omnirun/1.txt"),
            "{}",
            &text[102400..]
        );
        assert!(!result.is_error);
    }
}
