//! One request: how it is written, tried again and read. Every endpoint goes through here, as every helper of the
//! official workers goes through their core's retry layer.

use crate::{Client, ClientError};
use omnirun_redact::Secret;
use omnirun_work_proto::{
    API_BETA, API_VERSION, ErrorBody,
    backoff::{RetryHint, request_failure},
};
use reqwest::{Method, Response, header::HeaderMap};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A request in all its tries.
pub(crate) struct Call<'a> {
    /// Its name in errors and log lines.
    pub(crate) what: &'static str,
    pub(crate) method: Method,
    pub(crate) path: &'a [&'a str],
    pub(crate) query: &'a [(&'a str, &'a str)],
    /// A body in JSON; POST sends one even when it is empty.
    pub(crate) body: Option<bytes::Bytes>,
    pub(crate) bearer: &'a Secret,
    /// `Anthropic-Worker-ID`, on a poll.
    pub(crate) worker_id: Option<&'a str>,
    /// `Accept`.
    pub(crate) accept: &'static str,
    /// For one try, to the end of the answer's head (a stream) or body (all else).
    pub(crate) limit: Duration,
    /// A status that is an answer in itself, never tried again.
    pub(crate) settled: Option<u16>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        what: &'static str,
        method: Method,
        path: &'a [&'a str],
        bearer: &'a Secret,
        limit: Duration,
    ) -> Self {
        Self {
            what,
            method,
            path,
            query: &[],
            body: None,
            bearer,
            worker_id: None,
            accept: "application/json",
            limit,
            settled: None,
        }
    }
}

/// How one try ended when it was not a success.
struct Failure {
    error: ClientError,
    hint: RetryHint,
}

impl Client {
    /// Sends a request until it succeeds or may not be tried again, and reads its body.
    pub(crate) async fn send(&self, call: Call<'_>, max: usize) -> Result<bytes::Bytes, ClientError> {
        let mut tries = 0;
        loop {
            match self.whole(&call, max).await {
                Ok(body) => return Ok(body),
                Err(failure) => self.pause(&call, &mut tries, failure).await?,
            }
        }
    }

    /// Sends a request until it succeeds or may not be tried again, and leaves its body to the caller.
    pub(crate) async fn open(&self, call: Call<'_>) -> Result<Response, ClientError> {
        let mut tries = 0;
        loop {
            match self.once(&call, Instant::now() + call.limit).await {
                Ok(response) => return Ok(response),
                Err(failure) => self.pause(&call, &mut tries, failure).await?,
            }
        }
    }

    /// One try, with its body read.
    async fn whole(&self, call: &Call<'_>, max: usize) -> Result<bytes::Bytes, Failure> {
        let deadline = Instant::now() + call.limit;
        let response = self.once(call, deadline).await?;
        let body = timeout_at(deadline, body(call.what, response, max)).await;
        body.map_err(|_| timeout(call))?.map_err(plain)
    }

    /// Waits before the next try, or gives the error back if there is to be none.
    async fn pause(&self, call: &Call<'_>, tries: &mut u32, failure: Failure) -> Result<(), ClientError> {
        let Failure { error, hint } = failure;
        *tries += 1;
        let status = error.status();
        let settled = status.is_some() && status == call.settled;
        let pause = if settled {
            None
        } else {
            request_failure(*tries, status, &hint, fastrand::f64())
        };
        let Some(pause) = pause else { return Err(error) };
        tracing::debug!(
            request = call.what,
            tries,
            status,
            ?pause,
            "a request failed and will be tried again"
        );
        tokio::time::sleep(pause.mul_f64(self.limits.pace)).await;
        Ok(())
    }

    /// One try: a success with its body unread, or a failure with its body read.
    async fn once(&self, call: &Call<'_>, deadline: Instant) -> Result<Response, Failure> {
        let mut request = self
            .http
            .request(call.method.clone(), self.base.endpoint(call.path))
            .bearer_auth(call.bearer.expose())
            .header("anthropic-version", API_VERSION)
            .header("anthropic-beta", API_BETA)
            .header(reqwest::header::ACCEPT, call.accept);
        if !call.query.is_empty() {
            request = request.query(call.query);
        }
        if let Some(id) = call.worker_id {
            request = request.header("anthropic-worker-id", id);
        }
        if call.method == Method::POST {
            let body = call.body.clone().unwrap_or_default();
            // An empty body says its length too: servers may refuse a POST without one (411).
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .header(reqwest::header::CONTENT_LENGTH, body.len())
                .body(body);
        }
        let answer = timeout_at(deadline, request.send())
            .await
            .map_err(|_| timeout(call))?;
        let response = answer.map_err(|e| {
            plain(ClientError::Transport {
                what: call.what,
                source: e.without_url(),
            })
        })?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let hint = hint(response.headers());
        let header_id = text(response.headers(), "request-id")
            .unwrap_or_default()
            .to_owned();
        // An error's body is there to be read, but not to be waited for.
        let read = timeout_at(deadline, body(call.what, response, 64 << 10)).await;
        let parsed: ErrorBody = read
            .ok()
            .and_then(Result::ok)
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        let error = ClientError::Status {
            what: call.what,
            status,
            kind: word(&parsed.error.kind),
            request_id: word(&parsed.request_id.unwrap_or(header_id)),
        };
        Err(Failure { error, hint })
    }
}

/// A server's word that goes into errors and log lines: short and plain, whatever it sent.
fn word(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        .take(64)
        .collect()
}

fn plain(error: ClientError) -> Failure {
    Failure {
        error,
        hint: RetryHint::default(),
    }
}

fn timeout(call: &Call<'_>) -> Failure {
    plain(ClientError::Timeout {
        what: call.what,
        after: call.limit,
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn hint(headers: &HeaderMap) -> RetryHint {
    let mut hint = RetryHint::new(
        text(headers, "x-should-retry"),
        text(headers, "retry-after-ms"),
        text(headers, "retry-after"),
    );
    if hint.after.is_none() {
        hint.after = text(headers, "retry-after").and_then(until);
    }
    hint
}

/// How long it is until a date in HTTP's form.
fn until(date: &str) -> Option<Duration> {
    let at = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Duration::try_from(at.duration_since(jiff::Timestamp::now())).ok()
}

/// Reads a body that may not be longer than `max`.
async fn body(what: &'static str, mut response: Response, max: usize) -> Result<bytes::Bytes, ClientError> {
    let too_large = ClientError::TooLarge { what, limit: max };
    if response.content_length().is_some_and(|n| n > max as u64) {
        return Err(too_large);
    }
    let mut all = bytes::BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if all.len() + chunk.len() > max => return Err(too_large),
            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
            Ok(None) => return Ok(all.freeze()),
            Err(e) => {
                return Err(ClientError::Transport {
                    what,
                    source: e.without_url(),
                });
            }
        }
    }
}
