//! Bringing a result to the API: the same bytes, again and again while nobody knows whether they arrived.

use crate::{config::ItemConfig, heartbeat::LeaseView};
use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use omnirun_work_client::SentEvent;
use omnirun_work_proto::backoff::{RESULT_WINDOW, result_failure};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// How posting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It has arrived.
    Yes,
    /// The API will not have it.
    Refused,
    /// The retry window is over.
    GaveUp,
}

/// Posts one result. The window is the lease time that the heartbeats report; every try has the transport's own tries
/// below it.
pub(crate) async fn post(
    config: &ItemConfig,
    session: &ApiId,
    credential: &Secret,
    call: &ApiId,
    event: &SentEvent,
    lease: &watch::Receiver<LeaseView>,
) -> Posted {
    let start = Instant::now();
    let mut tries = 0;
    loop {
        let error = match config.client.send_event(session, credential, event).await {
            Ok(()) => return Posted::Yes,
            Err(error) => error,
        };
        tries += 1;
        if error.is_permanent() {
            tracing::warn!(session = %session, call = %call, error = &error as &dyn std::error::Error, "a result was refused");
            return Posted::Refused;
        }
        let pause = config.timing.pause(result_failure(tries, fastrand::f64()));
        let window = lease.borrow().ttl.unwrap_or(RESULT_WINDOW);
        if start.elapsed() + pause > window {
            tracing::error!(session = %session, call = %call, error = &error as &dyn std::error::Error, tries, "a result could not be posted");
            return Posted::GaveUp;
        }
        tracing::warn!(session = %session, call = %call, error = &error as &dyn std::error::Error, tries, ?pause, "posting a result failed and will be tried again");
        sleep(pause).await;
    }
}
