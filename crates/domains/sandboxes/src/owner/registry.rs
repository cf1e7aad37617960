//! Every owner task of this process, so that its end can be asked for and waited for.

use super::ask_end;
use crate::{EngineError, teardown::TeardownReport};
use omnirun_ids::SandboxId;
use omnirun_vm_machine::Why;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Default)]
struct Inner {
    closed: bool,
    tasks: HashMap<SandboxId, Task>,
}

struct Task {
    end: watch::Sender<Option<Why>>,
    join: JoinHandle<TeardownReport>,
}

/// The owner tasks, and the short-lived helpers that make spares.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    inner: Arc<Mutex<Inner>>,
    helpers: TaskTracker,
    over: CancellationToken,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an owner task.
    pub(crate) fn spawn(
        &self,
        id: &SandboxId,
        end: &watch::Sender<Option<Why>>,
        task: impl Future<Output = TeardownReport> + Send + 'static,
    ) -> Result<(), EngineError> {
        let registry = self.clone();
        let name = id.clone();
        let mut inner = self.lock();
        if inner.closed {
            return Err(EngineError::ShuttingDown);
        }
        // The entry is made under the lock, and the task needs the lock to remove it: it cannot be too early.
        let join = tokio::spawn(async move {
            let report = task.await;
            if report.is_clean() {
                tracing::debug!(%report, "sandbox ended");
            } else {
                tracing::warn!(%report, "sandbox ended, and something is left");
            }
            registry.lock().tasks.remove(&name);
            report
        });
        inner.tasks.insert(
            id.clone(),
            Task {
                end: end.clone(),
                join,
            },
        );
        Ok(())
    }

    /// Starts a helper, if the process does not end. It is dropped when the process does: it may wait for what another
    /// process has to do first.
    pub(crate) fn help(&self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.lock().closed {
            self.helpers
                .spawn(self.over.clone().run_until_cancelled_owned(task));
        }
    }

    /// How many VMs there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Ends everything and waits for it.
    pub(crate) async fn shutdown(&self) -> Vec<TeardownReport> {
        let tasks: Vec<(SandboxId, Task)> = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.tasks.drain().collect()
        };
        for (_, task) in &tasks {
            ask_end(&task.end, Why::Shutdown);
        }
        self.over.cancel();
        let mut reports = Vec::new();
        for (sandbox, task) in tasks {
            match task.join.await {
                Ok(report) => reports.push(report),
                Err(panic) => reports.push(TeardownReport {
                    sandbox,
                    why: Why::Failed {
                        step: "own",
                        reason: panic.to_string(),
                    },
                    removed: Vec::new(),
                    left: vec![
                        "everything: its owner task panicked; the next omnirun command clears up".to_owned(),
                    ],
                }),
            }
        }
        self.helpers.close();
        self.helpers.wait().await;
        reports
    }
}
