//! The event stream: a position in the session's log that moves on.

use super::{
    entry::Call,
    reply::{Failure, Reply},
};
use crate::{
    scenario::{KeepAlive, StreamFault},
    shared::Shared,
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use futures::stream;
use serde_json::Value;
use std::{collections::VecDeque, io, sync::Arc};

/// Counts an open stream for as long as it lives.
struct Opened {
    shared: Arc<Shared>,
    session: String,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.update(|state| {
            if let Some(session) = state.sessions.get_mut(&self.session) {
                session.streams = session.streams.saturating_sub(1);
            }
        });
    }
}

struct Reader {
    opened: Opened,
    position: usize,
    epoch: u64,
    sent: usize,
    fault: StreamFault,
    ready: VecDeque<Result<Bytes, io::Error>>,
    ended: bool,
}

pub(crate) fn open(call: Call<'_>) -> Reply {
    let shared = call.shared.clone();
    let (position, epoch) = shared.update(|state| {
        let session = state
            .sessions
            .get_mut(&call.route.id)
            .ok_or_else(|| Failure::not_found("session"))?;
        if session.deleted {
            return Err(Failure::not_found("session"));
        }
        session.streams += 1;
        Ok((session.log.len(), session.stream_epoch))
    })?;
    let opened = Opened {
        shared,
        session: call.route.id.clone(),
    };
    // A first comment makes the headers and a first chunk leave at once.
    let ready = VecDeque::from([Ok(Bytes::from_static(b": open\n\n"))]);
    let reader = Reader {
        opened,
        position,
        epoch,
        sent: 0,
        fault: call.stream_fault,
        ready,
        ended: false,
    };
    let frames = stream::unfold(reader, |mut reader| async move {
        let frame = reader.next().await?;
        Some((frame, reader))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        let shared = self.opened.shared.clone();
        let events = &shared.scenario.events;
        loop {
            if let Some(frame) = self.ready.pop_front() {
                if frame.is_err() {
                    // What was written before is flushed only when the body has nothing for a moment.
                    tokio::task::yield_now().await;
                }
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            let mut changed = shared.changed();
            changed.borrow_and_update();
            let (fresh, closed, epoch) =
                shared.read(|state| match state.sessions.get(&self.opened.session) {
                    Some(s) => (s.log.get(self.position).cloned(), s.is_closed(), s.stream_epoch),
                    None => (None, true, self.epoch),
                });
            if epoch != self.epoch {
                return None;
            }
            if let Some(event) = fresh {
                self.position += 1;
                self.push(&event);
                continue;
            }
            if closed {
                return None;
            }
            tokio::select! {
                // Only wakes the loop, which looks at the log afresh.
                _ = changed.changed() => {}
                () = tokio::time::sleep(events.keep_alive_interval) => {
                    self.ready.push_back(Ok(Bytes::from_static(match events.keep_alive {
                        KeepAlive::Comment => b": keep-alive\n\n".as_slice(),
                        KeepAlive::Ping => b"event: ping\ndata: {\"type\":\"ping\"}\n\n".as_slice(),
                    })));
                }
                () = shared.shutdown.cancelled() => return None,
            }
        }
    }

    /// Puts one event's frame into the queue, and what the fault adds.
    fn push(&mut self, event: &Value) {
        if self.stops_here() {
            return;
        }
        let kind = event["type"].as_str().unwrap_or("message");
        if self.fault.break_after == Some(self.sent) {
            let half = format!("event: {kind}\ndata: {{\"type\":");
            self.ready.push_back(Ok(half.into()));
            self.ready.push_back(Err(io::Error::other("broken by a fault")));
            self.ended = true;
            return;
        }
        let (frame, times) = match (self.fault.dribble, self.fault.duplicate) {
            (true, duplicate) => (
                format!("event: {kind}\r\ndata: {event}\r\n\r\n"),
                1 + usize::from(duplicate),
            ),
            (false, duplicate) => (
                format!("event: {kind}\ndata: {event}\n\n"),
                1 + usize::from(duplicate),
            ),
        };
        for _ in 0..times {
            let frame = Bytes::from(frame.clone());
            if self.fault.dribble && frame.len() < 4096 {
                self.ready
                    .extend((0..frame.len()).map(|i| Ok(frame.slice(i..=i))));
            } else {
                self.ready.push_back(Ok(frame));
            }
        }
        self.sent += 1;
        self.stops_here();
    }

    fn stops_here(&mut self) -> bool {
        if self.ended {
            return true;
        }
        if self.fault.error_after == Some(self.sent) {
            let body = Failure::new(500, "injected").body("req_stream");
            self.ready
                .push_back(Ok(format!("event: error\ndata: {body}\n\n").into()));
            self.ended = true;
        }
        if self.fault.close_after == Some(self.sent) {
            self.ended = true;
        }
        self.ended
    }
}
