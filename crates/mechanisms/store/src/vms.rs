//! A row for each VM that exists or may exist.

use crate::{db::Db, error::StoreError, owner::OwnerId};
use omnirun_ids::SandboxId;
use rusqlite::{OptionalExtension, Row, params, types::Type};
use std::path::PathBuf;

/// Why a VM exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmKind {
    /// A cold boot that becomes a snapshot.
    Boot,
    /// A clone: a sandbox.
    Clone,
}

/// How far a VM has come, as far as others need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Its VMM may or may not exist yet.
    Starting,
    /// Awake, nobody's.
    Pooled,
    /// In use.
    Claimed,
    /// Being torn down.
    Ending,
}

impl VmKind {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Clone => "clone",
        }
    }
}

impl VmState {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Pooled => "pooled",
            Self::Claimed => "claimed",
            Self::Ending => "ending",
        }
    }
}

/// A VM, as other processes can know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// The sandbox.
    pub id: SandboxId,
    /// Whose it is.
    pub owner: OwnerId,
    /// Why it exists.
    pub kind: VmKind,
    /// How far it has come.
    pub state: VmState,
    /// Its run folder.
    pub run_dir: PathBuf,
    /// What it serves, for people.
    pub purpose: String,
    /// Since when, ms since the epoch.
    pub created_ms: i64,
}

/// The table of VMs.
#[derive(Debug, Clone)]
pub struct Vms(Db);

const COLUMNS: &str = "id, owner, kind, state, run_dir, purpose, created_ms";

impl Vms {
    /// The table in this database.
    pub fn new(db: &Db) -> Self {
        Self(db.clone())
    }

    /// Records a VM; before its VMM is started.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn insert(&self, row: &VmRow) -> Result<(), StoreError> {
        self.0.with("record a VM", |c| {
            c.prepare_cached("INSERT INTO vms VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![
                    row.id.as_str(),
                    row.owner.as_str(),
                    row.kind.as_str(),
                    row.state.as_str(),
                    row.run_dir.to_string_lossy(),
                    row.purpose,
                    row.created_ms,
                ])
        })?;
        Ok(())
    }

    /// Records how far a VM has come. Nothing happens if it has no row.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn set_state(&self, id: &SandboxId, state: VmState, purpose: Option<&str>) -> Result<(), StoreError> {
        self.0.with("record a VM's state", |c| {
            c.prepare_cached("UPDATE vms SET state = ?2, purpose = coalesce(?3, purpose) WHERE id = ?1")?
                .execute(params![id.as_str(), state.as_str(), purpose])
        })?;
        Ok(())
    }

    /// Removes a VM; after the check that nothing of it is left. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn remove(&self, id: &SandboxId) -> Result<(), StoreError> {
        self.0.with("remove a VM", |c| {
            c.prepare_cached("DELETE FROM vms WHERE id = ?1")?
                .execute([id.as_str()])
        })?;
        Ok(())
    }

    /// One VM.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn get(&self, id: &SandboxId) -> Result<Option<VmRow>, StoreError> {
        self.0.with("read a VM", |c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM vms WHERE id = ?1"))?
                .query_row([id.as_str()], read)
                .optional()
        })
    }

    /// The VMs of one owner.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn of_owner(&self, owner: &OwnerId) -> Result<Vec<VmRow>, StoreError> {
        self.0.with("read an owner's VMs", |c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM vms WHERE owner = ?1 ORDER BY created_ms"
            ))?
            .query_map([owner.as_str()], read)?
            .collect()
        })
    }

    /// All VMs of the data folder.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn all(&self) -> Result<Vec<VmRow>, StoreError> {
        self.0.with("read the VMs", |c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM vms ORDER BY created_ms"))?
                .query_map([], read)?
                .collect()
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<VmRow> {
    let bad = |column: usize, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("not {what}").into())
    };
    Ok(VmRow {
        id: row
            .get::<_, String>(0)?
            .parse()
            .map_err(|_| bad(0, "a sandbox id"))?,
        owner: OwnerId::parse(&row.get::<_, String>(1)?).ok_or_else(|| bad(1, "an owner id"))?,
        kind: match row.get_ref(2)?.as_str()? {
            "boot" => VmKind::Boot,
            "clone" => VmKind::Clone,
            _ => return Err(bad(2, "a kind")),
        },
        state: match row.get_ref(3)?.as_str()? {
            "starting" => VmState::Starting,
            "pooled" => VmState::Pooled,
            "claimed" => VmState::Claimed,
            "ending" => VmState::Ending,
            _ => return Err(bad(3, "a state")),
        },
        run_dir: PathBuf::from(row.get::<_, String>(4)?),
        purpose: row.get(5)?,
        created_ms: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Owner, data_dir::tests::dir};

    #[test]
    fn rows_live_from_before_the_start_to_after_the_end() {
        let (_tmp, dir) = dir();
        let owner = Owner::register(&dir, "x").unwrap();
        let vms = Vms::new(&Db::open(&dir).unwrap());
        let row = VmRow {
            id: SandboxId::from_random([7; 12]),
            owner: owner.id().clone(),
            kind: VmKind::Clone,
            state: VmState::Starting,
            run_dir: dir.run().join("x"),
            purpose: "run".into(),
            created_ms: 1,
        };
        vms.insert(&row).unwrap();
        assert!(vms.insert(&row).is_err(), "an id is never used twice");
        // Another process sees it.
        let other = Vms::new(&Db::open(&dir).unwrap());
        assert_eq!(other.of_owner(owner.id()).unwrap(), vec![row.clone()]);
        vms.set_state(&row.id, VmState::Claimed, Some("session s"))
            .unwrap();
        let now = other.get(&row.id).unwrap().unwrap();
        assert_eq!((now.state, now.purpose.as_str()), (VmState::Claimed, "session s"));
        vms.remove(&row.id).unwrap();
        vms.remove(&row.id).unwrap();
        assert!(other.all().unwrap().is_empty());
    }
}
