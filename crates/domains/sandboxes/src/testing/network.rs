//! A network without namespaces, which keeps account of its ports and fails where it is told to.

use crate::{Card, Egress, Network, NetworkError, Port};
use async_trait::async_trait;
use omnirun_ids::SandboxId;
use omnirun_store::OwnerId;
use omnirun_vmm::Nic;
use std::{
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What was done to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Deed {
    Plug,
    Admit,
    Pull,
}

/// One port's account.
#[derive(Debug, Clone)]
pub struct Account {
    /// Whose it is.
    pub sandbox: SandboxId,
    /// What it was plugged for.
    pub card: Card,
    /// Who was admitted.
    pub admitted: Option<Egress>,
    /// How many claims its sandbox's guest had seen by then.
    pub claims_before: usize,
    /// Whether it was pulled.
    pub pulled: bool,
}

type LookAt = Box<dyn Fn() -> usize + Send + Sync>;

#[derive(Default)]
struct State {
    accounts: Vec<Account>,
    fails: Option<Deed>,
    shut: bool,
}

/// The network. Clones share everything.
#[derive(Clone)]
pub struct FakeNetwork {
    state: Arc<Mutex<State>>,
    claims: Arc<LookAt>,
}

impl FakeNetwork {
    /// One that looks how many claims there have been, when somebody is admitted.
    pub fn new(claims: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        Self {
            state: Arc::default(),
            claims: Arc::new(Box::new(claims)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this fails.
    pub fn fail(&self, deed: Deed) {
        self.lock().fails = Some(deed);
    }

    /// All ports so far, the oldest first.
    pub fn accounts(&self) -> Vec<Account> {
        self.lock().accounts.clone()
    }

    /// Whether it was shut down.
    pub fn is_shut(&self) -> bool {
        self.lock().shut
    }

    fn check(&self, deed: Deed) -> Result<(), NetworkError> {
        match self.lock().fails == Some(deed) {
            true => Err(format!("told to fail at {deed:?}").into()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn plug(
        &self,
        _: &OwnerId,
        sandbox: &SandboxId,
        card: Card,
    ) -> Result<Arc<dyn Port>, NetworkError> {
        self.check(Deed::Plug)?;
        let namespace: OwnedFd = File::open("/dev/null")?.into();
        let mut state = self.lock();
        state.accounts.push(Account {
            sandbox: sandbox.clone(),
            card,
            admitted: None,
            claims_before: 0,
            pulled: false,
        });
        Ok(Arc::new(FakePort {
            network: self.clone(),
            index: state.accounts.len() - 1,
            namespace: Arc::new(namespace),
        }))
    }

    async fn shutdown(&self) -> Vec<String> {
        self.lock().shut = true;
        Vec::new()
    }
}

struct FakePort {
    network: FakeNetwork,
    index: usize,
    namespace: Arc<OwnedFd>,
}

#[async_trait]
impl Port for FakePort {
    fn nic(&self) -> Nic {
        Nic {
            namespace: self.namespace.clone(),
        }
    }

    async fn admit(&self, egress: Egress) -> Result<(), NetworkError> {
        self.network.check(Deed::Admit)?;
        let claims_before = (self.network.claims)();
        let account = &mut self.network.lock().accounts[self.index];
        assert!(account.admitted.is_none(), "admitted twice");
        account.admitted = Some(egress);
        account.claims_before = claims_before;
        Ok(())
    }

    async fn pull(&self) -> Result<Vec<String>, NetworkError> {
        self.network.check(Deed::Pull)?;
        self.network.lock().accounts[self.index].pulled = true;
        Ok(vec!["port".to_owned()])
    }
}
