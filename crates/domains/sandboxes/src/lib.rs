//! Sandboxes: microVMs cloned from snapshots, each with one owner task, and what is left of them at the end: nothing.
//!
//! ```text
//!            spec (image, size, isolation group)
//!                     |
//!   Engine::prepare   v            first use: boot, warm, snapshot, under a lock          [snapshot]
//!                 Template  -----------------------------------------------.
//!                     |                                                    |
//!   Engine::create    v            restore, resume, connect, wake          |              [clone]
//!                 Sandbox (awake) <--- PoolHandle::take (a spare, or now) <-'              [pool]
//!                     |
//!   Sandbox::claim    v            attach disk, claim                                     [sandbox, owner]
//!                 Sandbox (claimed) --- guest().exec(..), guest().tool(..)
//!                     |
//!   Sandbox::kill     v            kill, wait, remove, check; also when it is dropped     [teardown]
//!              TeardownReport
//! ```
//!
//! ```text
//! Engine::open(EngineConfig { data: DataDir, db: Db, vmm: Arc<dyn Vmm>, command, pool_memory, network, snapshots, say })
//!                                                  -> Result<Arc<Engine>, EngineError>; takes over from dead owners
//! engine.prepare(&SandboxSpec)                     -> Result<Arc<Template>, EngineError>;   the snapshot is there
//! engine.try_boot(&SandboxSpec)                    -> Result<Duration, EngineError>;        a guest boots here, no more
//! engine.create(SandboxSpec)                       -> Result<Sandbox, EngineError>;         awake, not claimed
//! engine.create_claimed(spec, claim, First)        -> Result<(Sandbox, Claimed, Begun), EngineError>;  all in one go
//! engine.pool(SandboxSpec)                         -> Arc<PoolHandle>;  one per active session: one spare each
//!   pool.take()                                    -> Result<Sandbox, EngineError>;         a spare, or cloned now
//!   pool.refill()                                  -> ();               starts in the background; after a post
//! engine.shutdown()                                -> Vec<TeardownReport>;                  joins everything
//! sandbox.id() / guest() / timings() / memory()    -> &SandboxId / &GuestClient / Vec<(&str, Duration)> / (pss, private)
//! sandbox.claim(ClaimSpec)                         -> Result<Claimed, EngineError>;         killed if it fails
//! sandbox.claim_with(ClaimSpec, First)             -> Result<(Claimed, Begun), EngineError>; the first call pipelined
//! engine.suspend(sandbox, binding, disk, to)       -> Result<ByteSize, EngineError>;        its memory in files; it ends
//! engine.resume(&spec, binding, from, ClaimSpec)   -> Result<Sandbox, EngineError>;         it goes on, once
//! sandbox.exited()                                 -> Why;              cancel-safe; the VM is gone, whatever way
//! sandbox.end()                                    -> ();               teardown in the background (also on drop)
//! sandbox.kill()                                   -> TeardownReport;   and waited for
//! ```
//!
//! Who may do what:
//!
//! - One task per VM, the *owner task*, holds the `Box<dyn Vm>` and is the only one that changes the VM's state. A
//!   [`Sandbox`] is a handle: requests through a queue, the state through a `watch`, the end through a channel of its
//!   own, so that a request under way cannot hold it up.
//! - What is allowed when is decided by `omnirun_vm_machine`, which is pure.
//! - Beside the spares a clone waits whose VMM process is ready (`waiting`); it is owned and ended like the others.
//! - A VM's row is durable before its VMM starts and goes after the teardown's check. [`Engine::open`] clears up after
//!   owners that died.
//! - A card leads where its policy says ([`network`]); one that nobody has claimed yet leads nowhere.
//! - Fail closed: a clone whose wake or claim failed is killed; nothing ever runs in it.
//! - Nothing is detached: [`Engine::shutdown`] joins every task and returns the reports.

mod engine;
mod error;
mod network;
mod owner;
mod pool;
mod sandbox;
mod snapshot;
mod spec;
mod takeover;
mod teardown;
mod timings;
mod waiting;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineConfig, Say};
pub use error::EngineError;
pub use network::{Card, Egress, Network, NetworkError, Port};
pub use omnirun_guest_client::message::Claimed;
pub use omnirun_vm_machine::{State, Why};
pub use pool::PoolHandle;
pub use sandbox::{Begun, First, Sandbox};
pub use snapshot::{Notice, SnapshotError, SnapshotInfo, SnapshotKey, SnapshotLimits, Template};
pub use spec::{
    ClaimSpec, IsolationGroup, MAX_DISK, MAX_VCPUS, MIN_DISK, MIN_MEMORY, SandboxSize, SandboxSpec,
    SizeError, check_disk,
};
pub use takeover::{TakeoverReport, look, take_over};
pub use teardown::TeardownReport;
