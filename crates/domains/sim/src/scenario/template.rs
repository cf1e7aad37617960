//! Templates in call inputs and expectations: `${results.NAME.text}`, `${results.NAME.is_error}`, `${captures.NAME}`,
//! `${repeat:COUNT:TEXT}`. `$${` stands for a literal `${`.

use super::Seen;
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest text a `repeat` may make: what large-input tests need, and no more.
const MAX_REPEAT: usize = 64 << 20;

/// What templates can name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub results: BTreeMap<String, Seen>,
    pub captures: BTreeMap<String, String>,
}

/// A template that cannot be filled in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("template ${{{0} has no end")]
    Open(String),
    #[error("template ${{{0}}} names nothing that is known here")]
    Unknown(String),
}

/// Fills in every string of a value.
pub(crate) fn render(value: &Value, scope: &Scope) -> Result<Value, TemplateError> {
    Ok(match value {
        Value::String(text) => Value::String(render_text(text, scope)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|v| render(v, scope)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(k, v)| Ok((k.clone(), render(v, scope)?)))
                .collect::<Result<_, TemplateError>>()?,
        ),
        other => other.clone(),
    })
}

/// Fills in one string.
pub(crate) fn render_text(text: &str, scope: &Scope) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let body = &rest[at + 2..];
        let end = body
            .find('}')
            .ok_or_else(|| TemplateError::Open(body.chars().take(30).collect()))?;
        out.push_str(&lookup(&body[..end], scope)?);
        rest = &body[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn lookup(name: &str, scope: &Scope) -> Result<String, TemplateError> {
    let unknown = || TemplateError::Unknown(name.to_owned());
    if let Some(rest) = name.strip_prefix("repeat:") {
        let (count, text) = rest.split_once(':').ok_or_else(unknown)?;
        let count: usize = count.parse().map_err(|_| unknown())?;
        if count.saturating_mul(text.len()) > MAX_REPEAT {
            return Err(unknown());
        }
        return Ok(text.repeat(count));
    }
    if let Some(capture) = name.strip_prefix("captures.") {
        return scope.captures.get(capture).cloned().ok_or_else(unknown);
    }
    let (call, field) = name
        .strip_prefix("results.")
        .and_then(|r| r.rsplit_once('.'))
        .ok_or_else(unknown)?;
    let seen = scope.results.get(call).ok_or_else(unknown)?;
    match field {
        "text" => Ok(seen.text.clone()),
        "is_error" => Ok(seen.is_error.to_string()),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        let mut scope = Scope::default();
        let seen = Seen {
            text: "out".into(),
            is_error: true,
            blocks: vec!["text".into()],
        };
        scope.results.insert("a.b".into(), seen);
        scope.captures.insert("pid".into(), "17".into());
        scope
    }

    #[test]
    fn templates_are_filled_in_at_any_depth() {
        let value = serde_json::json!({"a": ["x${results.a.b.text}y", 3], "b": "${captures.pid}${results.a.b.is_error}"});
        let expected = serde_json::json!({"a": ["xouty", 3], "b": "17true"});
        assert_eq!(render(&value, &scope()).unwrap(), expected);
    }

    #[test]
    fn literals_repeats_and_errors() {
        assert_eq!(
            render_text("echo $${HOME} $x ${repeat:3:ab}", &scope()).unwrap(),
            "echo ${HOME} $x ababab"
        );
        for bad in [
            "${results.zz.text}",
            "${captures.nope}",
            "${open",
            "${repeat:9999999999:a}",
            "${}",
        ] {
            assert!(render_text(bad, &scope()).is_err(), "{bad}");
        }
    }
}
