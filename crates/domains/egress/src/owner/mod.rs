//! The owner's side.
//!
//! ```text
//!   Proxy, Attachment --> table  what is to be attached, under which policy                        (state)
//!          host's files --^ |    how names are resolved                                            (resolvers, follow)
//!                           | notified
//!   supervisor: start --> link --> end, back-off, start ...                                        (supervisor)
//!                 |         `- sends what this child has not been told yet, answers what it asks   (link)
//!                 `- confinement, standard error, end                                              (process)
//! ```
//!
//! The table is the truth. A link tells its child what differs from it, so that a child that was started again is told
//! everything, and nobody waits for more than "in force". Whoever waits is woken by the child that comes next, if the one
//! that was told died.
//!
//! The descriptors of an attachment are the owner's own duplicates, kept for the next child. While there is none, nothing
//! is read from the guests' sockets; connections that were open ended with the child.

mod follow;
mod link;
mod process;
mod resolvers;
mod state;
mod supervisor;

use crate::{
    Metrics,
    channel::{Blob, blob},
};
use omnirun_egress_policy::{AuditLine, Policy};
use serde::{Deserialize, Serialize};
use state::{Standing, Table};
use std::{
    error::Error,
    fmt, io,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use process::Identity;
pub use resolvers::Resolvers;

/// Names an attachment, for as long as it lasts; its owner chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u64);

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the proxy asks of its owner.
#[async_trait::async_trait]
pub trait Host: Send + Sync + 'static {
    /// A guest is about to be told these addresses. They are to be let through to the proxy's socket for as long, and the
    /// answer goes out when this returns. On an error it does not.
    async fn answered(
        &self,
        id: AttachmentId,
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// What was let through and what was not. Called in order, one at a time; while it has not returned, connections wait
    /// for room in the queue before it. Whose line it is the caller says: the labels in it are empty.
    fn audit(&self, id: AttachmentId, line: AuditLine);
}

/// How the child is started.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// The program: one whose `main`, so called, calls [`crate::child::main`].
    pub program: PathBuf,
    /// Its arguments, with its name first.
    pub arguments: Vec<String>,
    /// Who the child is to be.
    pub identity: Identity,
    /// The network namespace that it resolves and dials from; the owner's, if none is named.
    pub namespace: Option<Arc<OwnedFd>>,
    /// How names are resolved.
    pub resolvers: Resolvers,
    /// What each guest may use.
    pub caps: Caps,
    /// How long to wait for the child to take an attachment or a policy.
    pub patience: Duration,
}

impl Default for ProxyConfig {
    /// This program's subcommand `egress-proxy`.
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec!["omnirun".into(), "egress-proxy".into()],
            identity: Identity::default(),
            namespace: None,
            resolvers: Resolvers::System,
            caps: Caps::default(),
            patience: Duration::from_secs(10),
        }
    }
}

/// What one guest may use of the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Connections at a time. Beyond them none is accepted.
    pub connections: usize,
    /// Connections that are being set up (first bytes, names, dialling) at a time.
    pub setups: usize,
    /// DNS queries that are being answered at a time.
    pub lookups: usize,
    /// DNS queries a second.
    pub queries_per_second: u32,
    /// Seconds for the first bytes of a connection to be there.
    pub hello_seconds: u32,
    /// Seconds for a server to be reached.
    pub dial_seconds: u32,
    /// Seconds after which a connection on which nothing moves is ended.
    pub idle_seconds: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            connections: 4096,
            setups: 512,
            lookups: 64,
            queries_per_second: 100,
            hello_seconds: 10,
            dial_seconds: 10,
            idle_seconds: 900,
        }
    }
}

/// The sockets of a guest. The proxy keeps duplicates.
#[derive(Debug, Clone, Copy)]
pub struct Sockets<'a> {
    /// DNS over UDP.
    pub dns_udp: BorrowedFd<'a>,
    /// DNS over TCP; listens.
    pub dns_tcp: BorrowedFd<'a>,
    /// What connections are redirected to; listens.
    pub transparent: BorrowedFd<'a>,
    /// The explicit HTTP proxy; listens.
    pub explicit: BorrowedFd<'a>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The child's program cannot be run so confined.
    #[error("the egress proxy was not started: {step} failed")]
    Start {
        /// The step.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The child ended before it was ready.
    #[error("the egress proxy ended at once{said}")]
    EndedAtOnce {
        /// What it said, if anything.
        said: String,
    },
    /// There is an attachment of this id.
    #[error("attachment {0} is there already")]
    Taken(AttachmentId),
    /// There is no attachment of this id.
    #[error("there is no attachment {0}")]
    Unknown(AttachmentId),
    /// Something could not be prepared.
    #[error("attachment {id}: {step} failed")]
    Prepare {
        /// Which.
        id: AttachmentId,
        /// The step.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The child could not take it.
    #[error("the egress proxy refused attachment {id}: {why}")]
    Refused {
        /// Which.
        id: AttachmentId,
        /// Why.
        why: String,
    },
    /// The child did not answer, and is ended. The order stands: the next child will follow it.
    #[error("the egress proxy did not answer in time about attachment {0}")]
    Late(AttachmentId),
    /// The proxy has been shut down.
    #[error("the egress proxy has been shut down")]
    Closed,
}

/// The proxy of an owner. Dropped, it ends: the child first, and with it every connection.
#[derive(Debug)]
pub struct Proxy {
    table: Arc<Table>,
    stop: CancellationToken,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    pid: watch::Receiver<Option<u32>>,
    caps: Caps,
    patience: Duration,
}

impl Proxy {
    /// Starts the child and waits until it is confined. Later children are started by themselves.
    pub async fn start(config: ProxyConfig, host: Arc<dyn Host>) -> Result<Arc<Self>, EgressError> {
        let (caps, patience) = (config.caps.clone(), config.patience);
        let table = Arc::new(Table::new(config.resolvers.clone()));
        let stop = CancellationToken::new();
        let (pid_sender, pid) = watch::channel(None);
        let supervisor =
            supervisor::start(config, host, Arc::clone(&table), stop.clone(), pid_sender).await?;
        Ok(Arc::new(Self {
            table,
            stop,
            supervisor: Mutex::new(Some(supervisor)),
            pid,
            caps,
            patience,
        }))
    }

    /// Serves a guest. When this returns the policy is in force.
    pub async fn attach(
        &self,
        id: AttachmentId,
        sockets: Sockets<'_>,
        policy: &Policy,
    ) -> Result<Attachment, EgressError> {
        let failed = |step| move |source| EgressError::Prepare { id, step, source };
        let mut kept = Vec::with_capacity(4);
        for socket in [
            sockets.dns_udp,
            sockets.dns_tcp,
            sockets.transparent,
            sockets.explicit,
        ] {
            kept.push(
                socket
                    .try_clone_to_owned()
                    .map_err(failed("duplicating a socket"))?,
            );
        }
        let blob = self.blob(id, policy)?;
        let (serial, standing) = self.table.insert(id.0, kept, blob)?;
        let attachment = Attachment {
            id,
            table: Arc::clone(&self.table),
            caps: self.caps.clone(),
            patience: self.patience,
            standing,
        };
        // Given up, it is dropped, and with it everything of it.
        match attachment.in_force(serial).await {
            Ok(()) => Ok(attachment),
            Err(error) => {
                // So that its id is free again.
                let _ = attachment.detach().await;
                Err(error)
            }
        }
    }

    /// Changes how names are resolved.
    pub fn set_resolvers(&self, resolvers: Resolvers) {
        self.table.set_resolvers(resolvers);
    }

    /// The process id of the child that there is now.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Follows the process id of the child: another number, another child.
    pub fn pids(&self) -> watch::Receiver<Option<u32>> {
        self.pid.clone()
    }

    /// Ends the child, and waits until it is gone. Attachments stay as they are, served by nobody.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let task = self
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    fn blob(&self, id: AttachmentId, policy: &Policy) -> Result<OwnedFd, EgressError> {
        write_blob(id, policy, &self.caps)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn write_blob(id: AttachmentId, policy: &Policy, caps: &Caps) -> Result<OwnedFd, EgressError> {
    let caps = caps.clone();
    blob::write(&Blob { policy, caps }).map_err(|source| EgressError::Prepare {
        id,
        step: "writing the policy",
        source,
    })
}

/// A guest that is served. Dropped, it is served no more.
#[derive(Debug)]
pub struct Attachment {
    id: AttachmentId,
    table: Arc<Table>,
    caps: Caps,
    patience: Duration,
    standing: watch::Receiver<Standing>,
}

impl Attachment {
    /// Its id.
    pub fn id(&self) -> AttachmentId {
        self.id
    }

    /// Puts another policy in force. When this returns it holds for live connections too: those that it does not allow
    /// are cut. If the wait is given up, it is put in force all the same.
    pub async fn update(&self, policy: &Policy) -> Result<(), EgressError> {
        let blob = write_blob(self.id, policy, &self.caps)?;
        let serial = self.table.update(self.id.0, blob)?;
        self.in_force(serial).await
    }

    /// What was counted. An error if the child does not answer.
    pub async fn metrics(&self) -> Result<Metrics, EgressError> {
        let answer = self.table.measure(self.id.0)?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(Some(metrics))) => Ok(metrics),
            Ok(Ok(None)) => Err(EgressError::Unknown(self.id)),
            // The child died with the question.
            Ok(Err(_)) | Err(_) => Err(EgressError::Late(self.id)),
        }
    }

    /// Ends it, and waits until the child has let go of its sockets.
    pub async fn detach(self) -> Result<(), EgressError> {
        let mut standing = self.standing.clone();
        self.table.remove(self.id.0);
        // The sender goes when the child has let go, or is no more.
        let gone = async { while standing.changed().await.is_ok() {} };
        tokio::time::timeout(self.patience, gone)
            .await
            .map_err(|_| self.late())
    }

    /// A child that does not follow may go on letting through what it should not any more: it is ended. The next one is
    /// told everything.
    fn late(&self) -> EgressError {
        self.table.distrusted.notify_one();
        EgressError::Late(self.id)
    }

    async fn in_force(&self, serial: u64) -> Result<(), EgressError> {
        let mut standing = self.standing.clone();
        let settled = standing.wait_for(|now| now.settles(serial));
        match tokio::time::timeout(self.patience, settled).await {
            Ok(Ok(now)) => match &now.failed {
                _ if now.closed => Err(EgressError::Closed),
                Some((failed, why)) if *failed >= serial => Err(EgressError::Refused {
                    id: self.id,
                    why: why.clone(),
                }),
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(EgressError::Closed),
            Err(_) => Err(self.late()),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.table.remove(self.id.0);
    }
}
