//! Virtual machine monitors behind one trait.
//!
//! ```text
//!   accel   what this host can do: KVM that runs a stock kernel, or emulation      [accel]
//!   Vmm     start (cold boot) or restore (copy-on-write clone of a snapshot)       [api]
//!   Vm      one machine: pause, resume, snapshot, attach disk, channel, kill, wait  [api]
//!   qemu    the driver for QEMU: command line, QMP, confinement                    [qemu]
//! ```
//!
//! A driver owns its VMM process until [`Vm::wait`] has seen it go. It inherits no environment and only the descriptors
//! that it is named. Whoever holds a [`Vm`] is its only owner; there is no shared handle.

pub mod accel;
mod api;
pub mod qemu;

pub use api::{
    AttachDisk, BootSpec, ChannelStream, CloneSpec, DeviceState, Exit, MachineSize, Vm, VmIdentity, Vmm,
    VmmError, VmmFacts,
};

use std::sync::Arc;

/// The best VMM of this host. Takes tens of milliseconds; once per process.
pub async fn detect() -> Result<Arc<dyn Vmm>, VmmError> {
    Ok(Arc::new(qemu::Qemu::find().await?))
}
