//! The session's endpoints: get, list events, send an event, stream events.

use crate::{
    Client, ClientError,
    sse::{Frame, SseParser},
    transport::Call,
};
use omnirun_ids::ApiId;
use omnirun_redact::{Guest, Secret};
use omnirun_work_proto::{Event, EventError, Session};
use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// A page of a session's history.
#[derive(Debug)]
pub struct Page {
    /// Its events, oldest first; those that cannot be read say why.
    pub events: Vec<Result<Event, EventError>>,
    /// The next page, if there is one.
    pub next: Option<String>,
}

/// An event that is about to be sent, as the bytes that every try of it sends.
#[derive(Debug, Clone)]
pub struct SentEvent(Guest<bytes::Bytes>);

impl SentEvent {
    /// Writes the request's body once and for all.
    pub fn new(event: &Value) -> Self {
        Self(Guest(serde_json::json!({ "events": [event] }).to_string().into()))
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.0.len()
    }

    /// Never: a body has at least its braces.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(default, borrow)]
    data: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    next_page: Option<String>,
}

/// What came from a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// An event.
    Event(Event),
    /// An event that cannot be read.
    Unreadable(EventError),
    /// An event larger than an event may be; its bytes were thrown away.
    TooLarge,
}

impl Client {
    /// Fetches a session.
    pub async fn session(&self, session: &ApiId, credential: &Secret) -> Result<Session, ClientError> {
        let path = ["sessions", session.as_str()];
        let call = Call::new("session", Method::GET, &path, credential, self.limits.long);
        let body = self.send(call, self.limits.answer).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::unreadable("session", &e))
    }

    /// Fetches a page of a session's history: the first, or the one that another page named.
    pub async fn events(
        &self,
        session: &ApiId,
        credential: &Secret,
        page: Option<&str>,
    ) -> Result<Page, ClientError> {
        const WHAT: &str = "history";
        let path = ["sessions", session.as_str(), "events"];
        let mut query = vec![("limit", "1000")];
        query.extend(page.map(|p| ("page", p)));
        let call = Call {
            query: &query,
            ..Call::new(WHAT, Method::GET, &path, credential, self.limits.long)
        };
        let body = self.send(call, self.limits.page).await?;
        // Bytes that are no UTF-8 cost the characters that they stand for, not the page.
        let text = String::from_utf8_lossy(&body);
        let raw: RawPage<'_> = serde_json::from_str(&text).map_err(|e| ClientError::unreadable(WHAT, &e))?;
        let events = raw
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|e| Event::parse(e.get()))
            .collect();
        Ok(Page {
            events,
            next: raw.next_page.filter(|p| !p.is_empty()),
        })
    }

    /// Sends one event.
    pub async fn send_event(
        &self,
        session: &ApiId,
        credential: &Secret,
        event: &SentEvent,
    ) -> Result<(), ClientError> {
        let path = ["sessions", session.as_str(), "events"];
        let call = Call {
            body: Some(event.0.0.clone()),
            ..Call::new("result", Method::POST, &path, credential, self.limits.long)
        };
        // The body says nothing that is needed, so a broken one is no failure of the post.
        match self.send(call, self.limits.answer).await {
            Ok(_) | Err(ClientError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens the stream of a session's events: those that are emitted from now on.
    pub async fn stream(&self, session: &ApiId, credential: &Secret) -> Result<EventStream, ClientError> {
        let path = ["sessions", session.as_str(), "events", "stream"];
        let call = Call {
            accept: "text/event-stream",
            ..Call::new("stream", Method::GET, &path, credential, self.limits.long)
        };
        let response = self.open(call).await?;
        Ok(EventStream {
            response,
            parser: SseParser::new(self.limits.event),
        })
    }
}

/// A session's live events.
#[derive(Debug)]
pub struct EventStream {
    response: Response,
    parser: SseParser,
}

impl EventStream {
    /// The next event; nothing when the server closed the stream. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Incoming>, ClientError> {
        loop {
            while let Some(frame) = self.parser.next() {
                if let Some(incoming) = read(frame) {
                    return Ok(Some(incoming));
                }
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.parser.push(&chunk),
                Ok(None) => return Ok(None),
                Err(e) => {
                    return Err(ClientError::Transport {
                        what: "stream",
                        source: e.without_url(),
                    });
                }
            }
        }
    }
}

/// The type inside the data decides; the frame's own name only where it says what the data need not.
fn read(frame: Frame) -> Option<Incoming> {
    let Frame::Event { name, data } = frame else {
        return Some(Incoming::TooLarge);
    };
    match name.as_deref() {
        Some("ping") => return None,
        Some("error") => {
            return Some(Incoming::Event(match Event::parse(&data) {
                Ok(error @ Event::StreamError { .. }) => error,
                _ => Event::StreamError { kind: String::new() },
            }));
        }
        _ => {}
    }
    match Event::parse(&data) {
        Ok(Event::Ping) => None,
        Ok(event) => Some(Incoming::Event(event)),
        Err(error) => Some(Incoming::Unreadable(error)),
    }
}
