//! The policy file.
//!
//! ```toml
//! allow = ["pypi.org", "*.pythonhosted.org", "db.example.com:5432", "10.1.2.0/24:443", "preset:github"]
//! deny = ["gist.github.com"]
//!
//! [[rule]]                       # the same as an entry of allow, with bounds
//! to = ["files.example.com"]
//! bytes_up = "10M"               # in all, for the sandbox
//! rate = "1M"                    # a second, each way
//! connections = 8                # at once
//! ```

use crate::{
    Limits, Mode, PolicyError, PresetSource,
    layer::{Rule, Written},
    policy::check_open_denial,
    preset::expand,
};
use omnirun_ids::ByteSize;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    internet: Option<bool>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    log_only: bool,
    #[serde(default)]
    rule: Vec<Bounded>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounded {
    to: Vec<String>,
    bytes_up: Option<String>,
    bytes_down: Option<String>,
    rate: Option<String>,
    connections: Option<u32>,
}

/// A preset is a list and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    allow: Vec<String>,
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PolicyError> {
    // With the line and a picture of it.
    toml::from_str(text).map_err(|error| PolicyError::File(error.to_string().trim_end().to_owned()))
}

/// The entries of a preset's file.
pub(crate) fn preset_entries(text: &str) -> Result<Vec<String>, PolicyError> {
    Ok(parse::<Preset>(text)?.allow)
}

/// The layer that a policy file means; none: no network.
pub(crate) fn read(text: &str, presets: &dyn PresetSource) -> Result<Option<Written>, PolicyError> {
    let file: File = parse(text)?;
    let mut allow = expand(&file.allow, Limits::default(), presets)?;
    for bounded in &file.rule {
        allow.extend(expand(&bounded.to, bounded.limits()?, presets)?);
    }
    // The bounded one of two equal entries is the one that is meant.
    allow.sort_by_key(|rule| rule.limits.is_empty());
    let deny = expand(&file.deny, Limits::default(), presets)?;
    let mode = match file.internet {
        None => Mode::Allow,
        Some(true) => {
            check_open(&allow, &deny)?;
            Mode::Open
        }
        Some(false) if allow.is_empty() => return Ok(None),
        Some(false) => {
            let words = "internet = false is an air gap, and there is a list of what is allowed; take one of them out";
            return Err(PolicyError::Contradiction(words.to_owned()));
        }
    };
    Ok(Some(Written {
        mode,
        log_only: file.log_only,
        allow,
        deny,
    }))
}

/// Without an air gap or a list, an entry can only open what is private, or deny.
fn check_open(allow: &[Rule], deny: &[Rule]) -> Result<(), PolicyError> {
    if let Some(rule) = allow.iter().find(|rule| !rule.entry.is_private()) {
        return Err(PolicyError::Contradiction(format!(
            "internet = true allows everything public, so allowing {:?} says nothing; for a sandbox that reaches its list \
             alone take internet = true out",
            &*rule.text
        )));
    }
    deny.iter().try_for_each(check_open_denial)
}

impl Bounded {
    fn limits(&self) -> Result<Limits, PolicyError> {
        let size = |key: &str, text: &Option<String>| {
            let parsed = text
                .as_ref()
                .map(|text| text.parse::<ByteSize>().map(|size| size.0));
            parsed
                .transpose()
                .map_err(|error| PolicyError::File(format!("{key} of the rule for {:?}: {error}", self.to)))
        };
        let limits = Limits {
            bytes_up: size("bytes_up", &self.bytes_up)?,
            bytes_down: size("bytes_down", &self.bytes_down)?,
            rate: size("rate", &self.rate)?,
            connections: self.connections,
        };
        if limits.rate == Some(0) || limits.connections == Some(0) {
            let words = format!(
                "the rule for {:?} allows nothing: rate and connections are at least 1",
                self.to
            );
            return Err(PolicyError::File(words));
        }
        Ok(limits)
    }
}
