//! Outcomes of checks and how they are shown.

use owo_colors::OwoColorize;
use serde::Serialize;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Sandboxes run, but something could be better.
    Warn,
    /// Sandboxes cannot run.
    Missing,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found, and what that means.
    pub found: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            mend: None,
        }
    }

    /// Could be better.
    pub fn warn(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            ..Self::ok(name, found)
        }
    }

    /// Keeps sandboxes from running.
    pub fn missing(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            status: Status::Missing,
            ..Self::ok(name, found)
        }
    }

    /// With the command that mends it.
    pub fn mend(self, command: impl Into<String>) -> Self {
        Self {
            mend: Some(command.into()),
            ..self
        }
    }
}

/// All checks and the verdict.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether sandboxes can run here.
    pub ok: bool,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// The verdict over checks.
    pub fn new(checks: Vec<Check>) -> Self {
        Self {
            ok: checks.iter().all(|c| c.status != Status::Missing),
            checks,
        }
    }

    /// The checks, for people.
    pub fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        for check in &self.checks {
            let mut found = check.found.clone();
            if let Some(mend) = &check.mend {
                found.push_str(&format!("\n  mend it with: {mend}"));
            }
            let status = match check.status {
                Status::Ok => "ok".green().to_string(),
                Status::Warn => "warn".yellow().to_string(),
                Status::Missing => "missing".red().to_string(),
            };
            table.add_row([status, check.name.to_owned(), found]);
        }
        out!("{}", table.trim_fmt());
    }

    /// The verdict, for people.
    pub fn print_verdict(&self) {
        let (count, verdict) = (
            self.checks.iter().filter(|c| c.status == Status::Missing).count(),
            self.ok,
        );
        match verdict {
            true => out!("\nSandboxes can run on this host."),
            false => out!("\nSandboxes cannot run on this host yet: {count} missing."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_fails() {
        let checks = vec![Check::ok("a", "x"), Check::warn("b", "y")];
        assert!(Report::new(checks.clone()).ok);
        let missing = [checks, vec![Check::missing("c", "z").mend("do it")]].concat();
        let report = Report::new(missing);
        assert!(!report.ok);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            json["checks"][2],
            serde_json::json!({"name": "c", "status": "missing", "found": "z", "mend": "do it"})
        );
        assert_eq!(json["checks"][0].get("mend"), None);
    }
}
