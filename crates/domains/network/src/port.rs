//! One card's port: a namespace, and what the proxy does for it.

use crate::{network::Shared, ports::Entry};
use async_trait::async_trait;
use omnirun_egress::{Attachment, AttachmentId, Sockets};
use omnirun_egress_policy::{IpNet, Mode, Policy};
use omnirun_ids::SandboxId;
use omnirun_netns::{Kind, Namespace, NetError};
use omnirun_sandboxes::{Egress, NetworkError, Port};
use omnirun_vmm::Nic;
use std::{net::Ipv4Addr, os::fd::AsFd, sync::Arc};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

/// A port.
pub(crate) struct CardPort {
    sandbox: SandboxId,
    nic: Nic,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// Nothing is left of it once it has been pulled.
struct State {
    namespace: Option<Arc<Namespace>>,
    admitted: Option<Admitted>,
}

/// What there is once somebody was admitted.
struct Admitted {
    attachment: Arc<Attachment>,
    following: AbortOnDropHandle<()>,
}

impl CardPort {
    /// One that lets nothing through.
    pub(crate) async fn shut(
        namespace: Namespace,
        sandbox: &SandboxId,
        shared: Arc<Shared>,
    ) -> Result<Self, NetError> {
        if namespace.kind() == Kind::Open {
            namespace.apply(&[], &[everything()], false).await?;
        }
        Ok(Self {
            sandbox: sandbox.clone(),
            nic: Nic {
                namespace: namespace.descriptor(),
            },
            shared,
            state: Mutex::new(State {
                namespace: Some(Arc::new(namespace)),
                admitted: None,
            }),
        })
    }
}

/// All of IPv4.
fn everything() -> IpNet {
    IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0)
}

/// What the kernel does of a policy.
async fn apply(namespace: &Namespace, policy: &Policy) -> Result<(), NetError> {
    let shut = namespace.kind() == Kind::Open && policy.mode() < Mode::Open;
    let mut denied = policy.denied();
    if shut {
        denied.push(everything());
    }
    namespace
        .apply(&policy.permitted(), &denied, policy.proxies_web())
        .await
}

/// Puts each new policy in force. The namespace comes first when it becomes stricter or looser alike: what it lets through
/// to the proxy the proxy decides.
async fn follow(
    mut egress: Egress,
    namespace: Arc<Namespace>,
    attachment: Arc<Attachment>,
    in_force: watch::Sender<Arc<Policy>>,
) {
    while egress.policy.changed().await.is_ok() {
        let policy = egress.current();
        let kernel = apply(&namespace, &policy).await.map_err(NetworkError::from);
        let proxy = attachment.update(&policy).await.map_err(NetworkError::from);
        let errors: Vec<NetworkError> = [kernel.err(), proxy.err()].into_iter().flatten().collect();
        for error in &errors {
            tracing::error!(
                error = &**error,
                "a changed egress policy is not in force in every part"
            );
        }
        if errors.is_empty() {
            in_force.send_replace(policy);
        }
    }
}

#[async_trait]
impl Port for CardPort {
    fn nic(&self) -> Nic {
        self.nic.clone()
    }

    async fn admit(&self, mut egress: Egress) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        let namespace = state.namespace.clone().ok_or("it has been pulled")?;
        if state.admitted.is_some() {
            return Err("somebody has been admitted already".into());
        }
        // What changes from here on is the follower's.
        egress.policy.mark_unchanged();
        let policy = egress.current();
        let id = AttachmentId(self.shared.next());
        let (publish, in_force) = watch::channel(policy.clone());
        let entry = Entry {
            namespace: namespace.clone(),
            subject: egress.subject.clone().unwrap_or_else(|| self.sandbox.to_string()),
            sandbox: self.sandbox.to_string(),
            session: egress.session.clone(),
            in_force,
        };
        self.shared.ports.insert(id, entry);
        let made = async {
            let sockets = namespace.sockets();
            let sockets = Sockets {
                dns_udp: sockets.dns_udp.as_fd(),
                dns_tcp: sockets.dns_tcp.as_fd(),
                transparent: sockets.transparent.as_fd(),
                explicit: sockets.explicit.as_fd(),
            };
            let attachment = self.shared.proxy.attach(id, sockets, &policy).await?;
            apply(&namespace, &policy).await?;
            Ok::<_, NetworkError>(attachment)
        };
        match made.await {
            Ok(attachment) => {
                let attachment = Arc::new(attachment);
                let following = follow(egress, namespace.clone(), attachment.clone(), publish);
                state.admitted = Some(Admitted {
                    attachment,
                    following: AbortOnDropHandle::new(tokio::spawn(following)),
                });
                Ok(())
            }
            Err(error) => {
                self.shared.ports.remove(id);
                Err(error)
            }
        }
    }

    async fn pull(&self) -> Result<Vec<String>, NetworkError> {
        let mut state = self.state.lock().await;
        let mut removed = Vec::new();
        if let Some(Admitted {
            attachment,
            following,
        }) = state.admitted.take()
        {
            following.abort();
            let _ = following.await;
            let id = attachment.id();
            let detached = match Arc::try_unwrap(attachment) {
                Ok(attachment) => attachment.detach().await,
                // Nobody else has it once the follower has ended.
                Err(_) => Ok(()),
            };
            self.shared.ports.remove(id);
            detached?;
            removed.push("its part of the egress proxy".to_owned());
        }
        if let Some(namespace) = state.namespace.take() {
            removed.push(format!("network namespace {}", namespace.id()));
            // A request of the proxy's may still have it for a moment; it goes with that then.
            if let Ok(namespace) = Arc::try_unwrap(namespace) {
                namespace.close().await?;
            }
        }
        Ok(removed)
    }
}
