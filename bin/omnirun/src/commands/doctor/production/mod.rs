//! The checklist for production hosts that comes with Firecracker, all 21 lines of it, judged for this host and for the
//! VMM that runs here.
//!
//! ```text
//!   facts    what is read of /proc, /sys and the programs' folders: bounded, against a clock, missing where it is missing
//!     |
//!   judges   pure functions from facts to a finding each          [vmm, kernel, memory, cpu]
//!     |
//!   List     all of them in order; summary, table, JSON
//! ```
//!
//! A line that is about what OmniRun does itself is judged like the others: by what the driver says of itself, with the
//! same three ratings. Nothing here keeps a sandbox from running, and nothing is changed.

mod cpu;
mod facts;
mod kernel;
mod memory;
#[cfg(test)]
mod tests;
mod vmm;

pub use facts::{Facts, Image};
pub use vmm::Driver;

use owo_colors::OwoColorize;
use serde::Serialize;

/// How a line came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Rating {
    /// As the checklist wants it.
    #[serde(rename = "ok")]
    Ok,
    /// Not so.
    #[serde(rename = "warning")]
    Warning,
    /// Does not concern this host, or cannot be told from here; the reason says which.
    #[serde(rename = "n/a")]
    NotApplicable,
}

/// What was found about one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its number in the checklist.
    pub line: u8,
    /// What it is about.
    pub name: &'static str,
    /// How it came out.
    pub rating: Rating,
    /// Whether it weakens the walls between sandboxes here and now, and so is shown without being asked for.
    pub serious: bool,
    /// What was found, and what that means.
    pub reason: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    fn new(line: u8, name: &'static str, rating: Rating, reason: impl Into<String>) -> Self {
        Self {
            line,
            name,
            rating,
            serious: false,
            reason: reason.into(),
            mend: None,
        }
    }

    fn mend(self, words: impl Into<String>) -> Self {
        Self {
            mend: Some(words.into()),
            ..self
        }
    }

    fn serious(self) -> Self {
        Self {
            serious: true,
            ..self
        }
    }
}

/// A line of the checklist, to be found ok, a warning or not applicable.
#[derive(Clone, Copy)]
struct Line(u8, &'static str);

impl Line {
    fn ok(self, reason: impl Into<String>) -> Finding {
        Finding::new(self.0, self.1, Rating::Ok, reason)
    }

    fn warn(self, reason: impl Into<String>) -> Finding {
        Finding::new(self.0, self.1, Rating::Warning, reason)
    }

    fn not_applicable(self, reason: impl Into<String>) -> Finding {
        Finding::new(self.0, self.1, Rating::NotApplicable, reason)
    }
}

/// The whole checklist.
#[derive(Debug, Serialize)]
pub struct List {
    /// How many lines are as they should be.
    pub ok: usize,
    /// How many are not.
    pub warnings: usize,
    /// How many do not concern this host.
    pub not_applicable: usize,
    /// All lines, in order.
    pub findings: Vec<Finding>,
}

impl List {
    /// Judges a host and the VMM that would run on it.
    pub fn judge(facts: &Facts, driver: &Driver) -> Self {
        let mut findings = vmm::findings(facts, driver);
        findings.extend(kernel::findings(facts, driver));
        findings.extend(memory::findings(facts));
        findings.extend(cpu::findings(facts, driver));
        findings.sort_by_key(|f| f.line);
        let count = |rating| findings.iter().filter(|f| f.rating == rating).count();
        Self {
            ok: count(Rating::Ok),
            warnings: count(Rating::Warning),
            not_applicable: count(Rating::NotApplicable),
            findings,
        }
    }

    /// For people: all of it, or what is serious and how many lines there are.
    pub fn print(&self, whole: bool) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        let shown = self.findings.iter().filter(|f| whole || f.serious);
        for finding in shown {
            let mut text = finding.reason.clone();
            if let Some(mend) = &finding.mend {
                text.push_str(&format!("\n  mend it with: {mend}"));
            }
            let rating = match finding.rating {
                Rating::Ok => "ok".green().to_string(),
                Rating::Warning if finding.serious => "warn".red().to_string(),
                Rating::Warning => "warn".yellow().to_string(),
                Rating::NotApplicable => "n/a".dimmed().to_string(),
            };
            table.add_row([rating, format!("{} {}", finding.line, finding.name), text]);
        }
        let more = if whole {
            ""
        } else {
            "; all of it: omnirun doctor --production"
        };
        out!(
            "\nFirecracker's checklist for production hosts: {} ok, {} to look at, {} not applicable{more}",
            self.ok,
            self.warnings,
            self.not_applicable
        );
        if !table.is_empty() {
            out!("{}", table.trim_fmt());
        }
    }
}
