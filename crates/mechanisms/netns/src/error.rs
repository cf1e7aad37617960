//! What can go wrong.

use std::io;

/// Why something about a network was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// An ordinary user cannot make namespaces that reach anything.
    #[error(
        "a network for sandboxes needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN), and this is user {uid} without \
         {missing}"
    )]
    NotPermitted {
        /// Who we are.
        uid: u32,
        /// The capabilities that are missing.
        missing: String,
    },
    /// The firewall's own program is not there.
    #[error("`nft` is not installed: it is in the package `nftables`")]
    NoNft,
    /// A system call failed.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: String,
        /// How the kernel answered.
        #[source]
        source: io::Error,
    },
    /// `nft` did not do as it was told.
    #[error("nft, asked to {what}, said: {message}")]
    Nft {
        /// What it was to do.
        what: &'static str,
        /// What it printed, shortened.
        message: String,
    },
    /// Rules of somebody else on this host drop what the sandboxes send.
    #[error(
        "{by} drops the packets that this host is to forward for its sandboxes. To admit them, as root: {hint}"
    )]
    ForwardDrop {
        /// Whose rules they are.
        by: String,
        /// The command that admits them.
        hint: String,
    },
    /// There is no way out of this host.
    #[error("this host has no default route, so there is nothing that a sandbox's packets could leave by")]
    NoUplink,
    /// A name that cannot be part of a table's.
    #[error("{0:?} cannot name a table: only letters, digits and '_', at most 64")]
    BadTag(String),
    /// A name that cannot be part of a rule's.
    #[error("{0:?} cannot name a rule: only a-z, 0-9 and '-', at most 32")]
    BadRuleName(String),
    /// All numbers of links are in use.
    #[error("no number is free for another link to a sandbox: {tried} were tried")]
    NoNumber {
        /// How many.
        tried: u32,
    },
    /// More addresses than a namespace's sets hold.
    #[error("no room for another address in the set {set:?} of a sandbox's network: it holds {room}")]
    Full {
        /// The set.
        set: &'static str,
        /// How many it holds.
        room: usize,
    },
    /// `Networks::shutdown` was called.
    #[error("the networks have been shut down")]
    ShutDown,
    /// There is no rule of this name.
    #[error("no rule is named {0:?}")]
    NoRule(String),
}

impl NetError {
    /// For `map_err`: the step that failed.
    pub(crate) fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        |source| Self::Step {
            step: step.into(),
            source: source.into(),
        }
    }
}

/// What `omnirun_sys::host::net` itself may answer, before any work is done.
impl From<io::Error> for NetError {
    fn from(source: io::Error) -> Self {
        Self::Step {
            step: "entering a network namespace".to_owned(),
            source,
        }
    }
}
