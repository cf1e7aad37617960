//! The heartbeat of one item, a task of its own so that nothing that the item does can delay it.

use crate::config::ItemConfig;
use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use omnirun_work_proto::{Lease, LeaseEnd};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

/// What the lease is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LeaseView {
    /// Why the item has to end, if it has to.
    pub(crate) ended: Option<LeaseEnd>,
    /// The lease time, once a heartbeat told it.
    pub(crate) ttl: Option<Duration>,
    /// Whether the first heartbeat has had its answer, whatever it was.
    pub(crate) first_done: bool,
}

/// A running heartbeat; dropping it ends it.
pub(crate) struct Heartbeat {
    pub(crate) view: watch::Receiver<LeaseView>,
    _task: AbortOnDropHandle<()>,
}

impl Heartbeat {
    /// Starts with the first heartbeat, at once.
    pub(crate) fn start(config: Arc<ItemConfig>, work: ApiId, credential: Secret) -> Self {
        let (tell, view) = watch::channel(LeaseView::default());
        let task = AbortOnDropHandle::new(tokio::spawn(beat(config, work, credential, tell)));
        Self { view, _task: task }
    }
}

async fn beat(config: Arc<ItemConfig>, work: ApiId, credential: Secret, tell: watch::Sender<LeaseView>) {
    let mut lease = Lease::new(config.timing.lease, Instant::now().into_std());
    while let Some(due) = lease.next() {
        let lost_at = Instant::from_std(lease.lost_at());
        sleep_until(Instant::from_std(due).min(lost_at)).await;
        let sent = Instant::now();
        let mut news = lease.on_time(sent.into_std());
        if news.is_none() {
            let expected = lease.expected().to_owned();
            let beat = config.client.heartbeat(
                &config.environment,
                &credential,
                &work,
                &expected,
                lease.beat_limit(),
            );
            match timeout_at(lost_at, beat).await {
                Ok((beat, error)) => {
                    if let Some(error) = &error {
                        tracing::warn!(work = %work, error = error as &dyn std::error::Error, "a heartbeat failed");
                    }
                    news = lease.on_beat(sent.into_std(), Instant::now().into_std(), beat);
                }
                Err(_) => news = lease.on_time(Instant::now().into_std()),
            }
        }
        if let Some(end) = news {
            tracing::info!(work = %work, ?end, "the lease says that the item has to end");
        }
        tell.send_replace(LeaseView {
            ended: lease.ended(),
            ttl: lease.reported_ttl(),
            first_done: true,
        });
    }
    // Nothing more to send; the view stays readable until the item is over.
}
