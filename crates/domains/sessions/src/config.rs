//! What an operator decides about sessions.

use crate::network::Allowed;
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_sandboxes::SandboxSize;
use omnirun_store::sessions::Durability;
use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

/// How long a session disk stays after its last use.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Disk space for the memories of sessions between two work items.
pub const DEFAULT_KEEP_MEMORY: ByteSize = ByteSize::gib(8);
/// Size of a session disk. It is sparse: what it occupies is what was written.
pub const DEFAULT_DISK: ByteSize = ByteSize::gib(8);
/// The longest time limit that a call may ask for.
pub const DEFAULT_CALL_LIMIT: Duration = Duration::from_secs(3600);
/// The session metadata that names a mode.
pub const ISOLATION_KEY: &str = "omnirun.isolation";

/// What the calls of a session share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Each call gets a fresh clone, so nothing that one did to its kernel is there for the next.
    #[default]
    Call,
    /// One VM serves the session, and nothing else.
    Session,
}

impl Isolation {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Session => "session",
        }
    }

    /// The mode of a session: what the operator set, tightened by the session's metadata. Whoever makes a session may
    /// ask for more isolation than the operator's default, never for less; a word that is not known asks for the most.
    pub fn for_session(self, metadata: &BTreeMap<String, String>) -> Self {
        match metadata.get(ISOLATION_KEY).map(String::as_str) {
            None | Some("session") => self,
            Some(_) => Self::Call,
        }
    }
}

impl FromStr for Isolation {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "call" => Ok(Self::Call),
            "session" => Ok(Self::Session),
            other => Err(format!("{other:?} is no isolation mode: call or session")),
        }
    }
}

/// What an operator decides about sessions.
#[derive(Debug, Clone)]
pub struct SessionsConfig {
    /// The mode, unless a session's metadata asks for more.
    pub isolation: Isolation,
    /// What sessions may reach, unless one's metadata asks for less.
    pub network: Allowed,
    /// The template of new sessions.
    pub template: TemplateName,
    /// vCPUs and memory of a sandbox.
    pub size: SandboxSize,
    /// Size of a new session's disk.
    pub disk: ByteSize,
    /// How long a disk stays after its last use.
    pub keep: Duration,
    /// Disk space for the memories of sessions in mode `session` between two work items; none: they are not kept.
    pub keep_memory: ByteSize,
    /// A folder whose contents each new session finds in its working directory.
    pub seed: Option<PathBuf>,
    /// What a recorded result has to survive.
    pub durability: Durability,
    /// No new session starts with less free space than this; none: [`default_floor`].
    pub floor: Option<ByteSize>,
    /// The longest time limit that a call may ask for.
    pub call_limit: Duration,
}

impl SessionsConfig {
    /// The defaults, with a template.
    pub fn new(template: TemplateName) -> Self {
        Self {
            isolation: Isolation::default(),
            network: Allowed::nothing(),
            template,
            size: SandboxSize::default(),
            disk: DEFAULT_DISK,
            keep: DEFAULT_KEEP,
            keep_memory: DEFAULT_KEEP_MEMORY,
            seed: None,
            durability: Durability::default(),
            floor: None,
            call_limit: DEFAULT_CALL_LIMIT,
        }
    }
}

/// The floor of free space on a file system of this size: 5 %, but at least 1 GiB (a session that runs into a full
/// file system fails in ugly ways) and at most 10 GiB.
pub fn default_floor(total: ByteSize) -> ByteSize {
    ByteSize((total.0 / 20).clamp(1 << 30, 10 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_tightens_and_never_loosens() {
        let with = |mode: &str| BTreeMap::from([(ISOLATION_KEY.to_owned(), mode.to_owned())]);
        for (ours, theirs, effective) in [
            (Isolation::Call, "session", Isolation::Call),
            (Isolation::Call, "call", Isolation::Call),
            (Isolation::Session, "call", Isolation::Call),
            (Isolation::Session, "session", Isolation::Session),
            (Isolation::Session, "Session ", Isolation::Call),
        ] {
            assert_eq!(ours.for_session(&with(theirs)), effective, "{ours:?} {theirs}");
        }
        assert_eq!(
            Isolation::Session.for_session(&BTreeMap::new()),
            Isolation::Session
        );
    }

    #[test]
    fn the_floor_is_between_one_and_ten_gibibytes() {
        assert_eq!(default_floor(ByteSize::gib(4)), ByteSize::gib(1));
        assert_eq!(default_floor(ByteSize::gib(100)), ByteSize::gib(5));
        assert_eq!(default_floor(ByteSize::gib(4000)), ByteSize::gib(10));
    }
}
