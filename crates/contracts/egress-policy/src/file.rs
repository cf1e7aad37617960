//! The policy file.
//!
//! ```toml
//! # internet = true     # the public internet, without what is denied; false: no network card at all
//! # log_only = true     # let everything public through, and log what would not have been
//! allow = ["pypi.org", "*.pythonhosted.org", "db.example.com:5432", "10.1.2.0/24:443", "preset:github"]
//! deny = ["gist.github.com"]
//!
//! [[rule]]                       # allows as well, with bounds that all of `to` share
//! to = ["files.example.com"]
//! ports = [443, 8443]            # instead of :PORT at each
//! bytes_up = "10MiB"             # from the sandbox, in all; bytes_down: to it
//! rate = "1MiB"                  # a second, each way
//! connections = 8                # at once
//! name = "uploads"               # what it is called where bytes are counted; else its first entries
//! ```

use crate::{Limits, Mode, PolicyError, PresetSource, layer::Written, policy, preset::Expanded};
use omnirun_ids::ByteSize;
use serde::{Deserialize, Deserializer, de};
use std::num::{NonZeroU16, NonZeroU32};
use toml::Spanned;

/// An entry, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// None: not in a file.
    line: Option<usize>,
}

impl Line {
    pub(crate) fn place(&self, error: PolicyError) -> PolicyError {
        at(self.line, error)
    }
}

/// Entries that are not of a file.
pub(crate) fn lines(entries: &[String]) -> Vec<Line> {
    let line = |text: &String| Line {
        text: text.clone(),
        line: None,
    };
    entries.iter().map(line).collect()
}

fn at(line: Option<usize>, error: PolicyError) -> PolicyError {
    match line {
        Some(line) => error.within(format!("line {line}")),
        None => error,
    }
}

/// What a file lists.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    pub(crate) allow: Vec<Line>,
    pub(crate) rules: Vec<Bounded>,
    pub(crate) deny: Vec<Line>,
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Bounded {
    pub(crate) name: String,
    pub(crate) to: To,
    pub(crate) ports: Vec<u16>,
    pub(crate) limits: Limits,
}

/// What a rule is about.
#[derive(Debug)]
pub(crate) struct To {
    pub(crate) entries: Vec<Line>,
    line: usize,
}

impl To {
    pub(crate) fn place(&self, error: PolicyError) -> PolicyError {
        at(Some(self.line), error)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    internet: Option<Spanned<bool>>,
    #[serde(default)]
    log_only: bool,
    allow: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    #[serde(default)]
    rule: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetFile {
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    #[serde(default)]
    rule: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    name: Option<String>,
    to: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    ports: Vec<NonZeroU16>,
    bytes_up: Option<Size>,
    bytes_down: Option<Size>,
    rate: Option<Size>,
    connections: Option<NonZeroU32>,
}

/// A size that is not 0: what allows nothing is better not listed.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size such as \"10MiB\", or a number of bytes, of at least 1")
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                match u64::try_from(bytes) {
                    Ok(bytes) if bytes > 0 => Ok(Size(bytes)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(bytes), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                match text.parse::<ByteSize>() {
                    Ok(ByteSize(bytes)) if bytes > 0 => Ok(Size(bytes)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A text, to say which line of it something is in.
#[derive(Clone, Copy)]
struct Source<'a>(&'a str);

impl Source<'_> {
    fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PolicyError> {
        // With the line and a picture of it.
        toml::from_str(text).map_err(|error| PolicyError::File(error.to_string().trim_end().to_owned()))
    }

    fn line(self, at: usize) -> usize {
        let before = self.0.as_bytes().get(..at).unwrap_or(self.0.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn lines(self, entries: Vec<Spanned<String>>) -> Vec<Line> {
        // Counted on from one to the next: a file of 10,000 lines is not gone through 10,000 times.
        let (mut line, mut from) = (1, 0);
        let mut place = |at: usize| {
            match self.0.as_bytes().get(from..at) {
                Some(between) => line += between.iter().filter(|byte| **byte == b'\n').count(),
                None => line = self.line(at),
            }
            from = at;
            line
        };
        let line = |entry: Spanned<String>| Line {
            line: Some(place(entry.span().start)),
            text: entry.into_inner(),
        };
        entries.into_iter().map(line).collect()
    }

    fn rules(self, rules: Vec<WrittenRule>) -> Result<Vec<Bounded>, PolicyError> {
        rules.into_iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(self, rule: WrittenRule) -> Result<Bounded, PolicyError> {
        let to = To {
            line: self.line(rule.to.span().start),
            entries: self.lines(rule.to.into_inner()),
        };
        let ports: Vec<u16> = rule.ports.iter().map(|port| port.get()).collect();
        let name = match rule.name {
            Some(name) if name.trim().is_empty() || name.len() > 64 => {
                return Err(to.place(PolicyError::entry(&name, "a rule's name has 1 to 64 bytes")));
            }
            Some(name) => name,
            None => name_of(&to.entries, &ports),
        };
        if to.entries.is_empty() {
            let words = "the rule is about nothing: `to` is empty";
            return Err(to.place(PolicyError::Contradiction(words.to_owned())));
        }
        let size = |size: Option<Size>| size.map(|Size(bytes)| bytes);
        Ok(Bounded {
            name,
            to,
            ports,
            limits: Limits {
                bytes_up: size(rule.bytes_up),
                bytes_down: size(rule.bytes_down),
                rate: size(rule.rate),
                connections: rule.connections.map(NonZeroU32::get),
            },
        })
    }
}

/// What a rule is called that has no name: the same as long as it is about the same.
fn name_of(entries: &[Line], ports: &[u16]) -> String {
    const SHOWN: usize = 3;
    let mut parts: Vec<String> = entries
        .iter()
        .take(SHOWN)
        .map(|line| line.text.trim().to_owned())
        .collect();
    if let Some(more) = entries.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        parts.push(format!("and {more} more"));
    }
    let mut name = parts.join(" ");
    for port in ports {
        name = format!("{name} :{port}");
    }
    name
}

/// What a preset's file lists.
pub(crate) fn preset(text: &str) -> Result<Lists, PolicyError> {
    let file: PresetFile = Source::parse(text)?;
    let source = Source(text);
    Ok(Lists {
        allow: source.lines(file.allow),
        rules: source.rules(file.rule)?,
        deny: source.lines(file.deny),
    })
}

/// The layer that a policy file means; none: no network.
pub(crate) fn read(text: &str, presets: &dyn PresetSource) -> Result<Option<Written>, PolicyError> {
    let file: PolicyFile = Source::parse(text)?;
    let source = Source(text);
    let allow = file.allow.map(|list| {
        let line = source.line(list.span().start);
        (line, source.lines(list.into_inner()))
    });
    let allow_line = allow.as_ref().map(|(line, _)| *line);
    let lists = Lists {
        allow: allow.map(|(_, list)| list).unwrap_or_default(),
        rules: source.rules(file.rule)?,
        deny: source.lines(file.deny),
    };
    let mut expanded = Expanded::new(presets);
    expanded.add(&lists)?;
    let lists_something = !lists.allow.is_empty() || !lists.rules.is_empty();
    let internet_line = file
        .internet
        .as_ref()
        .map(|internet| source.line(internet.span().start));
    let contradiction = |line, words: &str| Err(at(line, PolicyError::Contradiction(words.to_owned())));
    let mode = match file.internet.map(Spanned::into_inner) {
        None => Mode::Allow,
        Some(false) if lists_something => {
            return contradiction(
                internet_line,
                "internet = false is an air gap, and there is a list of what is allowed; take one of them out",
            );
        }
        Some(false) => return Ok(None),
        // A list that somebody made, and that came out empty, is not the internet.
        Some(true) if allow_line.is_some() && lists.allow.is_empty() => {
            return contradiction(
                allow_line,
                "internet = true allows everything public, and an empty allow allows nothing; take one of them out",
            );
        }
        Some(true) => {
            policy::check_open(&expanded.allow, &expanded.deny)?;
            Mode::Open
        }
    };
    Ok(Some(Written {
        mode,
        log_only: file.log_only,
        allow: expanded.allow,
        deny: expanded.deny,
    }))
}
