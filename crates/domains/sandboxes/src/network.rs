//! What sandboxes need of a network, as traits: the real one is `omnirun_network`, a fake in the tests.
//!
//! ```text
//!   SandboxSpec.card    none: no card at all. Else a port is plugged before the VMM starts     [Network::plug]
//!   ClaimSpec.egress    the policy, in force before the claim is sent or, for a sandbox that
//!                       goes on, before it runs                                               [Port::admit]
//!   teardown            the VMM is dead: the port is pulled, and that is checked              [Port::pull]
//! ```
//!
//! A port that nobody was admitted to lets nothing through. So a spare clone that is nobody's reaches nothing, and a
//! sandbox whose policy could not be put in force is one whose claim failed: it is killed.

use async_trait::async_trait;
use omnirun_egress_policy::{Mode, Policy};
use omnirun_ids::SandboxId;
use omnirun_store::OwnerId;
use omnirun_vmm::Nic;
use std::sync::Arc;
use tokio::sync::watch;

/// The network card of a sandbox. It belongs to the machine: a running sandbox keeps the one that it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Card {
    /// None: an air gap by construction.
    #[default]
    None,
    /// One that leads to the egress proxy, and nowhere else.
    Restricted,
    /// One that leads to the public internet.
    Open,
}

impl Card {
    /// The card that a policy needs.
    pub fn of(mode: Mode) -> Self {
        match mode {
            Mode::None => Self::None,
            Mode::Allow => Self::Restricted,
            Mode::Open => Self::Open,
        }
    }

    /// Whether there is one.
    pub fn is_there(self) -> bool {
        self != Self::None
    }
}

/// What somebody's sandbox may reach, now and whenever that changes.
#[derive(Debug, Clone)]
pub struct Egress {
    /// The policy. A new value is in force for what lives as well.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// What has to allow it as well.
    pub tightened: Option<Arc<Policy>>,
    /// Whose audit log is written: a session's hash; none: the sandbox's own.
    pub subject: Option<String>,
    /// The session, for people.
    pub session: Option<String>,
}

impl Egress {
    /// What is in force now.
    pub fn current(&self) -> Arc<Policy> {
        let policy = self.policy.borrow().clone();
        match &self.tightened {
            Some(by) => Arc::new(policy.tightened(by)),
            None => policy,
        }
    }
}

/// Any error, with its causes.
pub type NetworkError = Box<dyn std::error::Error + Send + Sync>;

/// Where cards lead. One for each owner process.
#[async_trait]
pub trait Network: Send + Sync {
    /// A new port, for a card that is not [`Card::None`]. It lets nothing through yet.
    async fn plug(
        &self,
        owner: &OwnerId,
        sandbox: &SandboxId,
        card: Card,
    ) -> Result<Arc<dyn Port>, NetworkError>;

    /// Lets go of what is shared between ports. All of them have been pulled. Idempotent; says what is left.
    async fn shutdown(&self) -> Vec<String>;
}

/// Where one card leads. Dropping it lets go of everything too, without a check.
#[async_trait]
pub trait Port: Send + Sync {
    /// What the VMM is told.
    fn nic(&self) -> Nic;

    /// Puts a policy in force, and keeps doing so as it changes. Once in a port's life.
    async fn admit(&self, egress: Egress) -> Result<(), NetworkError>;

    /// Lets go of everything. The VMM is dead. Idempotent; says what was removed.
    async fn pull(&self) -> Result<Vec<String>, NetworkError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_there_only_where_a_policy_lets_something_through() {
        assert!(!Card::of(Mode::None).is_there());
        assert_eq!(Card::of(Mode::Allow), Card::Restricted);
        assert_eq!(Card::of(Mode::Open), Card::Open);
        assert_eq!(Card::default(), Card::None);
    }
}
