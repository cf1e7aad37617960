//! The database: one SQLite file, several processes, few and short transactions.

use crate::{atomic::FileLock, data_dir::DataDir, error::StoreError};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a statement waits for another process's transaction. Those take milliseconds; a checkpoint on a slow disk
/// may take a second or two.
const BUSY: Duration = Duration::from_secs(20);

/// What takes a database from one version to the next: element 0 from nothing to version 1. Released elements never
/// change.
const MIGRATIONS: [&[&str]; 2] = [
    &[
        include_str!("schema/vms.sql"),
        include_str!("sessions/schema.sql"),
    ],
    &[include_str!("sessions/memory.sql")],
];

/// The database of a data folder. Cheap to clone; a clone is the same connection.
///
/// Calls block for the time of a short transaction (tens of microseconds): fine on an async thread that has nothing
/// else to do meanwhile, else `spawn_blocking`.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
    path: Arc<Path>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Db")
    }
}

impl Db {
    /// Opens the database of a data folder, making or migrating it.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a newer release wrote it, [`StoreError::Db`] otherwise.
    pub fn open(dir: &DataDir) -> Result<Self, StoreError> {
        let path = dir.database();
        let db = |step| failed(&path, step);
        // Changing to WAL and migrating do not wait for each other in SQLite, so openers queue here.
        let lock = FileLock::exclusive(&dir.root().join(".lock"))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags).map_err(db("open"))?;
        connection.busy_timeout(BUSY).map_err(db("set its timeout"))?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(db("use WAL"))?;
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(db("set synchronous"))?;
        connection
            .pragma_update(None, "foreign_keys", true)
            .map_err(db("set foreign_keys"))?;
        connection.set_prepared_statement_cache_capacity(64);
        migrate(&mut connection, &path)?;
        drop(lock);
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            path: path.into(),
        })
    }

    /// Reads, or does a single write.
    ///
    /// # Errors
    /// [`StoreError::Db`] with `step`, what `run` was doing: "record a lease".
    pub fn with<T>(
        &self,
        step: &'static str,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        run(&self.lock()).map_err(failed(&self.path, step))
    }

    /// Runs a transaction that holds the write lock from its first statement on, so that what it reads is still true
    /// when it writes. Rolled back if `run` fails.
    ///
    /// # Errors
    /// [`StoreError::Db`] with `step`.
    pub fn write<T>(
        &self,
        step: &'static str,
        run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let inner = |connection: &mut Connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = run(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        inner(&mut connection).map_err(failed(&self.path, step))
    }

    /// A panic in a closure leaves no half-done transaction (it is rolled back when dropped), so a poisoned lock is
    /// as good as any.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adapts an error of SQLite's, which does not say whose it is.
fn failed<'a>(path: &'a Path, step: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError + 'a {
    move |source| StoreError::Db {
        step,
        path: path.to_owned(),
        source,
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let db = |step| failed(path, step);
    let known = MIGRATIONS.len() as i64;
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(db("begin migrating"))?;
    let found: i64 = tx
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(db("read its version"))?;
    if found > known {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        for sql in *step {
            tx.execute_batch(sql).map_err(db("migrate"))?;
        }
    }
    tx.pragma_update(None, "user_version", known)
        .map_err(db("write its version"))?;
    tx.commit().map_err(db("finish migrating"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::dir;

    /// The schema that a database of each version has. If this fails because of a change that you want: before the
    /// first release edit the file in golden/ (UPDATE_GOLDEN=1 does it); afterwards add a migration.
    #[test]
    fn the_schema_is_the_recorded_one() {
        let (_tmp, dir) = dir();
        let db = Db::open(&dir).unwrap();
        let sql = db
            .with("read the schema", |c| {
                let mut q = c.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")?;
                q.query_map([], |r| r.get::<_, String>(0))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .unwrap()
            .join(";\n")
            + ";\n";
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/schema-v2.sql");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &sql).unwrap();
        }
        assert_eq!(sql, std::fs::read_to_string(golden).unwrap());
    }

    #[test]
    fn refuses_a_newer_database_and_leaves_it_alone() {
        let (_tmp, dir) = dir();
        Db::open(&dir)
            .unwrap()
            .with("x", |c| c.pragma_update(None, "user_version", 99))
            .unwrap();
        assert!(matches!(Db::open(&dir), Err(StoreError::Newer { found: 99, .. })));
    }

    #[test]
    fn a_database_that_is_none_is_named() {
        let (_tmp, dir) = dir();
        std::fs::write(dir.database(), vec![7u8; 9000]).unwrap();
        let error = Db::open(&dir).unwrap_err();
        assert!(
            error.to_string().contains(&*dir.database().to_string_lossy()),
            "{error}"
        );
    }

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let (_tmp, dir) = dir();
        let db = Db::open(&dir).unwrap();
        let failed = db.write("x", |tx| {
            tx.execute("CREATE TABLE t (a)", [])?;
            tx.execute("nonsense", [])
        });
        assert!(failed.is_err());
        assert!(
            db.with("x", |c| c.execute("INSERT INTO t VALUES (1)", []))
                .is_err()
        );
    }

    #[test]
    fn many_openers_and_writers_wait_for_each_other() {
        let (_tmp, dir) = dir();
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    let db = Db::open(&dir).unwrap();
                    for _ in 0..20 {
                        db.write("count", |tx| {
                            tx.execute("CREATE TABLE IF NOT EXISTS n (a INTEGER)", [])?;
                            tx.execute("INSERT INTO n SELECT count(*) FROM n", [])
                        })
                        .unwrap();
                    }
                });
            }
        });
        let db = Db::open(&dir).unwrap();
        let distinct: i64 = db
            .with("x", |c| {
                c.query_row("SELECT count(DISTINCT a) FROM n", [], |r| r.get(0))
            })
            .unwrap();
        assert_eq!(distinct, 120);
    }
}
