//! One work item, from its claim to its end. `omnirun worker` and `omnirun spawn` both end up here.

use crate::{
    config::ItemConfig, desk::Desk, feed::Feed, heartbeat::Heartbeat, observe::WorkerEvent,
    shutdown::Shutdown,
};
use omnirun_ids::{ApiId, SessionKey};
use omnirun_redact::Secret;
use omnirun_sessions::{Hands, HandsError, Release};
use omnirun_work_client::Stopped;
use omnirun_work_proto::{
    CredentialSource, LeaseEnd, Lost, Session, SessionStatus, WorkItem, item_credential,
};
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout};

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

/// An item while it is served.
pub(crate) struct Item<'a> {
    pub(crate) config: &'a Arc<ItemConfig>,
    item: &'a WorkItem,
    shutdown: &'a Shutdown,
    pub(crate) bearer: Secret,
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
            Ok(hands) => {
                let (end, hands) = self.session(&session, hands, &heartbeat).await;
                if end == End::Drained {
                    // Whoever asked will not wait for ever. Should the session come back before its hands are closed,
                    // its next holder waits for that.
                    let (end, ()) =
                        tokio::join!(self.stop(end, &heartbeat), self.close(&session, hands, end));
                    return end;
                }
                self.close(&session, hands, end).await;
                end
            }
            Err(end) => end,
        };
        self.stop(end, &heartbeat).await
    }

    /// Confirms the end to the server, if it is to be confirmed.
    async fn stop(&self, end: End, heartbeat: &Heartbeat) -> End {
        if !end.stops_item() {
            return end;
        }
        // A lease that moved may be told only now; then the item is not ours to stop.
        if let Some(LeaseEnd::Lost(lost)) = self.lease_word(heartbeat).await {
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
            let forgotten = self.unless_over(heartbeat, self.config.hands.forget(key)).await?;
            match forgotten {
                Ok(removed) => tracing::info!(session = %key.session, ?removed, "the session is terminated"),
                Err(error) => {
                    tracing::warn!(session = %key.session, error = &error as &dyn std::error::Error, "cannot remove a terminated session");
                }
            }
            return Err(End::SessionOver);
        }
        self.check_unsupported(&session)?;
        let until = Instant::now() + self.config.timing.held;
        let leaving = self.shutdown.winding_down();
        loop {
            match self
                .unless_over(heartbeat, self.config.hands.open(key, &session.metadata))
                .await?
            {
                Ok(hands) => return Ok(hands),
                Err(HandsError::Held { .. }) if Instant::now() < until && !leaving.is_cancelled() => {
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
            () = self.shutdown.winding_down().cancelled(), if !self.config.wind_down.serve_on => Err(End::Drained),
            done = work => Ok(done),
        }
    }

    /// Serves the session with open hands.
    async fn session(
        &self,
        session: &ApiId,
        mut hands: Box<dyn Hands>,
        heartbeat: &Heartbeat,
    ) -> (End, Box<dyn Hands>) {
        let feed = Feed::start(self.config.clone(), session.clone(), self.bearer.clone());
        let mut desk = Desk::new(
            self.config.clone(),
            session.clone(),
            feed,
            heartbeat.view.clone(),
            self.shutdown.clone(),
        );
        let end = self.turns(&mut desk, session, hands.as_mut()).await;
        (end, hands)
    }

    async fn close(&self, session: &ApiId, hands: Box<dyn Hands>, end: End) {
        match timeout(self.config.timing.close, hands.close(end.release())).await {
            Ok(Ok(removed)) => tracing::debug!(session = %session, ?removed, "session closed"),
            Ok(Err(error)) => {
                tracing::error!(session = %session, error = &error as &dyn std::error::Error, "closing the session failed");
            }
            Err(_) => tracing::error!(session = %session, "closing the session takes too long"),
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
