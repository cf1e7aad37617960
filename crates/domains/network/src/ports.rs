//! Which port an attachment of the proxy belongs to: what the proxy asks for is done here.

use crate::audit::Writer;
use async_trait::async_trait;
use omnirun_egress::{AttachmentId, Host};
use omnirun_egress_policy::{AuditLine, Policy};
use omnirun_netns::Namespace;
use std::{
    collections::HashMap,
    error::Error,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// What the proxy's requests are about.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) namespace: Arc<Namespace>,
    /// Whose audit log.
    pub(crate) subject: String,
    pub(crate) sandbox: String,
    pub(crate) session: Option<String>,
    /// What is in force.
    pub(crate) in_force: watch::Receiver<Arc<Policy>>,
}

/// The ports that somebody was admitted to.
pub(crate) struct Ports {
    entries: Mutex<HashMap<AttachmentId, Entry>>,
    audit: Writer,
}

impl Ports {
    pub(crate) fn new(audit: Writer) -> Self {
        Self {
            entries: Mutex::default(),
            audit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttachmentId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, id: AttachmentId, entry: Entry) {
        self.lock().insert(id, entry);
    }

    pub(crate) fn namespace(&self, sandbox: &str) -> Option<Arc<Namespace>> {
        let entries = self.lock();
        let entry = entries.values().find(|entry| entry.sandbox == sandbox)?;
        Some(entry.namespace.clone())
    }

    pub(crate) async fn in_force(&self, sandbox: &str, policy: &Policy) {
        let found = self
            .lock()
            .values()
            .find(|entry| entry.sandbox == sandbox)
            .map(|entry| entry.in_force.clone());
        if let Some(mut in_force) = found {
            // An error: its follower has ended, and so has the sandbox.
            let _ = in_force.wait_for(|now| **now == *policy).await;
        }
    }

    /// Waits until every line so far is in the log.
    pub(crate) async fn written(&self) {
        self.audit.written().await;
    }

    pub(crate) fn remove(&self, id: AttachmentId) {
        self.lock().remove(&id);
    }
}

#[async_trait]
impl Host for Ports {
    async fn answered(
        &self,
        id: AttachmentId,
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let entry = self.lock().get(&id).cloned();
        let entry = entry.ok_or("its sandbox has ended")?;
        Ok(entry.namespace.answered(addresses, ttl).await?)
    }

    fn audit(&self, id: AttachmentId, mut line: AuditLine) {
        // The last lines of a sandbox may come when it has gone: its entry goes after the attachment.
        if let Some(entry) = self.lock().get(&id).cloned() {
            line.sandbox = entry.sandbox;
            line.session = entry.session;
            self.audit.write(entry.subject, line);
        }
    }
}
