//! From the proxy's lines to the audit log, away from whoever waits for the proxy.

use omnirun_egress_policy::AuditLine;
use omnirun_store::AuditLog;
use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

/// Lines that may wait for the disk. Then the proxy waits, and with it the connections that would make more.
const QUEUE: usize = 1024;

enum Order {
    Write(String, Box<AuditLine>),
    /// To be told when all before it is done.
    Tell(oneshot::Sender<()>),
}

/// Writes lines in order.
pub(crate) struct Writer {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread that writes.
    pub(crate) fn start(log: AuditLog) -> std::io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            for order in queue {
                let (subject, line) = match order {
                    Order::Write(subject, line) => (subject, line),
                    Order::Tell(done) => {
                        let _ = done.send(());
                        continue;
                    }
                };
                let text = serde_json::to_string(&line).unwrap_or_default();
                if let Err(error) = log.append(&subject, &text) {
                    tracing::error!(error = &error as &dyn std::error::Error, %subject, "an audit line is lost");
                }
            }
        })?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Has a line written.
    pub(crate) fn write(&self, subject: String, line: AuditLine) {
        if let Some(orders) = &self.orders {
            // It fails only when the thread has panicked, which has been said.
            let _ = orders.send(Order::Write(subject, Box::new(line)));
        }
    }

    /// Waits until every line so far is in the log.
    pub(crate) async fn written(&self) {
        let (tell, done) = oneshot::channel();
        if let Some(orders) = &self.orders
            && orders.send(Order::Tell(tell)).is_ok()
        {
            let _ = done.await;
        }
    }
}

/// What is in the queue is written first.
impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
