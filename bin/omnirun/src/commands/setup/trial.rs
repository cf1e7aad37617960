//! What new programs have to show before they replace those that are there: a start in the jail, and a guest that boots in
//! it and answers. As much of that is tried as this machine can do; what was not is said.

use crate::{commands::run::own_words, progress};
use anyhow::Context;
use omnirun_firecracker_install::Progress;
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_images::ImageStore;
use omnirun_sandboxes::{
    Card, Engine, EngineConfig, IsolationGroup, SandboxSize, SandboxSpec, SnapshotLimits,
};
use omnirun_store::{DataDir, Db};
use omnirun_vmm::{
    VmmError,
    accel::{self, Accel},
    firecracker::Firecracker,
};
use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// The guest's: small, and enough for what it is warmed with.
const SIZE: SandboxSize = SandboxSize {
    vcpus: 1,
    memory: ByteSize::mib(256),
};

/// The template whose guest is booted.
const TEMPLATE: &str = "default";

/// What was seen. That both programs say their version goes before it.
#[derive(Debug, Default, PartialEq, serde::Serialize)]
pub struct Trial {
    /// Firecracker started in a jail, and its API answered.
    pub jailed: bool,
    /// A guest booted and answered, after so many seconds.
    pub boot_seconds: Option<f64>,
    /// Why no more was tried.
    pub untried: Option<String>,
}

impl Trial {
    /// Nothing was, for this reason.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self {
            untried: Some(why.into()),
            ..Self::default()
        }
    }

    fn not_booted(why: impl Into<String>) -> Self {
        Self {
            jailed: true,
            ..Self::skipped(why)
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tried: both programs say their version")?;
        if self.jailed {
            f.write_str("; Firecracker started in its jail and answered")?;
        }
        if let Some(seconds) = self.boot_seconds {
            write!(f, "; a guest booted in it and ran a shell ({seconds:.1} s)")?;
        }
        match (&self.untried, self.jailed) {
            (None, _) => Ok(()),
            (Some(why), false) => write!(f, ". Not tried: a start in the jail, and a guest: {why}"),
            (Some(why), true) => write!(f, ". Not tried: a guest: {why}"),
        }
    }
}

/// The trial of one setup. Closed at its end, whether or not it came to its own.
#[derive(Default)]
pub struct Bench(Mutex<Option<Arc<Engine>>>);

impl Bench {
    /// Tries the programs of a folder.
    pub async fn run(
        &self,
        data: &DataDir,
        programs: &Path,
        progress: &progress::Shown,
    ) -> anyhow::Result<Trial> {
        Progress::step(progress, "starting Firecracker in a jail");
        let vmm = match Firecracker::in_folder(programs, &data.tmp()).await {
            Ok(vmm) => vmm,
            Err(VmmError::Unfit { reason, .. }) => return Ok(Trial::skipped(reason)),
            Err(error) => {
                return Err(error).context(
                    "the new Firecracker did not pass its trial, a start in a jail (where none can be built, as in \
                     the build of a container's image, --no-trial leaves that out)",
                );
            }
        };
        match tokio::task::spawn_blocking(accel::detect).await {
            Ok(Accel::Kvm) => {}
            Ok(Accel::Emulation { reason }) => return Ok(Trial::not_booted(reason)),
            Err(_) => return Ok(Trial::not_booted("the probe of /dev/kvm failed")),
        }
        let template: TemplateName = TEMPLATE.parse()?;
        let image = match ImageStore::open(data.root())?.get(&template) {
            Ok(image) => image,
            Err(error) => return Ok(Trial::not_booted(error.to_string())),
        };
        Progress::step(progress, "booting a guest with it");
        let engine = Engine::open(EngineConfig {
            data: data.clone(),
            db: Db::open(data).context("cannot open the state database")?,
            vmm: Arc::new(vmm),
            command: "omnirun setup".to_owned(),
            pool_memory: None,
            network: None,
            snapshots: SnapshotLimits::default(),
            say: Arc::new(|notice| tracing::debug!("{notice}")),
        })
        .await?;
        self.held().replace(engine.clone());
        let spec = SandboxSpec {
            image: Arc::new(image),
            size: SIZE,
            group: IsolationGroup::local(),
            card: Card::None,
            purpose: "omnirun setup".to_owned(),
            suspendable: false,
        };
        let booted = engine.try_boot(&spec).await;
        // No owner of VMs any more when the old version is put aside: it would be kept for us.
        self.close().await;
        match booted {
            Ok(took) => Ok(Trial {
                jailed: true,
                boot_seconds: Some(took.as_secs_f64()),
                untried: None,
            }),
            // With what the guest's console said last.
            Err(error) => anyhow::bail!(
                "the new Firecracker did not pass its trial boot: {}",
                own_words(&error.into())
            ),
        }
    }

    /// Ends what a trial that was dropped has left.
    pub async fn close(&self) {
        let engine = self.held().take();
        if let Some(engine) = engine {
            for report in engine.shutdown().await.iter().filter(|r| !r.is_clean()) {
                say!("omnirun: {report}; `omnirun clean` tries again");
            }
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Arc<Engine>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_tried_and_what_was_not() {
        let skipped = Trial::skipped("no root").to_string();
        assert!(
            skipped.contains("version. Not tried: a start in the jail, and a guest: no root"),
            "{skipped}"
        );
        let not_booted = Trial::not_booted("no KVM").to_string();
        assert!(
            not_booted.contains("answered. Not tried: a guest: no KVM"),
            "{not_booted}"
        );
        let all = Trial {
            jailed: true,
            boot_seconds: Some(1.25),
            untried: None,
        };
        assert!(
            all.to_string()
                .ends_with("a guest booted in it and ran a shell (1.2 s)"),
            "{all}"
        );
    }
}
