//! Reading a scenario: YAML, then what YAML's types cannot say.

use super::{Expect, Scenario, Step};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML of a scenario's shape. The message has line and column.
    #[error("the scenario is not valid: {0}")]
    Yaml(String),
    /// A rule that spans several fields.
    #[error("the scenario is not valid: {0}")]
    Rule(String),
}

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read {
            path: path.to_owned(),
            source,
        })?;
        Scenario::parse(&text)
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario =
            serde_saphyr::from_str(text).map_err(|e| ScenarioError::Yaml(first_line(&e.to_string())))?;
        scenario.validate()?;
        Ok(scenario)
    }

    /// What types cannot say: unique names, patterns that compile, a scale that is a scale.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        let rule = |message: String| Err(ScenarioError::Rule(message));
        if !(0.001..=1e6).contains(&self.clock_scale) {
            return rule(format!(
                "clock_scale is {}, must be from 0.001 to 1000000",
                self.clock_scale
            ));
        }
        if !(1..=86_400).contains(&self.queue.ttl_seconds) || self.events.page_size == 0 {
            return rule("queue.ttl_seconds must be from 1 to 86400, events.page_size above 0".into());
        }
        let mut sessions = BTreeSet::new();
        for session in &self.sessions {
            let name = &session.name;
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            {
                return rule(format!("session name {name:?}: letters, digits, - and _ only"));
            }
            if !sessions.insert(name) {
                return rule(format!("two sessions are named {name:?}"));
            }
            let mut calls = BTreeSet::new();
            for spec in session.steps.iter().flat_map(Step::calls) {
                if spec.name.as_ref().is_some_and(|n| !calls.insert(n)) {
                    return rule(format!("session {name:?} has two calls named {:?}", spec.name));
                }
                let Expect { regex, .. } = &spec.expect;
                for pattern in regex.iter().chain(spec.capture.values()) {
                    if let Err(error) = regex::Regex::new(pattern) {
                        // The last line is the reason; those before draw the pattern.
                        let error = error.to_string();
                        let why = error.lines().last().unwrap_or_default();
                        return rule(format!("session {name:?}, pattern {pattern:?}: {why}"));
                    }
                }
            }
        }
        for fault in &self.faults {
            if fault.statuses.iter().any(|s| !(400..=599).contains(s)) {
                return rule(format!(
                    "fault statuses {:?} must be from 400 to 599",
                    fault.statuses
                ));
            }
        }
        Ok(())
    }
}

/// The parser adds a drawing of the place; line and column in its first line are enough for one clear line.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

impl Step {
    /// The calls of this step.
    pub(crate) fn calls(&self) -> &[super::CallSpec] {
        match self {
            Step::Call(spec) => std::slice::from_ref(spec),
            Step::Calls(calls) => calls.specs(),
            _ => &[],
        }
    }

    /// What happens while they are open.
    pub(crate) fn meanwhile(&self) -> &[super::Meanwhile] {
        match self {
            Step::Calls(calls) => calls.meanwhile(),
            _ => &[],
        }
    }
}
