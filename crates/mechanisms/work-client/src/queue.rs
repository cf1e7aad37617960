//! The queue's endpoints: poll, acknowledge, heartbeat, stop.

use crate::{Client, ClientError, transport::Call};
use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use omnirun_work_proto::{Beat, HeartbeatResponse, Verdict, WorkItem};
use reqwest::Method;
use std::time::Duration;

/// What a stop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It is stopped, or stopping, now.
    Now,
    /// It had stopped before (409).
    Before,
}

impl Client {
    /// Asks for an item. `hold_ms` is how long the server may hold an empty poll (1 to 999).
    pub async fn poll(
        &self,
        environment: &ApiId,
        key: &Secret,
        worker_id: &str,
        hold_ms: u32,
    ) -> Result<Option<WorkItem>, ClientError> {
        let path = ["environments", environment.as_str(), "work", "poll"];
        let hold = hold_ms.to_string();
        let query = [("block_ms", hold.as_str())];
        let call = Call {
            query: &query,
            worker_id: Some(worker_id),
            ..Call::new("poll", Method::GET, &path, key, self.limits.short)
        };
        let body = self.send(call, self.limits.answer).await?;
        // An empty queue is `null`; an empty body (204) says the same.
        if body.trim_ascii().is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&body).map_err(|e| ClientError::unreadable("poll", &e))
    }

    /// Acknowledges an item: it is ours now.
    pub async fn ack(&self, environment: &ApiId, key: &Secret, work: &ApiId) -> Result<(), ClientError> {
        let path = ["environments", environment.as_str(), "work", work.as_str(), "ack"];
        let call = Call::new("acknowledge", Method::POST, &path, key, self.limits.short);
        self.send(call, self.limits.answer).await.map(drop)
    }

    /// Sends one heartbeat. `limit` bounds it, its inner retries included.
    pub async fn heartbeat(
        &self,
        environment: &ApiId,
        credential: &Secret,
        work: &ApiId,
        expected: &str,
        limit: Duration,
    ) -> (Beat, Option<ClientError>) {
        let path = [
            "environments",
            environment.as_str(),
            "work",
            work.as_str(),
            "heartbeat",
        ];
        let query = [("expected_last_heartbeat", expected)];
        let call = Call {
            query: &query,
            ..Call::new("heartbeat", Method::POST, &path, credential, limit)
        };
        let answer = match tokio::time::timeout(limit, self.send(call, self.limits.answer)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout {
                what: "heartbeat",
                after: limit,
            }),
        };
        let parsed = answer.and_then(|body| {
            serde_json::from_slice::<HeartbeatResponse>(&body)
                .map_err(|e| ClientError::unreadable("heartbeat", &e))
        });
        match parsed {
            Ok(response) => (Beat::Answered(response), None),
            Err(error) => {
                let beat = match (error.status(), error.verdict()) {
                    (Some(412), _) => Beat::Precondition,
                    (_, Verdict::Permanent) => Beat::Refused,
                    (_, Verdict::Transient) => Beat::Transient,
                };
                (beat, Some(error))
            }
        }
    }

    /// Stops an item by force: it is over. A 409 says that it was over before.
    pub async fn force_stop(
        &self,
        environment: &ApiId,
        credential: &Secret,
        work: &ApiId,
    ) -> Result<Stopped, ClientError> {
        let path = [
            "environments",
            environment.as_str(),
            "work",
            work.as_str(),
            "stop",
        ];
        let call = Call {
            body: Some(bytes::Bytes::from_static(br#"{"force":true}"#)),
            settled: Some(409),
            ..Call::new("stop", Method::POST, &path, credential, self.limits.short)
        };
        match self.send(call, self.limits.answer).await {
            Ok(_) => Ok(Stopped::Now),
            Err(error) if error.status() == Some(409) => Ok(Stopped::Before),
            Err(error) => Err(error),
        }
    }
}
