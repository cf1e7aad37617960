//! From the proxy's lines to the audit log, away from whoever waits for the proxy.

use omnirun_egress_policy::AuditLine;
use omnirun_store::AuditLog;
use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

/// Lines that may wait for the disk. Then the proxy waits, and with it the connections that would make more.
const QUEUE: usize = 1024;

/// Writes lines in order.
pub(crate) struct Writer {
    lines: Option<SyncSender<(String, AuditLine)>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread that writes.
    pub(crate) fn start(log: AuditLog) -> std::io::Result<Self> {
        let (lines, queue) = sync_channel::<(String, AuditLine)>(QUEUE);
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            for (subject, line) in queue {
                let text = serde_json::to_string(&line).unwrap_or_default();
                if let Err(error) = log.append(&subject, &text) {
                    tracing::error!(error = &error as &dyn std::error::Error, %subject, "an audit line is lost");
                }
            }
        })?;
        Ok(Self {
            lines: Some(lines),
            thread: Some(thread),
        })
    }

    /// Has a line written.
    pub(crate) fn write(&self, subject: String, line: AuditLine) {
        if let Some(lines) = &self.lines {
            // It fails only when the thread has panicked, which has been said.
            let _ = lines.send((subject, line));
        }
    }
}

/// What is in the queue is written first.
impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
