//! `omnirun bench`: what this host does, each figure beside what cannot be avoided.
//!
//! ```text
//!   report   figures, quantiles, host facts                                    [report]
//!   floor    the minimal agent on the same kernel, devices and channel         [floor]
//!   boots    cold boot, clone, warm claim, teardown, idle memory               [boots]
//!   calls    exec round trip, throughput, tool calls in both modes             [calls]
//!   network  clone and teardown with a network card, beside the same without one   [network]
//!   worker   a tool call's host side, beside the official Python worker        [worker]
//! ```
//!
//! Ours and the floor are measured in turn within one run, so that a machine whose speed drifts slows both: read the
//! ratios, not the milliseconds.

mod boots;
mod calls;
mod error;
mod floor;
mod host;
mod network;
mod report;
mod worker;

pub use boots::boots;
pub use calls::calls;
pub use error::BenchError;
pub use floor::{Floor, FloorVm};
pub use network::network;
pub use report::{Figure, HostFacts, Report, Samples};
pub use worker::host_side;

use omnirun_images::{Image, ImageStore};
use omnirun_sandboxes::{Card, Engine, IsolationGroup, SandboxSize, SandboxSpec};
use omnirun_vmm::Vmm;
use std::{path::PathBuf, sync::Arc};

/// What a bench works with.
pub struct Setup {
    /// The engine under test.
    pub engine: Arc<Engine>,
    /// The same VMM, for the floor.
    pub vmm: Arc<dyn Vmm>,
    /// Images.
    pub images: ImageStore,
    /// The image that both sides boot.
    pub image: Arc<Image>,
    /// Size of the sandboxes.
    pub size: SandboxSize,
    /// Size of their disks, bytes.
    pub disk_bytes: u64,
    /// Rounds of the figures that a demand is made of.
    pub rounds: usize,
    /// A folder of the bench's own, removed by the caller.
    pub dir: PathBuf,
    /// Hears which figure is being taken.
    pub say: Box<dyn Fn(&str) + Send + Sync>,
}

impl Setup {
    /// What the sandboxes are.
    pub fn spec(&self) -> SandboxSpec {
        SandboxSpec {
            image: self.image.clone(),
            size: self.size,
            group: IsolationGroup::local(),
            card: Card::None,
            purpose: "omnirun bench".to_owned(),
            suspendable: false,
        }
    }
}
