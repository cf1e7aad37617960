//! One child after the other.

use super::{EgressError, Host, ProxyConfig, follow, link, process::Child, resolvers::Files, state::Table};
use crate::channel::Channel;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Between a child's end and the next one's start: at first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// Who lived so long did not die of its start.
const STABLE: Duration = Duration::from_secs(30);
/// For a child to be confined and to say so.
const START: Duration = Duration::from_secs(10);
/// For a child to end by itself once its channel is closed.
const GRACE: Duration = Duration::from_secs(2);

/// Starts the first child, and the task that follows it.
pub(super) async fn start(
    config: ProxyConfig,
    host: Arc<dyn Host>,
    table: Arc<Table>,
    stop: CancellationToken,
    pid: watch::Sender<Option<u32>>,
) -> Result<JoinHandle<()>, EgressError> {
    let first = start_child(&config).await?;
    pid.send_replace(Some(first.0.pid));
    Ok(tokio::spawn(async move {
        tokio::select! {
            // Its end is the end of both.
            () = supervise(config, host, &table, &stop, &pid, first) => {}
            () = follow_system(&table) => {}
        }
        pid.send_replace(None);
        table.close();
    }))
}

async fn supervise(
    config: ProxyConfig,
    host: Arc<dyn Host>,
    table: &Arc<Table>,
    stop: &CancellationToken,
    pid: &watch::Sender<Option<u32>>,
    mut running: (Child, Channel),
) {
    let mut back_off = BACK_OFF.0;
    loop {
        let (child, channel) = running;
        let begun = Instant::now();
        let (why, grace) = tokio::select! {
            // Dropping the link closes the channel: the child ends.
            why = link::run(channel, table, &host) => (why, GRACE),
            () = child.ended() => ("it ended".into(), GRACE),
            // It may be letting through what it should not.
            () = table.distrusted.notified() => ("it did not answer".into(), Duration::ZERO),
            () = stop.cancelled() => ("shutdown".into(), GRACE),
        };
        pid.send_replace(None);
        table.unlinked();
        let said = child.end(grace).await;
        if stop.is_cancelled() {
            return;
        }
        tracing::warn!(
            why,
            said,
            "the egress proxy is gone; its connections are cut, and it is started again"
        );
        if begun.elapsed() >= STABLE {
            back_off = BACK_OFF.0;
        }
        running = loop {
            tokio::select! {
                () = sleep(back_off) => {}
                () = stop.cancelled() => return,
            }
            back_off = (back_off * 2).min(BACK_OFF.1);
            match start_child(&config).await {
                Ok(started) => break started,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(
                        error,
                        ?back_off,
                        "the egress proxy cannot be started; its guests reach nothing"
                    );
                }
            }
        };
        pid.send_replace(Some(running.0.pid));
    }
}

/// Never ends. What is given in place of the system's is told again in vain, which does no harm.
async fn follow_system(table: &Table) {
    follow::follow(Files::default(), table).await;
    std::future::pending().await
}

/// A child that has said that it is confined.
async fn start_child(config: &ProxyConfig) -> Result<(Child, Channel), EgressError> {
    let (child, channel) = Child::start(config)?;
    match timeout(START, link::ready(&channel)).await {
        Ok(true) => Ok((child, channel)),
        Ok(false) | Err(_) => {
            drop(channel);
            let said = child.end(GRACE).await;
            Err(EgressError::EndedAtOnce {
                said: match said.is_empty() {
                    true => said,
                    false => format!(": {said}"),
                },
            })
        }
    }
}
