//! What `--net` takes.

use crate::PolicyError;
use std::{fmt, path::PathBuf, str::FromStr};

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
        match text.contains('/') || text.ends_with(".toml") {
            true => Ok(Self::File(text.into())),
            false => Err(PolicyError::Flag(text.to_owned())),
        }
    }
}

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
