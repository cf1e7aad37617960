//! Who speaks for a work item: its own short-lived token if it has one, else the environment key.

use crate::work::WorkSecret;
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use omnirun_redact::Secret;
use serde::Deserialize;

/// Padding is optional, and bits that the last character cannot carry are forgiven.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);
const STD: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);

/// The bearer of an item's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The bearer itself.
    pub bearer: Secret,
    /// Where it comes from.
    pub source: CredentialSource,
}

/// Where a credential comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// The item's own token.
    SessionsToken,
    /// The environment key: the item had no secret.
    EnvironmentKey,
    /// The environment key: the item had a secret that holds no token. Worth a warning.
    EnvironmentKeyAfterBadSecret,
}

/// There is neither a token nor a key, so no request can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work item has no usable secret and there is no environment key")]
pub struct NoCredential;

#[derive(Deserialize)]
struct Payload {
    sessions_token: Option<String>,
}

/// The sessions token in a secret, or nothing if it does not decode or has none.
fn sessions_token(secret: &Secret) -> Option<Secret> {
    let text = secret.expose().trim();
    let bytes = URL.decode(text).or_else(|_| STD.decode(text)).ok()?;
    let payload: Payload = serde_json::from_slice(&bytes).ok()?;
    payload.sessions_token.filter(|t| !t.is_empty()).map(Secret::new)
}

/// Picks the credential of an item.
pub fn item_credential(
    secret: Option<&WorkSecret>,
    key: Option<&Secret>,
) -> Result<Credential, NoCredential> {
    if let Some(token) = secret.and_then(|s| sessions_token(&s.0)) {
        return Ok(Credential {
            bearer: token,
            source: CredentialSource::SessionsToken,
        });
    }
    let source = match secret {
        Some(_) => CredentialSource::EnvironmentKeyAfterBadSecret,
        None => CredentialSource::EnvironmentKey,
    };
    match key.filter(|k| !k.is_empty()) {
        Some(key) => Ok(Credential {
            bearer: key.clone(),
            source,
        }),
        None => Err(NoCredential),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::*;
    use proptest::prelude::*;

    fn ws(s: impl Into<String>) -> WorkSecret {
        WorkSecret(Secret::new(s))
    }

    #[test]
    fn both_alphabets_with_and_without_padding() {
        // The bytes are chosen so that the alphabets differ and padding is needed.
        let json = r#"{"sessions_token":"tok-??>>~~","other":"x"}"#;
        for text in [
            BASE64_URL_SAFE.encode(json),
            BASE64_URL_SAFE_NO_PAD.encode(json),
            BASE64_STANDARD.encode(json),
            BASE64_STANDARD_NO_PAD.encode(json),
            format!("{}\n", BASE64_STANDARD.encode(json)),
        ] {
            let c = item_credential(Some(&ws(text)), None).unwrap();
            assert_eq!(
                (c.bearer.expose(), c.source),
                ("tok-??>>~~", CredentialSource::SessionsToken)
            );
        }
    }

    #[test]
    fn falls_back_to_the_key_and_says_so() {
        let key = Secret::new("key");
        let empty = BASE64_URL_SAFE.encode(r#"{"sessions_token":""}"#);
        for bad in ["%%%", "bm90IGpzb24", &empty, "e30"] {
            let c = item_credential(Some(&ws(bad)), Some(&key)).unwrap();
            assert_eq!(c.source, CredentialSource::EnvironmentKeyAfterBadSecret, "{bad}");
            assert_eq!(item_credential(Some(&ws(bad)), None), Err(NoCredential));
        }
        assert_eq!(
            item_credential(None, Some(&key)).unwrap().source,
            CredentialSource::EnvironmentKey
        );
        assert_eq!(item_credential(None, Some(&Secret::new(""))), Err(NoCredential));
    }

    proptest! {
        #[test]
        fn any_secret_is_a_token_or_a_fallback(s in ".*") {
            let _ = item_credential(Some(&ws(s)), Some(&Secret::new("key"))).unwrap();
        }

        #[test]
        fn any_token_comes_back(token in "[^\"\\\\\\x00-\\x1f]{1,64}") {
            let text = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!({"sessions_token": token}).to_string());
            prop_assert_eq!(item_credential(Some(&ws(text)), None).unwrap().bearer, Secret::new(token));
        }
    }
}
