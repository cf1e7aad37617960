//! Answers: JSON bodies, and errors in the published envelope.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
};
use serde_json::{Value, json};

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub status: u16,
    pub message: String,
    pub details: Option<Value>,
    pub headers: Vec<(String, String)>,
}

impl Failure {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Failure {
        Failure {
            status,
            message: message.into(),
            details: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn not_found(what: &str) -> Failure {
        Failure::new(404, format!("no such {what}"))
    }

    pub(crate) fn details(mut self, details: Value) -> Failure {
        self.details = Some(details);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Failure {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The error body.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            409 => "conflict_error",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            500..=599 => "api_error",
            _ => "invalid_request_error",
        };
        let mut error = json!({"type": kind, "message": self.message});
        if let Some(details) = &self.details {
            error["details"] = details.clone();
        }
        json!({"type": "error", "error": error, "request_id": request_id})
    }

    pub(crate) fn into_response(self, request_id: &str) -> Response<Body> {
        let mut response = json_response(self.status, &self.body(request_id));
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// A handler's result.
pub(crate) type Reply = Result<Response<Body>, Failure>;

/// 200 with JSON.
pub(crate) fn ok(value: &Value) -> Response<Body> {
    json_response(200, value)
}

/// 204.
pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn json_response(status: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
