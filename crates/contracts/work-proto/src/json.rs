//! JSON strings may hold halves of UTF-16 surrogate pairs (`"\ud800"`), which no Rust string can. Models write them, so
//! they are mended before anybody parses: a lone half becomes U+FFFD, as the official workers do with results.

use std::borrow::Cow;

/// Replaces each `\uXXXX` escape that is half of a surrogate pair without the other half by `\ufffd`. Everything else,
/// valid JSON or not, comes back as it was.
pub fn mend_surrogates(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|b| *b == b'\\') {
        let start = at + found;
        let Some(unit) = unit_at(bytes, start) else {
            // Some other escape (a second backslash belongs to it), or the end of the text.
            at = (start + 2).min(bytes.len());
            continue;
        };
        at = start + 6;
        match unit {
            0xd800..=0xdbff => {
                if let Some(0xdc00..=0xdfff) = unit_at(bytes, at) {
                    at += 6;
                    continue;
                }
            }
            0xdc00..=0xdfff => {}
            _ => continue,
        }
        out.push_str(&json[copied..start]);
        out.push_str("\\ufffd");
        copied = at;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(&json[copied..]);
    Cow::Owned(out)
}

/// The code unit of a `\uXXXX` escape that starts here.
fn unit_at(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?;
    if &escape[..2] != b"\\u" {
        return None;
    }
    escape[2..]
        .iter()
        .try_fold(0u16, |n, b| Some(n << 4 | (*b as char).to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_become_replacement_characters_and_pairs_stay() {
        for (json, mended) in [
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00x\ud83d""#, r#""\ufffdx\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\ud83"#, r#""\ud83"#),
            (r"\", r"\"),
        ] {
            assert_eq!(mend_surrogates(json), mended);
        }
    }

    proptest! {
        #[test]
        fn any_string_of_units_parses_afterwards(units in prop::collection::vec(prop_oneof![0xd7f0u16..0xe010, 0u16..256], 0..40)) {
            let body: String = units.iter().map(|u| format!("\\u{u:04x}")).collect();
            let json = format!("\"{body}\"");
            let text: String = serde_json::from_str(&mend_surrogates(&json)).unwrap();
            prop_assert_eq!(text, String::from_utf16_lossy(&units));
        }

        #[test]
        fn valid_json_is_left_alone(text in ".*") {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(mend_surrogates(&json), json.as_str());
        }
    }
}
