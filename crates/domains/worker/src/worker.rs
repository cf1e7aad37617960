//! The poll loop: claims items while there is room and starts a task for each.

use crate::{
    config::WorkerConfig,
    item::{self, End},
    shutdown::Shutdown,
};
use omnirun_work_client::ClientError;
use omnirun_work_proto::{
    WorkItem,
    backoff::{IDLE_LOG_EVERY, POLL_HOLD_MS, empty_poll, queue_failure},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};

/// How a worker ended. Its items are over in every case.
#[derive(Debug)]
pub enum Exit {
    /// The queue was empty, and that was what was waited for.
    Drained,
    /// It was asked to end.
    Stopped,
    /// It was told to stop at once.
    StoppedHard,
    /// The queue refuses this worker for good.
    Refused(ClientError),
}

/// How long items may take to let go once they were told to stop hard.
const HARD_LIMIT: Duration = Duration::from_secs(10);

/// Polls and serves until there is a reason not to.
pub async fn run(config: &Arc<WorkerConfig>, shutdown: &Shutdown) -> Exit {
    let mut worker = Worker {
        config,
        shutdown,
        items: JoinSet::new(),
        poll_failures: 0,
        ack_failures: 0,
        idle: None,
    };
    let exit = worker.poll_loop().await;
    worker.finish(exit).await
}

struct Worker<'a> {
    config: &'a Arc<WorkerConfig>,
    shutdown: &'a Shutdown,
    items: JoinSet<End>,
    poll_failures: u32,
    ack_failures: u32,
    /// Since when the queue has been empty, and when that was last said.
    idle: Option<(Instant, Instant)>,
}

impl Worker<'_> {
    /// Polls until there is a reason to stop; items that were started go on.
    async fn poll_loop(&mut self) -> Exit {
        loop {
            while let Some(done) = self.items.try_join_next() {
                report(done);
            }
            if self.shutdown.winding_down().is_cancelled() {
                return Exit::Stopped;
            }
            if self.items.len() >= self.config.max_sessions {
                // Dropping `join_next` loses no task.
                tokio::select! {
                    () = self.shutdown.winding_down().cancelled() => {}
                    done = self.items.join_next() => { done.into_iter().for_each(report); }
                }
                continue;
            }
            let item = &self.config.item;
            let poll = item.client.poll(
                &item.environment,
                &self.config.key,
                &self.config.worker_id,
                POLL_HOLD_MS,
            );
            // A poll that is dropped may lose an item on its way; the queue offers it again after 5 s.
            let polled = tokio::select! {
                biased;
                () = self.shutdown.winding_down().cancelled() => return Exit::Stopped,
                polled = poll => polled,
            };
            let pause = match polled {
                Ok(Some(work)) => {
                    (self.poll_failures, self.idle) = (0, None);
                    self.claim(work).await
                }
                Ok(None) if self.config.drain => return Exit::Drained,
                Ok(None) => {
                    self.poll_failures = 0;
                    self.say_idle();
                    Some(self.config.item.timing.pause(empty_poll(fastrand::f64())))
                }
                Err(error) if error.is_permanent() => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the queue refuses this worker; no more polling"
                    );
                    return Exit::Refused(error);
                }
                Err(error) => {
                    self.poll_failures += 1;
                    let pause = item
                        .timing
                        .pause(queue_failure(self.poll_failures, fastrand::f64()));
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        failures = self.poll_failures,
                        ?pause,
                        "polling failed"
                    );
                    Some(pause)
                }
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = self.shutdown.winding_down().cancelled() => {}
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// Acknowledges an item and starts it. Says how long to wait before the next poll, if at all.
    async fn claim(&mut self, work: WorkItem) -> Option<Duration> {
        let item = &self.config.item;
        // Not given up for a signal: an item that is acknowledged and then forgotten is nobody's for a lease time.
        match item
            .client
            .ack(&item.environment, &self.config.key, &work.id)
            .await
        {
            Ok(()) => {
                self.ack_failures = 0;
                let (config, shutdown) = (item.clone(), self.shutdown.clone());
                self.items
                    .spawn(async move { item::serve(&config, &work, &shutdown).await });
                None
            }
            Err(error) if error.is_permanent() => {
                tracing::warn!(work = %work.id, error = &error as &dyn std::error::Error, "an item cannot be acknowledged; stopping it");
                let stop = item
                    .client
                    .force_stop(&item.environment, &self.config.key, &work.id);
                match tokio::time::timeout(item.timing.stop, stop).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(work = %work.id, error = &error as &dyn std::error::Error, "cannot stop the item");
                    }
                    Err(_) => tracing::warn!(work = %work.id, "cannot stop the item in time"),
                }
                None
            }
            Err(error) => {
                self.ack_failures += 1;
                let pause = item
                    .timing
                    .pause(queue_failure(self.ack_failures, fastrand::f64()));
                tracing::warn!(work = %work.id, error = &error as &dyn std::error::Error, ?pause, "acknowledging failed; the queue will offer the item again");
                Some(pause)
            }
        }
    }

    fn say_idle(&mut self) {
        let now = Instant::now();
        let (since, said) = *self.idle.get_or_insert((now, now - IDLE_LOG_EVERY));
        if now.duration_since(said) >= IDLE_LOG_EVERY {
            tracing::info!(sessions = self.items.len(), idle_for = ?now.duration_since(since), "the queue is empty; waiting for work");
            self.idle = Some((since, now));
        }
    }

    /// Waits for the items that are being served.
    async fn finish(&mut self, exit: Exit) -> Exit {
        if !self.items.is_empty() {
            tracing::info!(
                sessions = self.items.len(),
                "waiting for the sessions that are being served"
            );
        }
        let mut hard_since = None::<Instant>;
        while !self.items.is_empty() {
            let hard = self.shutdown.stopping_hard().clone();
            // Dropping `join_next` loses no task.
            tokio::select! {
                done = self.items.join_next() => { done.into_iter().for_each(report); }
                () = hard.cancelled(), if hard_since.is_none() => hard_since = Some(Instant::now()),
                () = crate::desk::until(hard_since.map(|at| at + HARD_LIMIT)) => {
                    tracing::error!(sessions = self.items.len(), "some sessions do not let go; leaving them to the next start");
                    self.items.shutdown().await;
                }
            }
        }
        if self.shutdown.stopping_hard().is_cancelled() {
            Exit::StoppedHard
        } else {
            exit
        }
    }
}

fn report(done: Result<End, JoinError>) {
    if let Err(error) = done {
        tracing::error!(error = &error as &dyn std::error::Error, "an item's task failed");
    }
}
