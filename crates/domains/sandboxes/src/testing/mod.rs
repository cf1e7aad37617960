//! A VMM and a guest agent without a machine, for tests of whoever uses sandboxes.
//!
//! [`FakeVmm`] keeps count of the machines that live, and fails, hangs or dies at any step that it is told to. Its
//! agent speaks the real protocol over a real socket, and keeps the rules of the real one: nothing before the wake,
//! no process before the claim, no claim before the disk has its size.

mod agent;
mod machine;
mod network;
mod vmm;

pub use network::{Account, Deed, FakeNetwork};
pub use vmm::{FakeVmm, Fault, Step};

use crate::{Card, EngineConfig, IsolationGroup, Notice, SandboxSize, SandboxSpec, SnapshotLimits};
use omnirun_ids::{ByteSize, Digest};
use omnirun_images::{Image, Template};
use omnirun_store::{DataDir, Db, StoreError};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// An image whose files do not exist; the fake does not look.
pub fn image() -> Arc<Image> {
    let template = Template {
        name: "default".parse().unwrap_or_else(|_| unreachable!("it is a name")),
        user: "root".into(),
        env: BTreeMap::from([("FROM_TEMPLATE".to_owned(), "1".to_owned())]),
        workdir: "/workspace".into(),
        keep_capabilities: false,
    };
    let digest = |b: u8| Digest::from([b; 32]);
    Arc::new(Image {
        kernel: "/nowhere/kernel".into(),
        vmlinux: "/nowhere/vmlinux".into(),
        initramfs: "/nowhere/initramfs".into(),
        base: "/nowhere/base".into(),
        modules: "/nowhere/modules".into(),
        kernel_digest: digest(1),
        initramfs_digest: digest(2),
        base_digest: digest(3),
        agent_digest: digest(4),
        kernel_release: "6.12".into(),
        template,
    })
}

/// A sandbox of the smallest size.
pub fn spec() -> SandboxSpec {
    SandboxSpec {
        image: image(),
        size: SandboxSize {
            vcpus: 1,
            memory: ByteSize::mib(128),
        },
        group: IsolationGroup::local(),
        card: Card::None,
        purpose: "test".into(),
        suspendable: false,
    }
}

/// What an engine said.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Notice>>>);

impl Heard {
    /// All of it so far.
    pub fn all(&self) -> Vec<Notice> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An engine's configuration over the fake.
///
/// # Errors
/// [`StoreError`].
pub fn config(root: &Path, vmm: &FakeVmm, heard: &Heard) -> Result<EngineConfig, StoreError> {
    let data = DataDir::open(Some(root.to_owned()))?;
    let heard = heard.clone();
    Ok(EngineConfig {
        db: Db::open(&data)?,
        data,
        vmm: Arc::new(vmm.clone()),
        command: "test".into(),
        pool_memory: Some(ByteSize::gib(1)),
        network: None,
        snapshots: SnapshotLimits::default(),
        say: Arc::new(move |n| heard.0.lock().unwrap_or_else(PoisonError::into_inner).push(n)),
    })
}
