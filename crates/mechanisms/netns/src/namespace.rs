//! A sandbox's namespace, as its owner holds it.

use std::{
    collections::HashMap,
    fmt,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net};
use tokio::{sync::oneshot, task::spawn_blocking};

use crate::{
    Kind, NetError, Sockets,
    host::Host,
    inside::{
        Inside,
        rules::{ANSWERED, ANSWERED_MAX, DENIED, PERMITTED, TABLE, WEB},
    },
    netlink::{
        Netlink,
        sets::{Element, Transaction, intervals},
    },
    networks::blocking,
    nft::Nft,
    ruleset::{RuleState, Ruleset},
};

/// Names a namespace in logs: the number that `ls -i /proc/PID/ns/net` shows. The kernel may use it again when the
/// namespace is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(u64);

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A namespace for one sandbox. Dropping it lets go of everything; the kernel removes the namespace when VMM and proxy
/// have let go of it too.
#[derive(Debug)]
pub struct Namespace {
    id: NamespaceId,
    kind: Kind,
    descriptor: Arc<OwnedFd>,
    sockets: Sockets,
    sets: Arc<Mutex<Sets>>,
    nft: Nft,
    /// The host's end of its uplink, and the host.
    link: Option<(String, Arc<Host>)>,
}

#[derive(Debug)]
struct Sets {
    netlink: Netlink,
    /// When each address of the set `answered` leaves it.
    answered: HashMap<Ipv4Addr, Instant>,
}

impl Namespace {
    pub(crate) fn new(
        kind: Kind,
        inside: Inside,
        nft: Nft,
        host: Option<Arc<Host>>,
    ) -> Result<Self, NetError> {
        let stat = rustix::fs::fstat(&inside.namespace).map_err(NetError::step("looking at a namespace"))?;
        Ok(Self {
            id: NamespaceId(stat.st_ino),
            kind,
            descriptor: inside.namespace,
            sockets: inside.sockets,
            sets: Arc::new(Mutex::new(Sets {
                netlink: inside.netlink,
                answered: HashMap::new(),
            })),
            nft,
            link: inside.link.zip(host),
        })
    }

    /// Which it is.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// What it leads to.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For the VMM, which finds the persistent tap [`omnirun_guest_net::TAP`] in it.
    #[must_use]
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        self.descriptor.clone()
    }

    /// For the proxy.
    #[must_use]
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Name of the host's end of the uplink, in an open one.
    #[must_use]
    pub fn host_link(&self) -> Option<&str> {
        self.link.as_ref().map(|(name, _)| &**name)
    }

    /// Puts a policy's addresses into force, all at once: `permitted` ones are reached by the proxy, also special ones;
    /// `denied` ones by nobody; in an open namespace, `proxies_web` has the proxy serve ports 80 and 443. Live flows that
    /// are no longer allowed end. Until the first call nothing is permitted and nothing beyond the special addresses is
    /// denied, so it comes before the guest does.
    ///
    /// IPv6 networks are passed over: there is no IPv6.
    ///
    /// # Errors
    /// The kernel refused; nothing has changed then.
    pub async fn apply(
        &self,
        permitted: &[IpNet],
        denied: &[IpNet],
        proxies_web: bool,
    ) -> Result<(), NetError> {
        let (permitted, denied) = (intervals(&v4(permitted)), intervals(&v4(denied)));
        let ports: &[u16] = if proxies_web { &[80, 443] } else { &[] };
        let (kind, sets) = (self.kind, self.sets.clone());
        blocking(move || {
            let mut transaction = Transaction::new(TABLE)
                .clear(PERMITTED)
                .clear(DENIED)
                .add(PERMITTED, &permitted)
                .add(DENIED, &denied);
            if kind == Kind::Open {
                let ports: Vec<Element> = ports.iter().copied().map(Element::port).collect();
                transaction = transaction.clear(WEB).add(WEB, &ports);
            }
            transaction
                .commit(&mut lock(&sets).netlink)
                .map_err(NetError::step("changing a sandbox's addresses"))
        })
        .await
    }

    /// Lets the guest connect (through the proxy) to addresses that our DNS is about to answer with, for `time` from now;
    /// a longer time that one of them still has is kept. In an open namespace every public address is reached anyway, and
    /// nothing happens.
    ///
    /// # Errors
    /// The kernel refused, or there are too many ([`NetError::Full`]); the answer must not go out then.
    pub async fn answered(&self, addresses: &[Ipv4Addr], time: Duration) -> Result<(), NetError> {
        if self.kind == Kind::Open {
            return Ok(());
        }
        let now = Instant::now();
        let until = now + time;
        let new: Vec<Ipv4Addr> = {
            let sets = lock(&self.sets);
            let known = |address: &Ipv4Addr| sets.answered.get(address).is_some_and(|end| *end >= until);
            addresses
                .iter()
                .copied()
                .filter(|address| !known(address))
                .collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        let sets = self.sets.clone();
        blocking(move || {
            let mut sets = lock(&sets);
            if sets.answered.len() + new.len() > ANSWERED_MAX {
                sets.answered.retain(|_, end| *end > now);
            }
            if sets.answered.len() + new.len() > ANSWERED_MAX {
                return Err(NetError::Full {
                    set: ANSWERED,
                    room: ANSWERED_MAX,
                });
            }
            let elements: Vec<Element> = new
                .iter()
                .map(|address| Element::address(*address, time))
                .collect();
            Transaction::new(TABLE)
                .renew(ANSWERED, &elements)
                .commit(&mut sets.netlink)
                .map_err(NetError::step("admitting the addresses of a name"))?;
            sets.answered.extend(new.iter().map(|address| (*address, until)));
            Ok(())
        })
        .await
    }

    /// Takes back what [`Self::answered`] admitted. Connections that are there stay with the proxy.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn forget_answers(&self) -> Result<(), NetError> {
        if self.kind == Kind::Open {
            return Ok(());
        }
        let sets = self.sets.clone();
        blocking(move || {
            let mut sets = lock(&sets);
            Transaction::new(TABLE)
                .clear(ANSWERED)
                .commit(&mut sets.netlink)
                .map_err(NetError::step("forgetting the addresses of names"))?;
            sets.answered.clear();
            Ok(())
        })
        .await
    }

    /// All named rules inside, in the order in which packets meet them.
    ///
    /// # Errors
    /// `nft` failed.
    pub async fn rules(&self) -> Result<Vec<RuleState>, NetError> {
        self.inside().states().await
    }

    /// The rules of the host's that are for the owner's open networks, all together; without an uplink: none.
    ///
    /// # Errors
    /// `nft` failed.
    pub async fn host_rules(&self) -> Result<Vec<RuleState>, NetError> {
        match self.outside() {
            Some(table) => table.states().await,
            None => Ok(Vec::new()),
        }
    }

    /// Takes a rule out, to prove that it matters.
    ///
    /// # Errors
    /// There is none of this name, or `nft` failed.
    #[cfg(any(test, feature = "testing"))]
    pub async fn remove_rule(&self, name: &str) -> Result<(), NetError> {
        self.inside().remove(name).await
    }

    /// The same, of the host's rules.
    ///
    /// # Errors
    /// As [`Self::remove_rule`].
    #[cfg(any(test, feature = "testing"))]
    pub async fn remove_host_rule(&self, name: &str) -> Result<(), NetError> {
        match self.outside() {
            Some(table) => table.remove(name).await,
            None => Err(NetError::NoRule(name.to_owned())),
        }
    }

    fn inside(&self) -> Ruleset {
        Ruleset {
            namespace: self.descriptor.clone(),
            nft: self.nft.clone(),
            table: None,
        }
    }

    fn outside(&self) -> Option<Ruleset> {
        let (_, host) = self.link.as_ref()?;
        Some(Ruleset {
            namespace: host.namespace(),
            nft: self.nft.clone(),
            table: Some(host.table()),
        })
    }

    /// Lets go of it. Nothing of the guest's goes through an uplink any more when this returns, whoever else still holds
    /// the namespace. The rest is not waited for: descriptors are closed on another thread (the kernel may have 10 ms of
    /// rules to tidy up before it closes the socket to them), and the links go when the kernel removes the namespace
    /// (removing them here would take 30 ms).
    ///
    /// # Errors
    /// The kernel refused. Everything is let go of all the same.
    pub async fn close(self) -> Result<(), NetError> {
        let (done, outcome) = oneshot::channel();
        spawn_blocking(move || {
            let cut = match self.kind {
                Kind::Restricted => Ok(()),
                Kind::Open => self.cut(),
            };
            let _ = done.send(cut);
            drop(self);
        });
        // The runtime is ending, and drops what it has not begun.
        outcome.await.unwrap_or(Ok(()))
    }

    /// Denies everything.
    fn cut(&self) -> Result<(), NetError> {
        let everything = intervals(&[Ipv4Net::default()]);
        Transaction::new(TABLE)
            .clear(DENIED)
            .add(DENIED, &everything)
            .commit(&mut lock(&self.sets).netlink)
            .map_err(NetError::step("cutting a sandbox off"))
    }
}

fn v4(nets: &[IpNet]) -> Vec<Ipv4Net> {
    nets.iter()
        .filter_map(|net| {
            if let IpNet::V4(net) = net {
                Some(*net)
            } else {
                None
            }
        })
        .collect()
}

fn lock(sets: &Mutex<Sets>) -> MutexGuard<'_, Sets> {
    sets.lock().unwrap_or_else(PoisonError::into_inner)
}
