//! The namespaces of one owner process.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use ipnet::Ipv4Net;
use omnirun_sys::host::net;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, Semaphore},
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    Kind, Namespace, NetError, Special,
    check::permitted,
    host::{self, Host, watch::watch},
    inside::{self, rules::rules},
    nft::Nft,
};

/// Namespaces that are made at a time: the kernel makes links one by one anyway.
const MAKERS: usize = 2;
/// Longest name of a rule or table that is taken from outside.
const RULE_NAME: usize = 32;
const TAG: usize = 64;

/// How many namespaces of each kind are kept ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// Of [`Kind::Restricted`].
    pub restricted: usize,
    /// Of [`Kind::Open`]. More than none makes the host's table at once.
    pub open: usize,
}

/// What an owner's networks are to be like.
#[derive(Debug, Clone)]
pub struct NetworksConfig {
    /// Names the owner in the host's namespace: letters, digits and `_`. Whether such an owner lives is for the caller
    /// to know ([`sweep`]).
    pub tag: String,
    /// All addresses that are not public.
    pub special: Vec<Special>,
    /// How many to keep ready.
    pub ready: Ready,
    /// The namespace that stands for the host's; `None`: this process's own.
    pub host: Option<Arc<OwnedFd>>,
}

/// One for each owner process: hands out namespaces, keeps some ready, and has the host's side of the open ones.
#[derive(Debug)]
pub struct Networks {
    inner: Arc<Inner>,
    filler: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    nft: Nft,
    tag: String,
    special: Vec<Ipv4Net>,
    namespace: Arc<OwnedFd>,
    restricted: Pool,
    open: Pool,
    /// Made with the first open network.
    host: AsyncMutex<Option<Uplinks>>,
    makers: Semaphore,
    /// Tells the filler that something was taken.
    taken: Arc<Notify>,
    ended: AtomicBool,
}

/// The host's side.
#[derive(Debug)]
struct Uplinks {
    host: Arc<Host>,
    /// Follows its routes.
    watch: JoinHandle<()>,
}

#[derive(Debug)]
struct Pool {
    kind: Kind,
    rules: Arc<str>,
    state: Mutex<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    target: usize,
    ready: VecDeque<Namespace>,
}

impl Networks {
    /// Sees whether this process may make namespaces at all, and begins to make some.
    ///
    /// # Errors
    /// Not root, no `nft`, or names that cannot be used. What an open network needs more is found out with the first.
    pub async fn open(config: NetworksConfig) -> Result<Arc<Self>, NetError> {
        permitted()?;
        let nft = Nft::find()?;
        let named = |name: &str, most, more: &dyn Fn(u8) -> bool| {
            (1..=most).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more(byte))
        };
        if !named(&config.tag, TAG, &|byte| {
            byte == b'_' || byte.is_ascii_uppercase()
        }) {
            return Err(NetError::BadTag(config.tag));
        }
        for special in &config.special {
            if !named(&special.name, RULE_NAME, &|byte| byte == b'-') {
                return Err(NetError::BadRuleName(special.name.clone()));
            }
        }
        let namespace = match config.host {
            Some(namespace) => namespace,
            None => Arc::new(net::namespace().map_err(NetError::step("opening the host's namespace"))?),
        };
        let pool = |kind, target| Pool {
            kind,
            rules: rules(kind, &config.special).into(),
            state: Mutex::new(PoolState {
                target,
                ready: VecDeque::new(),
            }),
        };
        let inner = Arc::new(Inner {
            nft,
            tag: config.tag,
            special: config
                .special
                .iter()
                .flat_map(|special| special.nets.iter().copied())
                .collect(),
            namespace,
            restricted: pool(Kind::Restricted, config.ready.restricted),
            open: pool(Kind::Open, config.ready.open),
            host: AsyncMutex::new(None),
            makers: Semaphore::new(MAKERS),
            taken: Arc::new(Notify::new()),
            ended: AtomicBool::new(false),
        });
        let filler = tokio::spawn(fill(Arc::downgrade(&inner), inner.taken.clone()));
        inner.taken.notify_one();
        Ok(Arc::new(Self {
            inner,
            filler: Mutex::new(Some(filler)),
        }))
    }

    /// A namespace that nobody has used: one that is ready, else a new one.
    ///
    /// # Errors
    /// See [`NetError`]; for [`Kind::Open`] also what the host lacks ([`NetError::ForwardDrop`],
    /// [`NetError::NoUplink`]).
    pub async fn take(&self, kind: Kind) -> Result<Namespace, NetError> {
        if self.inner.ended.load(Ordering::Acquire) {
            return Err(NetError::ShutDown);
        }
        let ready = self.inner.pool(kind).state().ready.pop_front();
        self.inner.taken.notify_one();
        match ready {
            Some(namespace) => Ok(namespace),
            None => self.inner.make(kind).await,
        }
    }

    /// Sets how many namespaces of a kind are kept ready. Those beyond it are let go of when they are taken.
    pub fn keep(&self, kind: Kind, target: usize) {
        self.inner.pool(kind).state().target = target;
        self.inner.taken.notify_one();
    }

    /// How many namespaces of a kind are ready.
    #[must_use]
    pub fn ready(&self, kind: Kind) -> usize {
        self.inner.pool(kind).state().ready.len()
    }

    /// Lets go of the namespaces that are ready, cuts the links of all that this owner has handed out, and removes its
    /// table from the host's namespace. Afterwards nothing can be taken.
    ///
    /// # Errors
    /// The host's side could not be removed whole; a [`sweep`] may try again.
    pub async fn shutdown(&self) -> Result<(), NetError> {
        self.inner.ended.store(true, Ordering::Release);
        let filler = self.filler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(filler) = filler {
            // It ends with the namespace that it is making, which must not come into being after the table is gone.
            self.inner.taken.notify_one();
            let _ = filler.await;
        }
        for pool in [&self.inner.restricted, &self.inner.open] {
            pool.state().ready.clear();
        }
        // Whoever is still making one has a permit; there are none left once we have all.
        let _all = self.inner.makers.acquire_many(MAKERS as u32).await;
        let Some(uplinks) = self.inner.host.lock().await.take() else {
            return Ok(());
        };
        let host = uplinks.host.clone();
        drop(uplinks);
        blocking(move || host.close()).await
    }
}

impl Inner {
    fn pool(&self, kind: Kind) -> &Pool {
        match kind {
            Kind::Restricted => &self.restricted,
            Kind::Open => &self.open,
        }
    }

    /// The host's side, which is made if it is not there.
    async fn host(&self) -> Result<Arc<Host>, NetError> {
        let mut uplinks = self.host.lock().await;
        if let Some(Uplinks { host, .. }) = &*uplinks {
            return Ok(host.clone());
        }
        let (namespace, nft, tag, special) = (
            self.namespace.clone(),
            self.nft.clone(),
            self.tag.clone(),
            self.special.clone(),
        );
        let (host, news) = blocking(move || {
            let host = Host::open(namespace, nft, &tag, &special)?;
            let news = host.news()?;
            // What changed in between was not told.
            host.refresh()?;
            Ok((Arc::new(host), news))
        })
        .await?;
        let weak = Arc::downgrade(&host);
        let watch = tokio::spawn(async move {
            if let Err(error) = watch(news, weak).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a changed way out will not be noticed"
                );
            }
        });
        *uplinks = Some(Uplinks {
            host: host.clone(),
            watch,
        });
        Ok(host)
    }

    async fn make(&self, kind: Kind) -> Result<Namespace, NetError> {
        let _permit = self.makers.acquire().await.map_err(|_| NetError::ShutDown)?;
        if self.ended.load(Ordering::Acquire) {
            return Err(NetError::ShutDown);
        }
        let host = match kind {
            Kind::Restricted => None,
            Kind::Open => Some(self.host().await?),
        };
        let (nft, rules) = (self.nft.clone(), self.pool(kind).rules.clone());
        blocking(move || {
            let inside = inside::build(&nft, kind, &rules, host.as_deref())?;
            Namespace::new(kind, inside, nft, host)
        })
        .await
    }
}

impl Pool {
    fn state(&self) -> std::sync::MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lacks(&self) -> bool {
        let state = self.state();
        state.ready.len() < state.target
    }
}

/// Fills the pools whenever something was taken. A failure is told and then left alone until the next time: whoever
/// finds the pool empty makes a namespace himself, and gets the error.
async fn fill(networks: Weak<Inner>, taken: Arc<Notify>) {
    // Nothing of the networks is held while there is nothing to do, or they would never end by being dropped.
    while let Some(inner) = networks.upgrade() {
        for pool in [&inner.restricted, &inner.open] {
            while pool.lacks() && !inner.ended.load(Ordering::Acquire) {
                match inner.make(pool.kind).await {
                    Ok(namespace) => pool.state().ready.push_back(namespace),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(kind = ?pool.kind, error, "no network made in advance");
                        break;
                    }
                }
            }
        }
        if inner.ended.load(Ordering::Acquire) {
            return;
        }
        drop(inner);
        taken.notified().await;
    }
}

/// Without [`Networks::shutdown`] all namespaces are let go of, and the host's table is left for a sweep.
impl Drop for Networks {
    fn drop(&mut self) {
        if let Some(filler) = self.filler.lock().unwrap_or_else(PoisonError::into_inner).take() {
            filler.abort();
        }
    }
}

impl Drop for Uplinks {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Runs `work`, which waits for the kernel or a program, away from the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(NetError::ShutDown),
    }
}

/// Removes from the host's namespace (`None`: this process's own) what dead owners left: links, tables, forwarding.
/// `alive` says of a tag whether its owner lives, and must say so of every tag that is not known to be a dead one's.
/// Returns the tags of those removed.
///
/// # Errors
/// Not root, no `nft`, or something could not be removed; what was not is found again by the next one.
pub async fn sweep(
    host: Option<Arc<OwnedFd>>,
    alive: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Result<Vec<String>, NetError> {
    permitted()?;
    let nft = Nft::find()?;
    blocking(move || {
        let namespace = match host {
            Some(namespace) => namespace,
            None => Arc::new(net::namespace().map_err(NetError::step("opening the host's namespace"))?),
        };
        host::sweep(namespace.as_fd(), &nft, &alive)
    })
    .await
}
