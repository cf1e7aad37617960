//! Presets: files with a name, whose lists become part of another's.
//!
//! A preset is written as a policy file is, without what is about a policy as a whole (`internet`, `log_only`). Where
//! `preset:NAME` is in a list of what is allowed, what the preset allows is allowed, under its own rules, and what it
//! denies is denied. In a list of what is denied, everything that the preset mentions is denied.

use crate::{
    Limits, PolicyError, RuleLimits,
    file::{self, Bounded, Line, Lists},
    index::Rule,
    layer::MOST_ENTRIES,
    target::Entry,
};
use std::collections::HashSet;

/// What begins an entry that stands for a preset's.
const PREFIX: &str = "preset:";

/// Those that come with OmniRun.
const SHIPPED: [(&str, &str); 2] = [
    ("anthropic", include_str!("../presets/anthropic.toml")),
    ("github", include_str!("../presets/github.toml")),
];

/// Where an operator's presets are.
pub trait PresetSource {
    /// The text of a preset; none if there is none of this name, when the one that comes with OmniRun is taken. The name is
    /// of letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// Why it cannot be read although it is there, for people.
    fn preset(&self, name: &str) -> Result<Option<String>, String>;

    /// The names of those that there are, to be told to somebody who asked for another.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// None beside those that come with OmniRun.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPresets;

impl PresetSource for NoPresets {
    fn preset(&self, _name: &str) -> Result<Option<String>, String> {
        Ok(None)
    }
}

/// The rules that lists stand for, presets expanded.
pub(crate) struct Expanded<'a> {
    presets: &'a dyn PresetSource,
    /// The presets that are being looked at, one within the other.
    within: Vec<String>,
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
}

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Allow,
    Deny,
}

/// What a rule says about its entries.
#[derive(Debug, Clone, Copy, Default)]
struct With<'a> {
    limits: Option<&'a RuleLimits>,
    ports: &'a [u16],
}

impl<'a> Expanded<'a> {
    pub(crate) fn new(presets: &'a dyn PresetSource) -> Self {
        Self {
            presets,
            within: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }

    /// All that a file lists.
    pub(crate) fn add(&mut self, lists: &Lists) -> Result<(), PolicyError> {
        self.bounded(&lists.rules)?;
        self.allow(&lists.allow)?;
        self.deny(&lists.deny)
    }

    pub(crate) fn allow(&mut self, entries: &[Line]) -> Result<(), PolicyError> {
        self.entries(List::Allow, entries, With::default(), &mut HashSet::new())
    }

    pub(crate) fn deny(&mut self, entries: &[Line]) -> Result<(), PolicyError> {
        self.entries(List::Deny, entries, With::default(), &mut HashSet::new())
    }

    fn bounded(&mut self, rules: &[Bounded]) -> Result<(), PolicyError> {
        let mut names = HashSet::new();
        for rule in rules {
            // One name is one count.
            if !names.insert(&rule.name) {
                let words = format!(
                    "there are two rules {:?}; give each a name of its own: name = \"...\"",
                    rule.name
                );
                return Err(rule.to.place(PolicyError::Contradiction(words)));
            }
            let name = match self.within.last() {
                Some(preset) => format!("{PREFIX}{preset} {}", rule.name),
                None => rule.name.clone(),
            };
            let limits = (rule.limits != Limits::default()).then(|| RuleLimits {
                rule: name.into(),
                limits: rule.limits,
            });
            let with = With {
                limits: limits.as_ref(),
                ports: &rule.ports,
            };
            self.entries(List::Allow, &rule.to.entries, with, &mut HashSet::new())?;
        }
        Ok(())
    }

    /// `seen`: presets that have been in this list, which are not read again. So presets that contain one another many
    /// times do not take for ever.
    fn entries(
        &mut self,
        list: List,
        entries: &[Line],
        with: With<'_>,
        seen: &mut HashSet<String>,
    ) -> Result<(), PolicyError> {
        for line in entries {
            let added = match line.text.trim().strip_prefix(PREFIX) {
                Some(name) => self.preset(list, name, with, seen),
                None => self.entry(list, &line.text, with),
            };
            added.map_err(|error| match error {
                error @ PolicyError::TooMany { .. } => error,
                // It has said already which way it goes round.
                error @ PolicyError::Cycle { .. } if !self.within.is_empty() => error,
                error => line.place(error),
            })?;
        }
        Ok(())
    }

    fn entry(&mut self, list: List, text: &str, with: With<'_>) -> Result<(), PolicyError> {
        let entry = Entry::parse(text)?;
        if entry.port.is_some() && !with.ports.is_empty() {
            return Err(PolicyError::entry(
                text,
                "it has a port, and its rule has ports; take one of them out",
            ));
        }
        let text = text.trim();
        // As it would be written with the port.
        let host = match text.contains(':') && !text.starts_with('[') {
            true => format!("[{text}]"),
            false => text.to_owned(),
        };
        let with_port = |port: &u16| (Some(*port), format!("{host}:{port}"));
        let entries: Vec<_> = match with.ports {
            [] => vec![(entry.port, text.to_owned())],
            ports => ports.iter().map(with_port).collect(),
        };
        for (port, text) in entries {
            if self.allow.len() + self.deny.len() >= MOST_ENTRIES {
                return Err(PolicyError::TooMany { most: MOST_ENTRIES });
            }
            let target = entry.target.clone();
            let entry = Entry { target, port };
            let rules = match list {
                List::Allow => {
                    entry.may_be_allowed(&text)?;
                    &mut self.allow
                }
                List::Deny => &mut self.deny,
            };
            rules.push(Rule {
                text: text.into(),
                entry,
                limits: with.limits.cloned(),
            });
        }
        Ok(())
    }

    fn preset(
        &mut self,
        list: List,
        name: &str,
        with: With<'_>,
        seen: &mut HashSet<String>,
    ) -> Result<(), PolicyError> {
        if self.within.iter().any(|outer| outer == name) {
            let mut way = self.within.clone();
            way.push(name.to_owned());
            return Err(PolicyError::Cycle {
                name: name.to_owned(),
                way: way.join(" > "),
            });
        }
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let text = self.read(name)?;
        self.within.push(name.to_owned());
        let added = file::preset(&text).and_then(|lists| self.within(list, &lists, with, seen));
        self.within.pop();
        added.map_err(|error| match error {
            error @ (PolicyError::Cycle { .. } | PolicyError::TooMany { .. }) => error,
            error => error.within(format!("preset {name:?}")),
        })
    }

    /// What a preset lists, in the place where it is mentioned.
    fn within(
        &mut self,
        list: List,
        lists: &Lists,
        with: With<'_>,
        seen: &mut HashSet<String>,
    ) -> Result<(), PolicyError> {
        if list == List::Deny {
            let rules = lists.rules.iter().map(|rule| &rule.to.entries);
            let all = rules.chain([&lists.allow, &lists.deny]);
            return all
                .into_iter()
                .try_for_each(|entries| self.entries(list, entries, with, seen));
        }
        let says_something = with.limits.is_some() || !with.ports.is_empty();
        if let Some(rule) = lists.rules.first().filter(|_| says_something) {
            let words = "it has rules of its own, so it can be in allow and not in the `to` of a rule";
            return Err(rule.to.place(PolicyError::Contradiction(words.to_owned())));
        }
        self.bounded(&lists.rules)?;
        self.entries(list, &lists.allow, with, seen)?;
        self.entries(List::Deny, &lists.deny, With::default(), &mut HashSet::new())
    }

    fn read(&self, name: &str) -> Result<String, PolicyError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(PolicyError::entry(
                name,
                "no name of a preset: it has up to 64 letters, digits, - and _",
            ));
        }
        match self.presets.preset(name) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => SHIPPED
                .iter()
                .find(|(ours, _)| *ours == name)
                .map(|(_, text)| (*text).to_owned())
                .ok_or_else(|| self.unknown(name)),
            // The one of ours with the same name might allow more.
            Err(why) => Err(PolicyError::File(why).within(format!("preset {name:?}"))),
        }
    }

    fn unknown(&self, name: &str) -> PolicyError {
        let mut known = self.presets.names();
        known.extend(SHIPPED.map(|(name, _)| name.to_owned()));
        known.sort_unstable();
        known.dedup();
        PolicyError::NoPreset {
            name: name.to_owned(),
            known: known.join(", "),
        }
    }
}
