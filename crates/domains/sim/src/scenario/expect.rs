//! Expectations about results.

use super::{Scope, render_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a result must be. Strings may use templates.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// `is_error`. Default: false, unless `any` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_error: Option<bool>,
    /// Anything goes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub any: bool,
    /// Texts that occur.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<String>,
    /// Texts that do not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// A regular expression that matches somewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// The whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The text, read as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Types of the content blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<String>>,
    /// No result may come.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub none: bool,
}

/// A result as received.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its text blocks, joined.
    pub text: String,
    /// `is_error`.
    pub is_error: bool,
    /// Types of its blocks.
    pub blocks: Vec<String>,
}

impl Seen {
    /// Reads a result event.
    pub(crate) fn of(event: &Value) -> Seen {
        let blocks = event["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kind = |b: &Value| b["type"].as_str().unwrap_or("?").to_owned();
        Seen {
            text: blocks
                .iter()
                .filter_map(|b| b["text"].as_str())
                .collect::<Vec<_>>()
                .join("\n"),
            is_error: event["is_error"].as_bool().unwrap_or(false),
            blocks: blocks.iter().map(kind).collect(),
        }
    }
}

impl Expect {
    /// Holds a result against it. The error says what differs.
    pub(crate) fn check(&self, seen: Option<&Seen>, scope: &Scope) -> Result<(), String> {
        let text = |t: &str| render_text(t, scope).map_err(|e| e.to_string());
        let Some(seen) = seen else {
            return if self.none || self.any {
                Ok(())
            } else {
                Err("no result came".into())
            };
        };
        if self.none {
            return Err("a result came where none may".into());
        }
        if self.any {
            return Ok(());
        }
        let expected_error = self.is_error.unwrap_or(false);
        if seen.is_error != expected_error {
            return Err(format!("is_error is {}, not {expected_error}", seen.is_error));
        }
        for part in &self.contains {
            let part = text(part)?;
            if !seen.text.contains(&part) {
                return Err(format!("the text lacks {part:?}"));
            }
        }
        for part in &self.lacks {
            let part = text(part)?;
            if seen.text.contains(&part) {
                return Err(format!("the text has {part:?}"));
            }
        }
        if let Some(pattern) = &self.regex {
            let regex = regex::Regex::new(pattern).map_err(|e| e.to_string())?;
            if !regex.is_match(&seen.text) {
                return Err(format!("the text does not match {pattern:?}"));
            }
        }
        if let Some(exact) = &self.exact {
            let exact = text(exact)?;
            if seen.text != exact {
                return Err(format!("the text is not exactly {exact:?}"));
            }
        }
        if let Some(json) = &self.json {
            match serde_json::from_str::<Value>(&seen.text) {
                Ok(value) if &value == json => {}
                Ok(_) => return Err("the text is JSON of another value".into()),
                Err(_) => return Err("the text is not JSON".into()),
            }
        }
        match &self.blocks {
            Some(blocks) if *blocks != seen.blocks => {
                Err(format!("the blocks are {:?}, not {blocks:?}", seen.blocks))
            }
            _ => Ok(()),
        }
    }
}
