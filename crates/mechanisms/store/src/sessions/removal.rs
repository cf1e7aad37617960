//! Removing sessions: on request, after their retention time, and what was left half-made or half-removed.
//!
//! The order makes each step repeatable: mark, memory, disk, record (and journal), lease file, folder. Whoever dies half-way
//! leaves a session that says so, and the next pass goes on.

use super::{Lease, SessionHash, SessionState, Sessions, allocated, disk::remove_file, record};
use crate::{StoreError, error::file, now_ms};
use omnirun_ids::ByteSize;
use std::{collections::HashSet, fs, io::ErrorKind};

/// What a pass removed or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which session, by its folder.
    pub hash: SessionHash,
    /// In words.
    pub what: String,
}

impl Sessions {
    /// Removes a session with its disk and its journal. Says in words what went.
    ///
    /// # Errors
    /// [`StoreError`]; what is left then is removed by the next [`sweep`](Self::sweep).
    pub fn remove(&self, lease: Lease) -> Result<Vec<String>, StoreError> {
        let hash = lease.hash().clone();
        let row = self.db.with("read a session", |c| record::get(c, &hash))?;
        let name = row.map_or_else(|| hash.to_string(), |row| row.key.session.to_string());
        self.set_state(&lease, SessionState::Removing)?;

        let memory = ByteSize(self.memory_bytes(&hash));
        let had_memory = self.drop_memory(&lease)?;
        let size = ByteSize(allocated(lease.folder()));
        let had_disk = self.disk_path(&hash).exists();
        remove_file(&lease.folder().join("disk.raw.new"))?;
        remove_file(&self.disk_path(&hash))?;
        self.db.with("remove a session", |c| {
            c.execute("DELETE FROM sessions WHERE hash = ?1", [hash.as_str()])
        })?;
        // What was in the journal shall not stay in the log of the database either. It may while others read.
        let _ = self.db.with("trim the log", |c| {
            c.pragma_query(None, "wal_checkpoint(TRUNCATE)", |_| Ok(()))
        });

        let folder = lease.folder().to_owned();
        remove_file(&folder.join("lease"))?;
        match fs::remove_dir(&folder) {
            // Somebody who came for the lease has put a new one there; it will find no record and start anew.
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                return Err(file("remove", &folder)(e));
            }
            _ => {}
        }
        drop(lease);
        let mut said = Vec::new();
        if had_disk {
            said.push(format!("disk of session {name} ({size})"));
        }
        if had_memory {
            said.push(format!("memory of session {name} ({memory})"));
        }
        Ok(said)
    }

    /// One pass over all sessions: removes those whose time is over, and what a killed process left half-made or
    /// half-removed. Sessions that somebody serves are left alone. Idempotent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sweep(&self) -> Result<Vec<Removal>, StoreError> {
        let mut removed = Vec::new();
        for (hash, _) in self.due()? {
            self.sweep_one(&hash, &mut removed)?;
        }
        Ok(removed)
    }

    /// What a [`sweep`](Self::sweep) would remove now, in words.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn overdue(&self) -> Result<Vec<Removal>, StoreError> {
        let mut found = Vec::new();
        for (hash, what) in self.due()? {
            if self.holder(&hash)?.is_none() {
                found.push(Removal { hash, what });
            }
        }
        Ok(found)
    }

    /// Sessions to look at under their lease: they may be served.
    fn due(&self) -> Result<Vec<(SessionHash, String)>, StoreError> {
        let now = now_ms();
        let mut due = Vec::new();
        let mut known = HashSet::new();
        for row in self.list()? {
            known.insert(row.hash.clone());
            let name = &row.key.session;
            let what = match row.state {
                SessionState::Ready if row.expires_ms() > now => continue,
                SessionState::Ready => format!("session {name}, whose time is over"),
                SessionState::New => format!("session {name}, half-made"),
                SessionState::Removing => format!("session {name}, half-removed"),
            };
            due.push((row.hash, what));
        }
        let folder = self.dir.sessions();
        for entry in fs::read_dir(&folder).map_err(file("list", &folder))? {
            let name = entry.map_err(file("list", &folder))?.file_name();
            if let Some(hash) = name.to_str().and_then(SessionHash::parse)
                && !known.contains(&hash)
            {
                let what = format!("session folder {hash} of nobody");
                due.push((hash, what));
            }
        }
        Ok(due)
    }

    fn sweep_one(&self, hash: &SessionHash, removed: &mut Vec<Removal>) -> Result<(), StoreError> {
        let Some(lease) = self.lease(hash)? else {
            return Ok(());
        };
        // Looked at again under the lease: it may have been used, or made, since it was listed.
        if let Some(row) = self.get(hash)?
            && row.state == SessionState::Ready
            && row.expires_ms() > now_ms()
        {
            return Ok(());
        }
        let hash = hash.clone();
        removed.extend(self.remove(lease)?.into_iter().map(|what| Removal {
            hash: hash.clone(),
            what,
        }));
        Ok(())
    }
}
