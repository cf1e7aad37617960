//! What commands that run VMs stand on: the data folder, its database, the images, and an engine that owns the VMs of
//! this process.

use crate::Global;
use anyhow::Context;
use omnirun_ids::ByteSize;
use omnirun_images::ImageStore;
use omnirun_sandboxes::{Engine, EngineConfig, SnapshotLimits};
use omnirun_store::{DataDir, Db};
use omnirun_vmm::qemu::Qemu;
use std::sync::Arc;

/// An engine and what it stands on. Call [`Engine::shutdown`] before the end.
pub struct Host {
    /// The data folder.
    pub data: DataDir,
    /// Its database.
    pub db: Db,
    /// Its images.
    pub images: ImageStore,
    /// The VMs of this process.
    pub engine: Arc<Engine>,
}

/// Removes what killed commands left that has no owner: unfinished builds and setups, half-written files. Says what it was.
pub fn sweep(data: &DataDir) -> Vec<String> {
    let mut lines = omnirun_images::sweep(&data.tmp());
    lines.extend(omnirun_firecracker_install::sweep(data));
    let files = data.sweep_unfinished();
    lines.extend(
        files
            .iter()
            .map(|f| format!("the half-written file {}", f.display())),
    );
    lines
}

/// Opens all of it, and clears up after owners that died. `command` is what this process is, for people; `pool_memory`
/// what spare clones may take, a quarter of what is free if none is given.
pub async fn open(global: &Global, command: &str, pool_memory: Option<ByteSize>) -> anyhow::Result<Host> {
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    let db = Db::open(&data).context("cannot open the state database")?;
    for line in sweep(&data) {
        tracing::info!("removed {line}");
    }
    let images = ImageStore::open(data.root())?;
    let vmm = Arc::new(Qemu::find().await?);
    let engine = Engine::open(EngineConfig {
        data: data.clone(),
        db: db.clone(),
        vmm,
        command: command.to_owned(),
        pool_memory,
        snapshots: SnapshotLimits::default(),
        say: Arc::new(|notice| crate::output::say(format_args!("omnirun: {notice}"))),
    })
    .await?;
    Ok(Host {
        data,
        db,
        images,
        engine,
    })
}
