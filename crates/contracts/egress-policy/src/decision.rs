//! What a policy says of one connection or name.

use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Whether it goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Allow,
    /// It does, and would not if the policy were in force: it is only being learnt.
    Log,
    /// It does not.
    Deny,
}

/// Why. The proxy has reasons of its own for what comes before a name is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// An entry allows it.
    Listed,
    /// The mode is `open`, and nothing denies it.
    Public,
    /// No entry allows it.
    NotListed,
    /// An entry allows the name or address, on other ports.
    PortNotListed,
    /// An entry denies it.
    Denied,
    /// The address is private, or of another special purpose.
    SpecialAddress,
    /// There is no network at all.
    NoNetwork,
    /// The connection says no name: no TLS, no server name, an address in its place.
    NoName,
    /// What it says is no TLS or HTTP, or too long, or contradicts itself.
    Malformed,
    /// The server name is encrypted and the outer one is not listed.
    EncryptedName,
    /// The destination was not answered for a listed name, and no entry lists it.
    NotResolved,
    /// The name has no address, or none that may be reached.
    NoAddress,
    /// The destination does not answer.
    Unreachable,
    /// More bytes or connections than an entry allows.
    Limit,
    /// Too many at once or too fast.
    Busy,
    /// It took too long to say where it wants to go.
    TimedOut,
    /// A query of a kind that is never answered, or that looks like a tunnel.
    Refused,
    /// The policy changed while it was open.
    Changed,
    /// The proxy's own failure.
    Failed,
}

impl Reason {
    /// As it is written in logs: stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Public => "public",
            Self::NotListed => "not-listed",
            Self::PortNotListed => "port-not-listed",
            Self::Denied => "denied",
            Self::SpecialAddress => "special-address",
            Self::NoNetwork => "no-network",
            Self::NoName => "no-name",
            Self::Malformed => "malformed",
            Self::EncryptedName => "encrypted-name",
            Self::NotResolved => "not-resolved",
            Self::NoAddress => "no-address",
            Self::Unreachable => "unreachable",
            Self::Limit => "limit",
            Self::Busy => "busy",
            Self::TimedOut => "timed-out",
            Self::Refused => "refused",
            Self::Changed => "changed",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bounds of a rule. All connections of a sandbox that one of its entries lets through share them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes from the sandbox, in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Bytes to the sandbox, in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// Bytes a second, each way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Connections at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What keeps to both.
    fn and(self, other: Self) -> Self {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            [a, b].into_iter().flatten().min()
        }
        Self {
            bytes_up: least(self.bytes_up, other.bytes_up),
            bytes_down: least(self.bytes_down, other.bytes_down),
            rate: least(self.rate, other.rate),
            connections: least(self.connections, other.connections),
        }
    }
}

/// The bounds of one rule, and what it is called: whoever counts does so by that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLimits {
    /// The rule.
    pub rule: Arc<str>,
    /// Its bounds.
    pub limits: Limits,
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it goes through.
    pub verdict: Verdict,
    /// The entry that decided, as it was written.
    pub rule: Option<Arc<str>>,
    /// Why.
    pub reason: Reason,
    /// What bounds it, if it goes through.
    pub limits: Vec<RuleLimits>,
}

impl Decision {
    /// Whether it goes through.
    pub fn allows(&self) -> bool {
        self.verdict != Verdict::Deny
    }

    pub(crate) fn new(verdict: Verdict, reason: Reason, rule: Option<Arc<str>>) -> Self {
        Self {
            verdict,
            rule,
            reason,
            limits: Vec::new(),
        }
    }

    pub(crate) fn deny(reason: Reason, rule: Option<Arc<str>>) -> Self {
        Self::new(Verdict::Deny, reason, rule)
    }

    /// Both have to let it through: the stricter verdict, with its reason and entry; the limits of both.
    pub(crate) fn and(self, other: Self) -> Self {
        let (mut stricter, other) = match other.rank() > self.rank() {
            true => (other, self),
            false => (self, other),
        };
        if !stricter.allows() {
            stricter.limits.clear();
            return stricter;
        }
        for more in other.limits {
            match stricter.limits.iter_mut().find(|known| known.rule == more.rule) {
                // One name is one count, so it has one bound.
                Some(known) => known.limits = known.limits.and(more.limits),
                None => stricter.limits.push(more),
            }
        }
        stricter
    }

    /// Of two equal verdicts, the one that says more.
    fn rank(&self) -> (Verdict, u8) {
        let says = match self.reason {
            Reason::Public => 0,
            Reason::NotListed => 1,
            Reason::PortNotListed => 2,
            Reason::Listed => 3,
            Reason::Denied => 4,
            _ => 5,
        };
        (self.verdict, says)
    }
}
