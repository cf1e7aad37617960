//! The network of an owner.

use crate::{audit::Writer, owners, port::CardPort, ports::Ports};
use async_trait::async_trait;
use omnirun_egress::{Proxy, ProxyConfig};
use omnirun_egress_policy::{Ipv4Net, Policy, special, special_v4_nets};
use omnirun_ids::SandboxId;
use omnirun_netns::{Kind, Namespace, Networks, NetworksConfig, Ready, Special};
use omnirun_sandboxes::{Card, Network, NetworkError, Port};
use omnirun_store::{AuditLog, DataDir, OwnerId};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::OnceCell;

/// How many namespaces of a kind wait for a card, once one was wanted.
const READY: usize = 2;

/// The network of an owner process.
pub struct OwnerNetwork {
    data: DataDir,
    proxy: ProxyConfig,
    opened: OnceCell<Opened>,
}

/// What there is once a card was wanted.
struct Opened {
    namespaces: Arc<Networks>,
    shared: Arc<Shared>,
}

/// What ports share.
pub(crate) struct Shared {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) ports: Arc<Ports>,
    attachments: AtomicU64,
}

impl Shared {
    /// A number that no attachment of this process has had.
    pub(crate) fn next(&self) -> u64 {
        self.attachments.fetch_add(1, Ordering::Relaxed)
    }
}

impl OwnerNetwork {
    /// Of an owner that will be one of this data folder's; `proxy`: how its egress proxy is started.
    pub fn new(data: &DataDir, proxy: ProxyConfig) -> Self {
        Self {
            data: data.clone(),
            proxy,
            opened: OnceCell::new(),
        }
    }

    /// The namespace of a sandbox that was claimed with a card and lives.
    pub fn namespace(&self, sandbox: &SandboxId) -> Option<Arc<Namespace>> {
        self.opened.get()?.shared.ports.namespace(sandbox.as_str())
    }

    /// Waits until this policy is in force for a sandbox that follows it; also if its sandbox ends.
    pub async fn in_force(&self, sandbox: &SandboxId, policy: &Policy) {
        if let Some(opened) = self.opened.get() {
            opened.shared.ports.in_force(sandbox.as_str(), policy).await;
        }
    }

    /// Waits until what the proxy has said by now is in the audit log.
    pub async fn written(&self) {
        if let Some(opened) = self.opened.get() {
            opened.shared.ports.written().await;
        }
    }

    async fn opened(&self, owner: &OwnerId) -> Result<&Opened, NetworkError> {
        self.opened.get_or_try_init(|| self.open(owner)).await
    }

    async fn open(&self, owner: &OwnerId) -> Result<Opened, NetworkError> {
        let named = |(name, nets): (&str, Vec<Ipv4Net>)| Special {
            name: name.to_owned(),
            permittable: nets
                .iter()
                .all(|net| special(net.network().into()).is_some_and(|what| what.listable)),
            nets,
        };
        let namespaces = Networks::open(NetworksConfig {
            tag: owners::tag(&self.data, owner),
            special: special_v4_nets().into_iter().map(named).collect(),
            ready: Ready::default(),
            host: None,
        });
        let ports = Arc::new(Ports::new(Writer::start(AuditLog::of(&self.data))?));
        let proxy = Proxy::start(self.proxy.clone(), ports.clone());
        let (namespaces, proxy) = tokio::join!(namespaces, proxy);
        Ok(Opened {
            namespaces: namespaces?,
            shared: Arc::new(Shared {
                proxy: proxy?,
                ports,
                attachments: AtomicU64::new(1),
            }),
        })
    }
}

#[async_trait]
impl Network for OwnerNetwork {
    async fn plug(
        &self,
        owner: &OwnerId,
        sandbox: &SandboxId,
        card: Card,
    ) -> Result<Arc<dyn Port>, NetworkError> {
        let kind = match card {
            Card::None => return Err("a sandbox without a card has no port".into()),
            Card::Restricted => Kind::Restricted,
            Card::Open => Kind::Open,
        };
        let opened = self.opened(owner).await?;
        let namespace = opened.namespaces.take(kind).await?;
        // Another will most likely be wanted: the first one has been waited for, this one will not be.
        opened.namespaces.keep(kind, READY);
        Ok(Arc::new(
            CardPort::shut(namespace, sandbox, opened.shared.clone()).await?,
        ))
    }

    async fn shutdown(&self) -> Vec<String> {
        let Some(opened) = self.opened.get() else {
            return Vec::new();
        };
        opened.shared.proxy.shutdown().await;
        match opened.namespaces.shutdown().await {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("networks: {error}")],
        }
    }
}
