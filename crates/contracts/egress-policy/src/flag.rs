//! What `--net` takes.

use crate::{PolicyError, target::Entry};
use std::{fmt, path::PathBuf, str::FromStr};

/// What can be written.
const WORDS: &str = "write none, open, allow:NAME,..., preset:NAME, or the path of a policy file (with a / in it, or ending \
                     in .toml)";

/// What `--net` takes. A file is for the caller to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetFlag {
    /// No network card.
    None,
    /// The public internet.
    Open,
    /// What is listed.
    Allow(Vec<String>),
    /// What a policy file says.
    File(PathBuf),
}

impl FromStr for NetFlag {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let text = text.trim();
        let list = |names: &str| -> Vec<String> {
            let names = names.split(',').map(str::trim);
            names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        match text {
            "none" => return Ok(Self::None),
            "open" => return Ok(Self::Open),
            _ => {}
        }
        if let Some(names) = text.strip_prefix("allow:") {
            return Ok(Self::Allow(list(names)));
        }
        if text.starts_with("preset:") {
            return Ok(Self::Allow(list(text)));
        }
        let first = text.split(',').next().unwrap_or_default();
        let cidr = Entry::parse(first).is_ok_and(|_| first.contains('/'));
        if !cidr && (text.contains('/') || text.ends_with(".toml")) {
            return Ok(Self::File(text.into()));
        }
        Err(PolicyError::Flag {
            text: text.to_owned(),
            hint: hint(text, first),
        })
    }
}

fn hint(text: &str, first: &str) -> String {
    let word = text.to_ascii_lowercase();
    match word.as_str() {
        "open" | "none" => format!("write it in lower case: {word}"),
        "off" | "false" | "no" => "for no network write none".to_owned(),
        "on" | "true" | "all" | "full" | "internet" => "for the public internet write open".to_owned(),
        "github" | "anthropic" => format!("for the preset write preset:{word}"),
        // One label could be any word.
        _ if first.contains(['.', ':']) && Entry::parse(first).is_ok() => {
            format!("to reach that and nothing else write allow:{text}")
        }
        _ => WORDS.to_owned(),
    }
}

/// What can be read again.
impl fmt::Display for NetFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Open => f.write_str("open"),
            Self::Allow(names) => write!(f, "allow:{}", names.join(",")),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}
