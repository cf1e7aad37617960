//! Taking over from owners that died: an idempotent pass over what they left.
//!
//! ```text
//!   for each dead owner (its lock is free, and now ours)
//!     for each of its VMs: end the VMM, wait, remove the run folder, remove the row      [teardown]
//!     forget the owner, if nothing is left
//!   rows without any owner file, run folders without any row: the same
//!   work in tmp/ under the name of an owner, files that were being written, trials of a jail: removed
//! ```
//!
//! Session disks are not touched: they belong to sessions, and outlive every owner.

use crate::{
    EngineError,
    error::chain,
    teardown::{Process, TeardownReport, remove_folder, teardown},
};
use omnirun_ids::SandboxId;
use omnirun_store::{
    DataDir, Db, DeadOwner, FileLock, OwnerId, StoreError, VmRow, Vms, dead_owners, living_owners,
};
use omnirun_vm_machine::Why;
use omnirun_vmm::{
    Reap, VmIdentity,
    firecracker::{clear_killed_trials, killed_trials},
};
use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
};

/// What a takeover found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakeoverReport {
    /// Dead owners, in words.
    pub owners: Vec<String>,
    /// Their VMs.
    pub sandboxes: Vec<TeardownReport>,
    /// Run folders, unfinished work and half-written files of nobody.
    pub paths: Vec<PathBuf>,
}

impl TakeoverReport {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.sandboxes.is_empty() && self.paths.is_empty()
    }

    /// Whether all of it is gone.
    pub fn is_clean(&self) -> bool {
        self.sandboxes.iter().all(TeardownReport::is_clean)
    }

    /// One line for each thing.
    pub fn lines(&self) -> Vec<String> {
        let owners = self.owners.iter().cloned();
        let sandboxes = self.sandboxes.iter().map(ToString::to_string);
        let paths = self.paths.iter().map(|p| of_nobody(p));
        owners.chain(sandboxes).chain(paths).collect()
    }
}

impl fmt::Display for TakeoverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// Runs the pass.
///
/// # Errors
/// [`EngineError::Store`] if the data folder cannot be read. What cannot be removed is in the report.
pub async fn take_over(data: &DataDir, db: &Db, reaper: &dyn Reap) -> Result<TakeoverReport, EngineError> {
    let vms = Vms::new(db);
    let mut report = TakeoverReport::default();
    for owner in dead_owners(data)? {
        let mut clean = true;
        for row in vms.of_owner(&owner.id)? {
            let one = end(&row, &vms, reaper).await;
            clean &= one.is_clean();
            report.sandboxes.push(one);
        }
        report.owners.push(describe(&owner));
        if clean {
            owner.forget()?;
        }
    }
    // What has no owner's file at all is rare (somebody removed one); one process at a time looks after it.
    if let Some(_lock) = FileLock::try_exclusive(&data.root().join(".sweep"))? {
        for row in ownerless(data, &vms)? {
            report.sandboxes.push(end(&row, &vms, reaper).await);
        }
        for identity in folders_without_row(data, &vms)? {
            // A VMM without a row cannot be, but a folder is the last place where one would show.
            let reaped = reaper.reap(&identity).await.is_ok();
            if reaped && remove_folder(&identity.run_dir).unwrap_or(false) {
                report.paths.push(identity.run_dir);
            }
        }
        for path in unfinished(data)? {
            let removed = if path.is_dir() {
                // A bench runs VMs that have no row: their run folders are in here.
                let mut reaped = true;
                for identity in run_folders(&path)? {
                    reaped &= reaper.reap(&identity).await.is_ok();
                }
                reaped && remove_folder(&path).unwrap_or(false)
            } else {
                fs::remove_file(&path).is_ok()
            };
            if removed {
                report.paths.push(path);
            }
        }
    }
    match clear_killed_trials(&data.tmp()).await {
        Ok(paths) => report.paths.extend(paths),
        Err(error) => tracing::warn!(error = %chain(&error), "what a killed trial left stays"),
    }
    report.paths.extend(data.sweep_unfinished());
    Ok(report)
}

/// What [`take_over`] would find, without touching it.
///
/// # Errors
/// [`EngineError::Store`].
pub fn look(data: &DataDir, db: &Db) -> Result<Vec<String>, EngineError> {
    let vms = Vms::new(db);
    let mut lines = Vec::new();
    let mut rows = Vec::new();
    for owner in dead_owners(data)? {
        rows.extend(vms.of_owner(&owner.id)?);
        lines.push(describe(&owner));
    }
    rows.extend(ownerless(data, &vms)?);
    lines.extend(
        rows.iter()
            .map(|r| format!("{}: {} ({})", r.id, r.purpose, r.state.as_str())),
    );
    let mut folders: Vec<_> = folders_without_row(data, &vms)?
        .into_iter()
        .map(|f| f.run_dir)
        .collect();
    folders.extend(unfinished(data)?);
    folders.extend(killed_trials(&data.tmp()).unwrap_or_default());
    folders.extend(data.unfinished());
    lines.extend(folders.iter().map(|f| of_nobody(f)));
    Ok(lines)
}

fn of_nobody(path: &Path) -> String {
    format!("{}, of nobody", path.display())
}

fn describe(owner: &DeadOwner) -> String {
    match &owner.info {
        Some(info) => format!("{} (process {}) is dead", info.command, info.pid),
        None => format!("{} is dead", owner.id),
    }
}

async fn end(row: &VmRow, vms: &Vms, reaper: &dyn Reap) -> TeardownReport {
    let identity = VmIdentity {
        sandbox: row.id.clone(),
        run_dir: row.run_dir.clone(),
    };
    let why = Why::Orphaned;
    teardown(&identity, Process::Unknown(reaper), None, vms, why).await
}

/// Rows whose owner has no file. Rows are read first: an owner's file is there before its first row.
fn ownerless(data: &DataDir, vms: &Vms) -> Result<Vec<VmRow>, StoreError> {
    let mut rows = vms.all()?;
    // A dead owner that another process is clearing up after counts as living: its lock is held.
    let mut known: HashSet<OwnerId> = living_owners(data)?.into_iter().map(|(id, _)| id).collect();
    known.extend(dead_owners(data)?.into_iter().map(|owner| owner.id));
    rows.retain(|row| !known.contains(&row.owner));
    Ok(rows)
}

/// Run folders that have no row. Folders are listed first: a row is there before its folder.
fn folders_without_row(data: &DataDir, vms: &Vms) -> Result<Vec<VmIdentity>, StoreError> {
    let mut found = run_folders(&data.run())?;
    let known: HashSet<SandboxId> = vms.all()?.into_iter().map(|row| row.id).collect();
    found.retain(|identity| !known.contains(&identity.sandbox));
    Ok(found)
}

/// The run folders in a folder, by their names.
fn run_folders(folder: &Path) -> Result<Vec<VmIdentity>, StoreError> {
    let mut found = Vec::new();
    for path in list(folder)? {
        let id = path
            .file_name()
            .and_then(|n| n.to_str()?.parse::<SandboxId>().ok());
        if let Some(sandbox) = id.filter(|id| id.as_str().starts_with("sbx_")) {
            found.push(VmIdentity {
                sandbox,
                run_dir: path,
            });
        }
    }
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let err = |source| StoreError::File {
        step: "list",
        path: folder.to_owned(),
        source,
    };
    let entries = fs::read_dir(folder).map_err(err)?;
    entries.map(|e| Ok(e.map_err(err)?.path())).collect()
}

/// What owners that do not live any more had under way in `tmp/`: names that end in an owner's id.
fn unfinished(data: &DataDir) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for path in list(&data.tmp())? {
        let owner = path.extension().and_then(|e| e.to_str()).and_then(OwnerId::parse);
        found.extend(owner.map(|owner| (owner, path)));
    }
    // Listed first: an owner's file is there before its first work.
    let living: HashSet<OwnerId> = living_owners(data)?.into_iter().map(|(id, _)| id).collect();
    Ok(found
        .into_iter()
        .filter(|(owner, _)| !living.contains(owner))
        .map(|(_, path)| path)
        .collect())
}
