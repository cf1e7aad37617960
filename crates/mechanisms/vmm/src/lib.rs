//! Virtual machine monitors behind one trait.
//!
//! ```text
//!   accel   what this host can do: KVM that runs a stock kernel, or emulation      [accel]
//!   Vmm     start (cold boot) or restore (copy-on-write clone of a snapshot)       [api]
//!   Prepared  the first half of a restore: a process that waits to load            [api]
//!   Vm      one machine: pause, resume, snapshot, attach disk, channel, kill, wait  [api]
//!   choice  which driver a process uses                                            [detect]
//!   qemu    the driver for QEMU: command line, QMP, confinement                    [qemu]
//!   firecracker  the driver for Firecracker: API, jail                             [firecracker]
//! ```
//!
//! What both drivers stand on: `process` (from the start to the end of a VMM process), `tail` (the end of what it
//! says), `memory` (guest memory on its way to and from files), `uids`, `ask` (a program's version) and `reap` (what
//! dead owners left, whichever driver they used) and `rate` (how fast a disk and a card may be).
//!
//! A driver owns its VMM process until [`Vm::wait`] has seen it go. It inherits no environment and only the descriptors
//! that it is named. Whoever holds a [`Vm`] is its only owner; there is no shared handle.

pub mod accel;
mod api;
mod ask;
mod choice;
pub mod firecracker;
mod memory;
mod process;
pub mod qemu;
mod rate;
mod reap;
mod tail;
mod uids;

pub use rate::{CardRate, DiskRate};

pub use choice::{DriverChoice, UnknownDriver, detect};

pub use api::{
    AttachDisk, BootSpec, ChannelStream, CloneSpec, DeviceState, Exit, MachineSize, Nic, Prepared, Reap, Vm,
    VmIdentity, Vmm, VmmError, VmmFacts,
};
pub use reap::Reaper;
