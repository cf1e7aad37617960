//! Errors of the API: their body, and what a status means to a worker.

use crate::work::null_is_default;
use serde::{Deserialize, Serialize};

/// The body of every 4xx and 5xx.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Always `error`.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// What went wrong.
    #[serde(default, deserialize_with = "null_is_default")]
    pub error: ApiError,
    /// For Anthropic's support.
    #[serde(default)]
    pub request_id: Option<String>,
}

/// The error itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// `not_found_error` and the like.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// For people.
    #[serde(default, deserialize_with = "null_is_default")]
    pub message: String,
}

/// What a failed request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Trying again may help: no answer at all, 408, 409, 429, any 5xx.
    Transient,
    /// The answer will not change: every other 4xx.
    Permanent,
}

/// What a status means; `None` is no answer at all (a network error, a time limit, a body that cannot be read).
pub fn verdict(status: Option<u16>) -> Verdict {
    match status {
        Some(408 | 409 | 429) => Verdict::Transient,
        Some(400..=499) => Verdict::Permanent,
        _ => Verdict::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_statuses() {
        for permanent in [400, 401, 403, 404, 412, 413, 422] {
            assert_eq!(verdict(Some(permanent)), Verdict::Permanent, "{permanent}");
        }
        for transient in [
            None,
            Some(408),
            Some(409),
            Some(429),
            Some(500),
            Some(503),
            Some(529),
        ] {
            assert_eq!(verdict(transient), Verdict::Transient, "{transient:?}");
        }
    }

    #[test]
    fn a_body_needs_nothing() {
        let body: ErrorBody = serde_json::from_str(
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"lease moved",
            "details":{"error_code":"heartbeat_precondition_failed","current_state":{"state":"active"}}},
            "request_id":"req_9"}"#,
        )
        .unwrap();
        assert_eq!(body.error.kind, "invalid_request_error");
        assert_eq!(
            serde_json::from_str::<ErrorBody>("{}").unwrap(),
            ErrorBody::default()
        );
        let body: ErrorBody = serde_json::from_str(
            r#"{"type":null,"error":{"type":null,"message":null},"request_id":"req_9"}"#,
        )
        .unwrap();
        assert_eq!(body.request_id.as_deref(), Some("req_9"));
    }
}
