//! Presets: lists with a name.

use crate::{
    Limits, PolicyError, file,
    layer::{MOST_ENTRIES, Rule},
    policy::rule,
};

/// What begins an entry that stands for a preset's.
const PREFIX: &str = "preset:";

/// Those that come with OmniRun.
const SHIPPED: [(&str, &str); 2] = [
    ("anthropic", include_str!("../presets/anthropic.toml")),
    ("github", include_str!("../presets/github.toml")),
];

/// Where an operator's presets are.
pub trait PresetSource {
    /// The text of a preset; none if there is none of this name.
    fn preset(&self, name: &str) -> Option<String>;
}

/// None beside those that come with OmniRun.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPresets;

impl PresetSource for NoPresets {
    fn preset(&self, _name: &str) -> Option<String> {
        None
    }
}

/// The rules that entries stand for.
pub(crate) fn expand(
    entries: &[String],
    limits: Limits,
    presets: &dyn PresetSource,
) -> Result<Vec<Rule>, PolicyError> {
    let mut rules = Vec::new();
    into(entries, limits, presets, &mut Vec::new(), &mut rules)?;
    Ok(rules)
}

fn into(
    entries: &[String],
    limits: Limits,
    presets: &dyn PresetSource,
    within: &mut Vec<String>,
    rules: &mut Vec<Rule>,
) -> Result<(), PolicyError> {
    for entry in entries {
        let Some(name) = entry.trim().strip_prefix(PREFIX) else {
            if rules.len() >= MOST_ENTRIES {
                return Err(PolicyError::TooMany { most: MOST_ENTRIES });
            }
            rules.push(rule(entry, limits)?);
            continue;
        };
        if within.iter().any(|outer| outer == name) {
            return Err(PolicyError::Cycle {
                name: name.to_owned(),
            });
        }
        let shipped = || {
            SHIPPED
                .iter()
                .find(|(ours, _)| *ours == name)
                .map(|(_, text)| (*text).to_owned())
        };
        let text = presets
            .preset(name)
            .or_else(shipped)
            .ok_or_else(|| PolicyError::NoPreset {
                name: name.to_owned(),
                known: SHIPPED.map(|(name, _)| name).join(", "),
            })?;
        within.push(name.to_owned());
        let inner =
            file::preset_entries(&text).and_then(|inner| into(&inner, limits, presets, within, rules));
        within.pop();
        inner.map_err(|source| match source {
            error @ (PolicyError::Cycle { .. } | PolicyError::TooMany { .. }) => error,
            source => PolicyError::Preset {
                name: name.to_owned(),
                source: Box::new(source),
            },
        })?;
    }
    Ok(())
}
