//! One work item, from its claim to its end. `omnirun worker` and `omnirun spawn` both end up here.

use crate::{
    config::ItemConfig,
    desk::{Attention, Desk, Doing, Queued, until},
    feed::Feed,
    heartbeat::Heartbeat,
    observe::{CallFate, WorkerEvent},
    post::{self, Posted},
    shutdown::Shutdown,
};
use omnirun_ids::{ApiId, SessionKey};
use omnirun_redact::{Guest, Secret};
use omnirun_sessions::{CallOutcome, Hands, HandsError, Release, ToolCall};
use omnirun_work_client::{SentEvent, Stopped};
use omnirun_work_proto::{
    CredentialSource, LeaseEnd, Lost, Session, SessionStatus, ToolUse, WorkItem, item_credential,
    result_event,
};
use std::{pin::pin, sync::Arc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Why an item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The session was idle for long enough.
    Idle,
    /// The session is terminated or deleted.
    SessionOver,
    /// The server asked for it.
    Stopping,
    /// This process was asked to end.
    Drained,
    /// The item is no session (a health check).
    NotASession,
    /// The lease is lost.
    Lost(Lost),
    /// This process was told to stop at once.
    HardStop,
    /// Another process of this host held the session and did not let go.
    Held,
    /// The server refuses heartbeats for the item.
    HeartbeatRefused,
    /// The server refuses the session's events.
    StreamRefused,
    /// The session could not be fetched.
    SessionUnavailable,
    /// The session has memory stores, and the item no token to reach them with.
    MemoryWithoutToken,
    /// The item has no credential at all.
    NoCredential,
    /// OmniRun's own failure.
    Failed,
}

impl End {
    /// Whether the item's end is confirmed to the server with a forced stop. Not when somebody else may be serving it,
    /// when it is to come back, or when there is nothing to say it with.
    pub fn stops_item(self) -> bool {
        !matches!(
            self,
            Self::Lost(_) | Self::HardStop | Self::Held | Self::NoCredential
        )
    }

    /// Whether it is how items end when nothing is wrong.
    pub fn is_good(self) -> bool {
        matches!(
            self,
            Self::Idle | Self::SessionOver | Self::Stopping | Self::Drained | Self::NotASession
        )
    }

    /// For people, in a few words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Idle => "the session is idle",
            Self::SessionOver => "the session is over",
            Self::Stopping => "asked to stop",
            Self::Drained => "this worker ends",
            Self::NotASession => "not a session",
            Self::Lost(Lost::Moved) => "the lease moved to another worker",
            Self::Lost(Lost::Assumed) => "no heartbeat got through for a whole lease time",
            Self::HardStop => "stopped hard",
            Self::Held => "another process of this host holds the session",
            Self::HeartbeatRefused => "heartbeats are refused",
            Self::StreamRefused => "the event stream is refused",
            Self::SessionUnavailable => "the session cannot be fetched",
            Self::MemoryWithoutToken => "memory stores need the item's own token, and it has none",
            Self::NoCredential => "no credential",
            Self::Failed => "OmniRun's own failure",
        }
    }

    fn release(self) -> Release {
        match self {
            Self::SessionOver => Release::Remove,
            Self::Lost(_) | Self::HardStop => Release::Lost,
            _ => Release::Keep,
        }
    }
}

/// Serves a claimed and acknowledged item to its end.
pub async fn serve(config: &Arc<ItemConfig>, item: &WorkItem, shutdown: &Shutdown) -> End {
    let end = match item_credential(item.secret.as_ref(), config.key.as_ref()) {
        Err(error) => {
            tracing::error!(work = %item.id, %error, "cannot serve an item");
            End::NoCredential
        }
        Ok(credential) => {
            if credential.source == CredentialSource::EnvironmentKeyAfterBadSecret {
                tracing::warn!(work = %item.id, "the item's secret holds no token; using the environment key");
            }
            let token = credential.source == CredentialSource::SessionsToken;
            let item = Item {
                config,
                item,
                shutdown,
                bearer: credential.bearer,
                token,
            };
            item.serve().await
        }
    };
    tracing::info!(work = %item.id, reason = end.reason(), "item over");
    config.observer.event(&WorkerEvent::Ended {
        work: &item.id,
        reason: end.reason(),
    });
    end
}

struct Item<'a> {
    config: &'a Arc<ItemConfig>,
    item: &'a WorkItem,
    shutdown: &'a Shutdown,
    bearer: Secret,
    /// Whether the bearer is the item's own token.
    token: bool,
}

impl Item<'_> {
    async fn serve(self) -> End {
        let Some(session) = self.item.session() else {
            tracing::info!(work = %self.item.id, "an item that is no session is acknowledged and stopped");
            self.force_stop().await;
            return End::NotASession;
        };
        self.config.observer.event(&WorkerEvent::Claimed {
            work: &self.item.id,
            session: &session,
        });
        tracing::info!(work = %self.item.id, session = %session, "serving a session");
        let key = SessionKey {
            origin: self.config.client.origin(),
            environment: self.config.environment.clone(),
            session: session.clone(),
        };
        // The first heartbeat, the session and the first clone start at the same moment.
        let heartbeat = Heartbeat::start(self.config.clone(), self.item.id.clone(), self.bearer.clone());
        self.config.hands.warm(&key);
        let end = match self.open(&key, &heartbeat).await {
            Ok(hands) => self.session(session, hands, &heartbeat).await,
            Err(end) => end,
        };
        // A lease that moved may have been told only now; then the item is not ours to stop.
        if !end.stops_item() {
            return end;
        }
        if let Some(LeaseEnd::Lost(lost)) = self.lease_word(&heartbeat).await {
            return End::Lost(lost);
        }
        self.force_stop().await;
        end
    }

    /// Fetches the session and opens its hands; both give way to the lease and the signals.
    async fn open(&self, key: &SessionKey, heartbeat: &Heartbeat) -> Result<Box<dyn Hands>, End> {
        let fetched = self
            .unless_over(heartbeat, self.config.client.session(&key.session, &self.bearer))
            .await?;
        let session = fetched.map_err(|error| {
            tracing::error!(session = %key.session, error = &error as &dyn std::error::Error, "cannot fetch the session");
            End::SessionUnavailable
        })?;
        if session.status == SessionStatus::Terminated {
            match self.config.hands.forget(key).await {
                Ok(removed) => tracing::info!(session = %key.session, ?removed, "the session is terminated"),
                Err(error) => {
                    tracing::warn!(session = %key.session, error = &error as &dyn std::error::Error, "cannot remove a terminated session");
                }
            }
            return Err(End::SessionOver);
        }
        self.check_unsupported(&session)?;
        let until = Instant::now() + self.config.timing.held;
        loop {
            match self
                .unless_over(heartbeat, self.config.hands.open(key, &session.metadata))
                .await?
            {
                Ok(hands) => return Ok(hands),
                Err(HandsError::Held { .. }) if Instant::now() < until => {
                    tracing::info!(session = %key.session, "another process of this host holds the session; waiting for it");
                    self.unless_over(heartbeat, sleep(self.config.timing.held_every))
                        .await?;
                }
                Err(HandsError::Held { .. }) => return Err(End::Held),
                Err(error) => {
                    tracing::error!(session = %key.session, error = &error as &dyn std::error::Error, "cannot open the session's sandboxes");
                    return Err(End::Failed);
                }
            }
        }
    }

    fn check_unsupported(&self, session: &Session) -> Result<(), End> {
        if session.memory_stores() > 0 && !self.token {
            tracing::error!(session = %session.id, "the session has memory stores and the item no token to reach them with");
            return Err(End::MemoryWithoutToken);
        }
        if session.memory_stores() > 0 || !session.agent.skills.is_empty() {
            tracing::warn!(
                session = %session.id,
                memory_stores = session.memory_stores(),
                skills = session.agent.skills.len(),
                "memory stores and skills are not supported yet; the session is served without them"
            );
        }
        Ok(())
    }

    /// Waits for something unless the item has to end before. Nothing runs yet, so every way to end is at once.
    async fn unless_over<T>(&self, heartbeat: &Heartbeat, work: impl Future<Output = T>) -> Result<T, End> {
        let mut view = heartbeat.view.clone();
        let lease = async {
            let ended = match view.wait_for(|v| v.ended.is_some()).await {
                Ok(view) => view.ended,
                Err(_) => heartbeat.view.borrow().ended,
            };
            match ended {
                Some(LeaseEnd::Lost(lost)) => End::Lost(lost),
                Some(LeaseEnd::Stopping) => End::Stopping,
                // Without an end the heartbeat task is gone by a bug of ours; the item cannot be kept then.
                Some(LeaseEnd::Refused) | None => End::HeartbeatRefused,
            }
        };
        // What is dropped here is a request, or an opening of hands that has not answered.
        tokio::select! {
            biased;
            () = self.shutdown.stopping_hard().cancelled() => Err(End::HardStop),
            end = lease => Err(end),
            done = work => Ok(done),
        }
    }

    /// Serves the session with open hands, and closes them.
    async fn session(&self, session: ApiId, mut hands: Box<dyn Hands>, heartbeat: &Heartbeat) -> End {
        let feed = Feed::start(self.config.clone(), session.clone(), self.bearer.clone());
        let mut desk = Desk::new(
            self.config.clone(),
            session.clone(),
            feed,
            heartbeat.view.clone(),
            self.shutdown.clone(),
        );
        let end = self.turns(&mut desk, &session, hands.as_mut()).await;
        drop(desk);
        match timeout(self.config.timing.close, hands.close(end.release())).await {
            Ok(Ok(removed)) => tracing::debug!(session = %session, ?removed, "session closed"),
            Ok(Err(error)) => {
                tracing::error!(session = %session, error = &error as &dyn std::error::Error, "closing the session failed");
            }
            Err(_) => tracing::error!(session = %session, "closing the session takes too long"),
        }
        end
    }

    /// One call after the other, until the item has to end.
    async fn turns(&self, desk: &mut Desk, session: &ApiId, hands: &mut dyn Hands) -> End {
        loop {
            if let Some(end) = desk.over() {
                return end;
            }
            if let Some(winding) = desk.winding() {
                let go_on = winding.rules.serve_on && !desk.at_rest() && Instant::now() < winding.tool_until;
                if !go_on {
                    return winding.end;
                }
            }
            if let Some(queued) = desk.next() {
                if let Some(end) = self.call(desk, session, hands, queued).await {
                    return end;
                }
                continue;
            }
            match desk.attend(Doing::Nothing).await {
                Attention::Nothing | Attention::ToolTime => {}
                Attention::End(end) => return end,
                Attention::Idle => return End::Idle,
            }
        }
    }

    /// Runs a call and posts its result. Says why the item has to end at once, if it has to.
    async fn call(
        &self,
        desk: &mut Desk,
        session: &ApiId,
        hands: &mut dyn Hands,
        queued: Queued,
    ) -> Option<End> {
        let Queued { call, received } = queued;
        let observer = &self.config.observer;
        observer.event(&WorkerEvent::CallStarted {
            session,
            call: &call.id,
            tool: &call.name,
        });
        let asked = ToolCall {
            id: call.id.clone(),
            name: call.name.clone(),
            input: call.input.clone(),
        };
        let begun = Instant::now();
        let ran = self.run(desk, hands, &asked).await;
        let took = begun.elapsed();
        let until_post = received.elapsed();
        let (outcome, fate, end) = match ran {
            Err(end) => (None, CallFate::Ended, end),
            Ok(outcome) => match desk.over() {
                Some(end) => (Some(outcome), CallFate::Ended, Some(end)),
                None => {
                    let (fate, end) = match desk.router.still_due(&call) {
                        Ok(()) => {
                            let event =
                                result_event(&call.id, call.kind, outcome.is_error, outcome.content_json());
                            self.post(desk, session, &call, &SentEvent::new(&event)).await
                        }
                        Err(_) => (CallFate::NotDue, None),
                    };
                    (Some(outcome), fate, end)
                }
            },
        };
        let answered = matches!(fate, CallFate::Posted | CallFate::NotDue);
        if answered && let Err(error) = hands.posted(&call.id).await {
            tracing::warn!(session = %session, call = %call.id, error = &error as &dyn std::error::Error, "cannot record that a result was posted");
        }
        desk.finished(&call.id, answered);
        let nothing = CallOutcome {
            is_error: true,
            content: Guest(String::new()),
            sandbox: None,
            exit_code: None,
            timings: Vec::new(),
        };
        let outcome = outcome.unwrap_or(nothing);
        tracing::info!(
            session = %session, call = %call.id, tool = call.name, sandbox = outcome.sandbox,
            ms = took.as_millis() as u64, exit = outcome.exit_code, error = outcome.is_error, ?fate, "call"
        );
        observer.event(&WorkerEvent::CallFinished {
            session,
            call: &call.id,
            tool: &call.name,
            sandbox: outcome.sandbox.as_deref(),
            exit_code: outcome.exit_code,
            is_error: outcome.is_error,
            took,
            until_post,
            timings: &outcome.timings,
            fate,
        });
        end
    }

    /// Runs the tool while attending to the desk. No outcome: the item ends (with the reason), or there is nothing to
    /// post (without one).
    async fn run(
        &self,
        desk: &mut Desk,
        hands: &mut dyn Hands,
        asked: &ToolCall,
    ) -> Result<CallOutcome, Option<End>> {
        let cancel = CancellationToken::new();
        let mut running = pin!(hands.call(asked, cancel.clone()));
        let mut give_up = None::<Instant>;
        let answer = loop {
            let doing = if give_up.is_some() {
                Doing::Finishing
            } else {
                Doing::Tool
            };
            // An outcome that is there counts, before anything that came at the same time: it is durable already.
            let attention = tokio::select! {
                biased;
                answer = &mut running => break answer,
                () = until(give_up) => {
                    tracing::error!(call = %asked.id, "a cancelled call does not end; its sandbox is killed");
                    return Err(desk.winding().map(|w| w.end));
                }
                attention = desk.attend(doing) => attention,
            };
            match attention {
                // Dropping the future and closing the hands is what kills at once.
                Attention::End(end) => return Err(Some(end)),
                Attention::ToolTime => {
                    tracing::info!(call = %asked.id, "cancelling the running call");
                    cancel.cancel();
                    give_up = Some(Instant::now() + self.config.timing.cancel);
                }
                Attention::Nothing | Attention::Idle => {}
            }
        };
        match answer {
            Ok(outcome) => Ok(outcome),
            Err(HandsError::Cancelled) => Err(None),
            Err(HandsError::Answered { .. }) => {
                tracing::info!(call = %asked.id, "the journal says that this call has been answered");
                desk.finished(&asked.id, true);
                Err(None)
            }
            Err(error) => {
                tracing::error!(call = %asked.id, error = &error as &dyn std::error::Error, "a call could not be run");
                Ok(failure(&error))
            }
        }
    }

    /// Posts a result while attending to the desk.
    async fn post(
        &self,
        desk: &mut Desk,
        session: &ApiId,
        call: &ToolUse,
        event: &SentEvent,
    ) -> (CallFate, Option<End>) {
        let lease = desk.lease.clone();
        let mut posting = pin!(post::post(
            self.config,
            session,
            &self.bearer,
            &call.id,
            event,
            &lease
        ));
        let mut bound = None::<Instant>;
        loop {
            if bound.is_none() {
                bound = desk.winding().map(|w| Instant::now() + w.rules.post);
            }
            // Dropping the post leaves its fate unknown, which the next history settles.
            let attention = tokio::select! {
                biased;
                posted = &mut posting => {
                    let fate = match posted {
                        Posted::Yes => CallFate::Posted,
                        Posted::Refused => CallFate::Refused,
                        Posted::GaveUp => CallFate::Unposted,
                    };
                    return (fate, None);
                }
                () = until(bound) => return (CallFate::Unposted, None),
                attention = desk.attend(Doing::Finishing) => attention,
            };
            if let Attention::End(end) = attention {
                return (CallFate::Ended, Some(end));
            }
            // Our own result came back on the stream, though its post has not been answered.
            if desk.router.still_due(call).is_err() {
                return (CallFate::Posted, None);
            }
        }
    }

    /// What the lease has to say before the item is stopped. The first heartbeat is waited for, for a moment: if the
    /// item was never ours, nothing of it is to be stopped.
    async fn lease_word(&self, heartbeat: &Heartbeat) -> Option<LeaseEnd> {
        let mut view = heartbeat.view.clone();
        let first = timeout(self.config.timing.stop / 10, view.wait_for(|v| v.first_done));
        drop(first.await);
        heartbeat.view.borrow().ended
    }

    async fn force_stop(&self) {
        let stop = self
            .config
            .client
            .force_stop(&self.config.environment, &self.bearer, &self.item.id);
        match timeout(self.config.timing.stop, stop).await {
            Ok(Ok(Stopped::Now)) => tracing::debug!(work = %self.item.id, "item stopped"),
            Ok(Ok(Stopped::Before)) => tracing::debug!(work = %self.item.id, "item had been stopped before"),
            Ok(Err(error)) => {
                tracing::warn!(work = %self.item.id, error = &error as &dyn std::error::Error, "cannot stop the item");
            }
            Err(_) => tracing::warn!(work = %self.item.id, "cannot stop the item in time"),
        }
    }
}

/// What the model is told when OmniRun itself has failed. The cause is for the host's log alone.
fn failure(error: &HandsError) -> CallOutcome {
    let text = format!(
        "The sandbox host could not run this call ({error}). Nothing is known to have run. It may work if you try \
         again; if it does not, this host needs its operator."
    );
    CallOutcome {
        is_error: true,
        content: Guest(serde_json::json!([{ "type": "text", "text": text }]).to_string()),
        sandbox: None,
        exit_code: None,
        timings: Vec::new(),
    }
}
