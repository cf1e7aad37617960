//! What a session may reach: what the operator allows, tightened by the session's metadata.
//!
//! Whoever makes a session may ask for less than the operator allows, never for more: both have to let a connection
//! through. What the metadata says is a policy in the words of `--net` (`none`, `open`, `allow:NAME,...`,
//! `preset:NAME`); words that are none ask for nothing at all to be reached.

use omnirun_egress_policy::Policy;
use omnirun_ids::SessionKey;
use omnirun_sandboxes::{Card, Egress};
use omnirun_store::sessions::SessionHash;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// The session metadata that names a policy.
pub const NETWORK_KEY: &str = "omnirun.network";

/// What the operator allows, as it changes.
#[derive(Debug, Clone)]
pub struct Allowed(watch::Receiver<Arc<Policy>>);

impl Allowed {
    /// What changes with this.
    pub fn new(policy: watch::Receiver<Arc<Policy>>) -> Self {
        Self(policy)
    }

    /// Nothing, ever.
    pub fn nothing() -> Self {
        // A channel without a sender keeps its last value.
        Self(watch::channel(Arc::new(Policy::none())).1)
    }

    /// The card of sandboxes whose session is not known yet.
    pub(crate) fn card(&self) -> Card {
        Card::of(self.0.borrow().mode())
    }

    /// What this session may reach.
    pub(crate) fn of(&self, key: &SessionKey, metadata: &BTreeMap<String, String>) -> Reach {
        let wish = metadata.get(NETWORK_KEY).map(|text| {
            Policy::from_metadata(text).unwrap_or_else(|error| {
                tracing::warn!(session = %key.session, %error, "its metadata asks for a network in words that are none: it gets none");
                Policy::none()
            })
        });
        let operator = self.0.borrow().clone();
        let mode = match &wish {
            Some(wish) => operator.tightened(wish).mode(),
            None => operator.mode(),
        };
        let card = Card::of(mode);
        let egress = card.is_there().then(|| Egress {
            policy: self.0.clone(),
            tightened: wish.map(Arc::new),
            subject: Some(SessionHash::of(key).to_string()),
            session: Some(key.session.to_string()),
        });
        Reach { card, egress }
    }
}

/// The card of a session's sandboxes, and what it leads to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    pub(crate) card: Card,
    pub(crate) egress: Option<Egress>,
}
