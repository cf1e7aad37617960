//! A session's record.

use super::{Lease, Sessions};
use crate::{StoreError, now_ms};
use omnirun_ids::{ApiId, Digest, SessionKey, TemplateName};
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};
use sha2::{Digest as _, Sha256};
use std::{fmt, time::Duration};

/// Names a session in paths: 32 hexadecimal digits, a hash of its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionHash(String);

impl SessionHash {
    /// The hash of a key.
    pub fn of(key: &SessionKey) -> Self {
        let mut hash = Sha256::new();
        // The lengths keep apart what would run together.
        for part in [
            key.origin.as_str(),
            key.environment.as_str(),
            key.session.as_str(),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hex::encode(&hash.finalize()[..16]))
    }

    /// Reads one that was written.
    pub fn parse(text: &str) -> Option<Self> {
        let ok = text.len() == 32
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ok.then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a session's disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Being made: no call has run.
    New,
    /// The disk is there.
    Ready,
    /// Being removed.
    Removing,
}

/// Whether the session is to be given files before its first call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// No.
    None,
    /// Yes, and they are not there yet.
    Due,
    /// They are there.
    Done,
}

/// What a new session is made with.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The template.
    pub template: TemplateName,
    /// The base that its disk will be an overlay over.
    pub base: Digest,
    /// Size of its disk.
    pub disk_bytes: u64,
    /// Whom its tools run as.
    pub user: String,
    /// Whether it is to be seeded.
    pub seed: bool,
}

/// A session's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Names it in paths.
    pub hash: SessionHash,
    /// Which session it is.
    pub key: SessionKey,
    /// How far its disk is.
    pub state: SessionState,
    /// Its template.
    pub template: TemplateName,
    /// The base that its disk is an overlay over.
    pub base: Digest,
    /// Size of its disk.
    pub disk_bytes: u64,
    /// Whom its tools run as.
    pub user: String,
    /// Whether it is to be seeded.
    pub seed: Seed,
    /// Whether a VM holds, or held, the shell's state in memory.
    pub live_shell: bool,
    /// The generation of its memory, if that is kept.
    pub memory: Option<String>,
    /// When it was made, ms since the epoch.
    pub created_ms: i64,
    /// When it was last used, ms since the epoch.
    pub used_ms: i64,
    /// How long after its last use the disk stays, ms.
    pub keep_ms: i64,
}

impl SessionRow {
    /// When its disk may go, ms since the epoch.
    pub fn expires_ms(&self) -> i64 {
        self.used_ms.saturating_add(self.keep_ms)
    }
}

const COLUMNS: &str = "hash, origin, environment, session, state, template, base, disk_bytes, user, seed, live_shell, \
                       created_ms, used_ms, keep_ms, memory";

impl Sessions {
    /// The record of a session.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn get(&self, hash: &SessionHash) -> Result<Option<SessionRow>, StoreError> {
        self.db.with("read a session", |c| get(c, hash))
    }

    /// All sessions, the last used first.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn list(&self) -> Result<Vec<SessionRow>, StoreError> {
        self.db.with("list sessions", |c| {
            let mut q = c.prepare(&format!(
                "SELECT {COLUMNS} FROM sessions ORDER BY used_ms DESC, hash"
            ))?;
            q.query_map([], row)?.collect()
        })
    }

    /// Digests of the bases that session disks are overlays over; images with these must stay.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn bases(&self) -> Result<Vec<Digest>, StoreError> {
        self.db.with("list the bases of sessions", |c| {
            let mut q =
                c.prepare("SELECT DISTINCT base FROM sessions WHERE state <> 'removing' ORDER BY base")?;
            q.query_map([], |r| parse(0, r.get::<_, String>(0)?.parse()))?
                .collect()
        })
    }

    /// Makes the record of a session that has none.
    ///
    /// # Errors
    /// [`StoreError::Db`], also if it has one.
    pub fn create(
        &self,
        lease: &Lease,
        key: &SessionKey,
        new: &NewSession,
        keep: Duration,
    ) -> Result<SessionRow, StoreError> {
        let row = SessionRow {
            hash: lease.hash().clone(),
            key: key.clone(),
            state: SessionState::New,
            template: new.template.clone(),
            base: new.base.clone(),
            disk_bytes: new.disk_bytes,
            user: new.user.clone(),
            seed: if new.seed { Seed::Due } else { Seed::None },
            live_shell: false,
            memory: None,
            created_ms: now_ms(),
            used_ms: now_ms(),
            keep_ms: millis(keep),
        };
        self.db.with("record a session", |c| {
            c.execute(
                &format!(
                    "INSERT INTO sessions ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)"
                ),
                params![
                    row.hash.as_str(),
                    key.origin,
                    key.environment.as_str(),
                    key.session.as_str(),
                    row.state.as_str(),
                    row.template.as_str(),
                    row.base.as_str(),
                    row.disk_bytes as i64,
                    row.user,
                    row.seed.as_str(),
                    row.live_shell,
                    row.created_ms,
                    row.used_ms,
                    row.keep_ms,
                    row.memory,
                ],
            )
        })?;
        Ok(row)
    }

    /// Records how far the disk is.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn set_state(&self, lease: &Lease, state: SessionState) -> Result<(), StoreError> {
        self.update(
            lease,
            "record a session's state",
            "UPDATE sessions SET state = ?2 WHERE hash = ?1",
            state.as_str(),
        )
    }

    /// Records whether the session has its seed.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn set_seed(&self, lease: &Lease, seed: Seed) -> Result<(), StoreError> {
        self.update(
            lease,
            "record a session's seed",
            "UPDATE sessions SET seed = ?2 WHERE hash = ?1",
            seed.as_str(),
        )
    }

    /// Records whether a VM holds the shell's state in memory.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn set_live_shell(&self, lease: &Lease, live: bool) -> Result<(), StoreError> {
        self.update(
            lease,
            "record a live shell",
            "UPDATE sessions SET live_shell = ?2 WHERE hash = ?1",
            live,
        )
    }

    /// The session is in use now; its disk stays for `keep` from here.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn touch(&self, lease: &Lease, keep: Duration) -> Result<(), StoreError> {
        self.db.with("record a session's use", |c| {
            c.prepare_cached("UPDATE sessions SET used_ms = ?2, keep_ms = ?3 WHERE hash = ?1")?
                .execute(params![lease.hash().as_str(), now_ms(), millis(keep)])
                .map(drop)
        })
    }

    fn update(
        &self,
        lease: &Lease,
        step: &'static str,
        sql: &str,
        value: impl rusqlite::ToSql,
    ) -> Result<(), StoreError> {
        self.db.with(step, |c| {
            c.execute(sql, params![lease.hash().as_str(), value]).map(drop)
        })
    }
}

pub(super) fn get(c: &Connection, hash: &SessionHash) -> rusqlite::Result<Option<SessionRow>> {
    c.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE hash = ?1"))?
        .query_row([hash.as_str()], row)
        .optional()
}

fn row(r: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let text = |i| r.get::<_, String>(i);
    Ok(SessionRow {
        hash: parse(0, SessionHash::parse(&text(0)?).ok_or(BadText))?,
        key: SessionKey {
            origin: text(1)?,
            environment: parse(2, text(2)?.parse::<ApiId>())?,
            session: parse(3, text(3)?.parse::<ApiId>())?,
        },
        state: parse(4, SessionState::parse(&text(4)?).ok_or(BadText))?,
        template: parse(5, text(5)?.parse())?,
        base: parse(6, text(6)?.parse())?,
        disk_bytes: r.get::<_, i64>(7)?.unsigned_abs(),
        user: text(8)?,
        seed: parse(9, Seed::parse(&text(9)?).ok_or(BadText))?,
        live_shell: r.get(10)?,
        created_ms: r.get(11)?,
        used_ms: r.get(12)?,
        keep_ms: r.get(13)?,
        memory: r.get(14)?,
    })
}

/// A column that holds what this release never writes.
#[derive(Debug, thiserror::Error)]
#[error("the text is none of those that are written here")]
pub(super) struct BadText;

pub(super) fn parse<T, E>(column: usize, value: Result<T, E>) -> rusqlite::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    value.map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

impl SessionState {
    /// As the table has it, and as people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ready => "ready",
            Self::Removing => "removing",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::New, Self::Ready, Self::Removing]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

impl Seed {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Due => "due",
            Self::Done => "done",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Due, Self::Done]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}
