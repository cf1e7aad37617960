//! Where a session's events come from: the stream first, then the whole history, then the stream again and again.

use crate::config::ItemConfig;
use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use omnirun_work_client::{ClientError, EventStream, Incoming};
use omnirun_work_proto::{Event, History, backoff::StreamBackoff};
use std::{future::pending, sync::Arc};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// What the feed brings.
#[derive(Debug)]
pub(crate) enum Fed {
    /// The whole history, read while the stream was open already.
    History(History),
    /// The history could not be read; nothing may be concluded from what is missing.
    NoHistory,
    /// A live event, and when it came.
    Event(Event, Instant),
    /// The stream is refused for good.
    Refused(ClientError),
}

/// More pages than any session has; a server that never ends its list is not followed for ever.
const MAX_PAGES: usize = 10_000;

/// A running feed; dropping it ends it. One thing waits in it at a time, so that a slow desk slows the stream down.
pub(crate) struct Feed {
    pub(crate) fed: mpsc::Receiver<Fed>,
    _task: AbortOnDropHandle<()>,
}

impl Feed {
    pub(crate) fn start(config: Arc<ItemConfig>, session: ApiId, credential: Secret) -> Self {
        let (tell, fed) = mpsc::channel(1);
        let source = Source {
            config,
            session,
            credential,
            tell,
            backoff: StreamBackoff::default(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            // Ends when the desk has gone, or after a refusal.
            let _ = source.run().await;
        }));
        Self { fed, _task: task }
    }
}

struct Gone;

struct Source {
    config: Arc<ItemConfig>,
    session: ApiId,
    credential: Secret,
    tell: mpsc::Sender<Fed>,
    backoff: StreamBackoff,
}

impl Source {
    async fn tell(&self, fed: Fed) -> Result<(), Gone> {
        self.tell.send(fed).await.map_err(|_| Gone)
    }

    async fn run(mut self) -> Result<(), Gone> {
        loop {
            match self.config.client.stream(&self.session, &self.credential).await {
                Ok(stream) => self.follow(stream).await?,
                Err(error) if error.is_permanent() => return self.tell(Fed::Refused(error)).await,
                Err(error) => {
                    tracing::warn!(session = %self.session, error = &error as &dyn std::error::Error, "cannot open the event stream");
                }
            }
            let pause = self.config.timing.pause(self.backoff.pause());
            tracing::debug!(session = %self.session, ?pause, "the event stream will be opened again");
            sleep(pause).await;
        }
    }

    /// One life of the stream.
    async fn follow(&mut self, mut stream: EventStream) -> Result<(), Gone> {
        let mut again = StreamBackoff::default();
        let mut relist = self.reconcile(&mut again).await?;
        loop {
            let due = async {
                match relist {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            // `next` keeps what it has read when it is dropped, and so does a timer.
            let next = tokio::select! {
                next = stream.next() => next,
                () = due => {
                    relist = self.reconcile(&mut again).await?;
                    continue;
                }
            };
            match next {
                Ok(Some(Incoming::Event(Event::StreamError { kind }))) => {
                    tracing::warn!(session = %self.session, error.kind = kind, "the server ended the event stream with an error");
                    return Ok(());
                }
                Ok(Some(Incoming::Event(event))) => {
                    self.backoff.reset();
                    self.tell(Fed::Event(event, Instant::now())).await?;
                }
                Ok(Some(Incoming::Unreadable(reason))) => {
                    tracing::warn!(session = %self.session, %reason, "an event cannot be read and is skipped");
                }
                Ok(Some(Incoming::TooLarge)) => {
                    tracing::warn!(session = %self.session, "an event is too large and is skipped");
                }
                Ok(None) => {
                    tracing::info!(session = %self.session, "the server closed the event stream");
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(session = %self.session, error = &error as &dyn std::error::Error, "the event stream broke");
                    return Ok(());
                }
            }
        }
    }

    /// Reads the history and tells it; when that fails, says so and when to try again. The live stream goes on
    /// meanwhile, but what came before it would be missed until it breaks.
    async fn reconcile(&self, again: &mut StreamBackoff) -> Result<Option<Instant>, Gone> {
        match self.history().await {
            Ok(history) => {
                self.tell(Fed::History(history)).await?;
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(session = %self.session, error = &error as &dyn std::error::Error, "cannot read the history");
                self.tell(Fed::NoHistory).await?;
                Ok(Some(Instant::now() + self.config.timing.pause(again.pause())))
            }
        }
    }

    /// All pages, before anything is made of any.
    async fn history(&self) -> Result<History, ClientError> {
        let mut history = History::default();
        let mut next = None::<String>;
        for _ in 0..MAX_PAGES {
            let page = self
                .config
                .client
                .events(&self.session, &self.credential, next.as_deref())
                .await?;
            for event in page.events {
                match event {
                    Ok(event) => history.add(event),
                    Err(reason) => {
                        tracing::warn!(session = %self.session, %reason, "an event cannot be read and is skipped");
                    }
                }
            }
            if page.next.is_none() || page.next == next {
                break;
            }
            next = page.next;
        }
        Ok(history)
    }
}
