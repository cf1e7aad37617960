//! Firecracker's API: one HTTP/1 connection over its Unix socket, one call at a time.
//!
//! What comes back is bounded in size and time, and believed only in the form that the documents give it: a process that
//! a guest has taken over answers here.

mod calls;
#[cfg(test)]
mod tests;

pub(super) use calls::{
    Action, BootSource, Drive, Entropy, LoadSnapshot, MachineConfig, MemoryBackend, NetworkInterface,
    Snapshot, State, Vsock,
};

use crate::{VmmError, ask::first_line, process::Process};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::{error::Error as _, io, time::Duration};
use tokio::{net::UnixStream, sync::Mutex};

/// Answers are a few hundred bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Faults are one cause behind another, and what it comes to is at their end; some are 300 characters long.
const MAX_FAULT: usize = 2000;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum ApiError {
    /// It says so, in these words.
    Fault(String),
    /// The connection ended.
    Closed,
    /// No answer within this time. The connection is of no use any more.
    Timeout(Duration),
    /// What came is no answer.
    Garbled(String),
}

impl ApiError {
    /// As the driver reports it.
    pub(super) async fn during(self, step: &'static str, process: &Process) -> VmmError {
        match self {
            Self::Fault(reason) => VmmError::Refused { step, reason },
            Self::Closed => process.gone(step).await,
            Self::Timeout(within) => VmmError::Timeout {
                step,
                seconds: within.as_secs(),
            },
            Self::Garbled(what) => VmmError::Io {
                step,
                source: io::Error::new(io::ErrorKind::InvalidData, what),
            },
        }
    }
}

impl From<hyper::Error> for ApiError {
    fn from(error: hyper::Error) -> Self {
        // Of a body in chunks hyper says by its cause that it is none.
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        let is_none = cause.is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            )
        });
        match is_none || error.is_parse() || error.is_parse_too_large() {
            true => Self::Garbled(error.to_string()),
            // Reset, ended within a message, or ended before: the process is gone or as good as gone.
            false => Self::Closed,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    sender: Mutex<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Takes over a fresh connection.
    pub(super) async fn new(stream: UnixStream) -> Result<Self, ApiError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends with the client, or with the process on its other side.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to Firecracker's API ended");
            }
        });
        Ok(Self {
            sender: Mutex::new(sender),
        })
    }

    async fn put(&self, path: &str, body: &impl Serialize, within: Duration) -> Result<(), ApiError> {
        self.call(Method::PUT, path, json(body)?, within).await.map(drop)
    }

    async fn patch(&self, path: &str, body: &impl Serialize, within: Duration) -> Result<(), ApiError> {
        self.call(Method::PATCH, path, json(body)?, within)
            .await
            .map(drop)
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str, within: Duration) -> Result<T, ApiError> {
        let answer = self.call(Method::GET, path, Bytes::new(), within).await?;
        serde_json::from_slice(&answer).map_err(|e| ApiError::Garbled(e.to_string()))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, ApiError> {
        let mut sender = self.sender.lock().await;
        let exchange = async {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "localhost")
                .header(header::ACCEPT, "application/json")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .map_err(|e| ApiError::Garbled(e.to_string()))?;
            sender.ready().await?;
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = match body {
                Ok(body) => body.to_bytes(),
                Err(error) => {
                    return Err(match error.downcast::<hyper::Error>() {
                        Ok(error) => (*error).into(),
                        Err(too_long) => ApiError::Garbled(too_long.to_string()),
                    });
                }
            };
            judge(head.status, body)
        };
        tokio::time::timeout(within, exchange)
            .await
            .unwrap_or(Err(ApiError::Timeout(within)))
    }
}

fn json(body: &impl Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|e| ApiError::Garbled(e.to_string()))
}

/// 200 and 204 are good; every other answer of Firecracker's carries its reason.
fn judge(status: StatusCode, body: Bytes) -> Result<Bytes, ApiError> {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    if matches!(status, StatusCode::OK | StatusCode::NO_CONTENT) {
        return Ok(body);
    }
    if !(status.is_client_error() || status.is_server_error()) {
        return Err(ApiError::Garbled(format!("it answers with status {status}")));
    }
    let words = match serde_json::from_slice::<Fault>(&body) {
        Ok(fault) => first_line(&fault.fault_message, MAX_FAULT),
        Err(_) => first_line(&String::from_utf8_lossy(&body), MAX_FAULT),
    };
    Err(ApiError::Fault(match words.is_empty() {
        true => format!("status {status}, without a reason"),
        false => words,
    }))
}
