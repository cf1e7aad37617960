//! What commands that run VMs stand on: the data folder, its database, the images, and an engine that owns the VMs of
//! this process.

use crate::Global;
use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use omnirun_egress::ProxyConfig;
use omnirun_firecracker_install::Shelf;
use omnirun_ids::ByteSize;
use omnirun_images::ImageStore;
use omnirun_network::OwnerNetwork;
use omnirun_sandboxes::{Engine, EngineConfig, SnapshotLimits};
use omnirun_store::{AuditLog, DataDir, Db};
use omnirun_vmm::{DriverChoice, Vmm};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Which VMM runs the sandboxes of a command.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct DriverArgs {
    /// What runs sandboxes: firecracker, qemu, or the better of them that works here (see omnirun doctor).
    #[arg(long, value_name = "NAME", default_value_t, env = "OMNIRUN_DRIVER",
        value_parser = PossibleValuesParser::new(DriverChoice::ALL.map(DriverChoice::as_str))
            .try_map(|name| name.parse::<DriverChoice>()))]
    pub driver: DriverChoice,
}

impl DriverArgs {
    /// The driver. Takes tens of milliseconds.
    pub async fn find(self, data: &DataDir) -> anyhow::Result<Arc<dyn Vmm>> {
        let installed = installed(data).unwrap_or_else(|error| {
            tracing::warn!(%error, "what omnirun setup put in place is not used");
            None
        });
        Ok(omnirun_vmm::detect(self.driver, installed.as_deref(), &data.tmp()).await?)
    }
}

/// The folder of the Firecracker that `omnirun setup` put in place.
pub fn installed(data: &DataDir) -> anyhow::Result<Option<PathBuf>> {
    let installed = Shelf::of(data).installed()?;
    Ok(installed.and_then(|found| found.firecracker.parent().map(PathBuf::from)))
}

/// An engine and what it stands on. Call [`Engine::shutdown`] before the end.
pub struct Host {
    /// The data folder.
    pub data: DataDir,
    /// Its database.
    pub db: Db,
    /// Its images.
    pub images: ImageStore,
    /// What runs its VMs.
    pub vmm: Arc<dyn Vmm>,
    /// Where the cards of its VMs lead.
    pub network: Arc<OwnerNetwork>,
    /// The VMs of this process.
    pub engine: Arc<Engine>,
}

/// How long an audit log stays after its last line.
const KEEP_AUDIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Removes what killed commands left that has no owner: unfinished builds and setups, half-written files. Says what it was.
pub fn sweep(data: &DataDir) -> Vec<String> {
    let mut lines = omnirun_images::sweep(&data.tmp());
    lines.extend(omnirun_firecracker_install::sweep(data));
    match AuditLog::of(data).sweep(KEEP_AUDIT) {
        Ok(files) => lines.extend(files.iter().map(|f| format!("the old audit log {}", f.display()))),
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "old audit logs stay"),
    }
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
pub async fn open(
    global: &Global,
    driver: DriverArgs,
    command: &str,
    pool_memory: Option<ByteSize>,
) -> anyhow::Result<Host> {
    allow_many_descriptors();
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    let db = Db::open(&data).context("cannot open the state database")?;
    for line in sweep(&data) {
        tracing::info!("removed {line}");
    }
    let images = ImageStore::open(data.root())?;
    let vmm = driver.find(&data).await?;
    let network = Arc::new(OwnerNetwork::new(&data, ProxyConfig::default()));
    let engine = Engine::open(EngineConfig {
        data: data.clone(),
        db: db.clone(),
        vmm: vmm.clone(),
        command: command.to_owned(),
        pool_memory,
        network: Some(network.clone()),
        snapshots: SnapshotLimits::default(),
        say: Arc::new(|notice| crate::output::say(format_args!("omnirun: {notice}"))),
    })
    .await?;
    if !engine.takeover().is_empty() {
        for line in omnirun_network::sweep(&data).await? {
            tracing::info!("removed {line}");
        }
    }
    Ok(Host {
        data,
        db,
        images,
        vmm,
        network,
        engine,
    })
}

/// As many as we may have: a sandbox with a network takes some ten, and the usual limit of 1,024 is about `select`, which
/// nothing here calls. The programs that we start for guests have limits of their own.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "the limit of descriptors stays");
    }
}
