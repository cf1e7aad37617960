//! The driver for QEMU.
//!
//! ```text
//!   version        which QEMU is there                                 pure but for the search
//!   command_line   the machine, as arguments                           pure
//!   confine        identity, namespaces, Landlock, limits
//!   qmp            the control protocol
//!   vm             one machine
//! ```
//!
//! A clone is made so: sockets and files are opened here, QEMU is started with them and nothing else, and the commands
//! that load the device state are written into its control socket before it has begun to read: it finds them when it
//! is ready, and the next thing heard of it is that the state is loaded.

mod command_line;
mod confine;
mod qmp;
mod version;
mod vm;

use crate::{
    BootSpec, CloneSpec, DiskRate, Prepared, Reap, Vm, VmIdentity, Vmm, VmmError, VmmFacts,
    accel::{self, Accel},
    memory, reap,
    tail::Tail,
};
use async_trait::async_trait;
use confine::Confinement;
use std::{os::fd::OwnedFd, path::Path, sync::Arc};
use version::{Program, READONLY_MEMORY};

/// How a sandbox's QEMU is known among all processes.
pub(crate) fn mark(sandbox: &str) -> reap::Mark {
    reap::Mark {
        program: |name| name == b"qemu-system-x86_64",
        words: ["-name".into(), command_line::name(sandbox)],
    }
}

/// The parser of what QEMU sends, for fuzzing: the messages that the bytes hold, pushed in pieces of `step`.
#[doc(hidden)]
pub fn fuzz_qmp(bytes: &[u8], step: usize) -> Option<Vec<String>> {
    qmp::messages(bytes, step)
}

/// What is kept of a console, for fuzzing: the last `limit` bytes as text, pushed in pieces of `step`.
#[doc(hidden)]
pub fn fuzz_console(bytes: &[u8], limit: usize, step: usize) -> String {
    let tail = Tail::new(limit);
    bytes.chunks(step.max(1)).for_each(|piece| tail.push(piece));
    tail.text()
}

/// QEMU on this host.
#[derive(Debug)]
pub struct Qemu {
    inner: Arc<Host>,
}

/// What all machines of a driver have in common.
#[derive(Debug)]
struct Host {
    facts: VmmFacts,
    accel: Accel,
    program: Program,
    confinement: Confinement,
}

impl Qemu {
    /// Finds QEMU, what it can run on, and how far it can be confined. Takes tens of milliseconds; once per process.
    pub async fn find() -> Result<Self, VmmError> {
        let work = tokio::task::spawn_blocking(|| {
            let path = Program::path()?;
            // Both take a while, and neither needs the other.
            let probe = std::thread::spawn(accel::detect);
            let (mut confinement, program) = Confinement::find(path)?;
            let accel = probe.join().unwrap_or_else(|_| Accel::Emulation {
                reason: "the probe of /dev/kvm failed".into(),
            });
            if accel == Accel::Kvm {
                confinement.allow_kvm();
            }
            let facts = VmmFacts {
                driver: "qemu",
                version: program.version.clone(),
                accelerator: accel.as_str(),
                cpu: cpu(&accel),
                devices: command_line::DEVICES,
                card: command_line::CARD,
                confinement: confinement.words(),
                controllers: Vec::new(),
                disk: DiskRate::default(),
                // It has no such limit. One thread of the process moves all packets.
                card_rate: None,
            };
            Ok(Self {
                inner: Arc::new(Host {
                    facts,
                    accel,
                    program,
                    confinement,
                }),
            })
        });
        work.await.unwrap_or_else(|e| {
            Err(VmmError::Io {
                step: "looking for QEMU",
                source: std::io::Error::other(e),
            })
        })
    }

    /// What its machines run on.
    pub fn accel(&self) -> &Accel {
        &self.inner.accel
    }
}

/// What a snapshot's virtual CPU depends on, beside the version of QEMU.
fn cpu(accel: &Accel) -> String {
    match accel {
        Accel::Emulation { .. } => "max".into(),
        Accel::Kvm => accel::host_cpu(),
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn facts(&self) -> &VmmFacts {
        &self.inner.facts
    }

    async fn start(&self, spec: BootSpec) -> Result<Box<dyn Vm>, VmmError> {
        Ok(Box::new(vm::Machine::boot(Arc::clone(&self.inner), spec).await?))
    }

    async fn prepare(&self, spec: CloneSpec) -> Result<Box<dyn Prepared>, VmmError> {
        let waiting = vm::Waiting::start(&self.inner, spec)?;
        Ok(Box::new(waiting))
    }

    async fn open_memory(&self, path: &Path) -> Result<Arc<OwnedFd>, VmmError> {
        let file_error = |step| {
            let path = path.to_owned();
            move |source| VmmError::File { step, path, source }
        };
        let file = OwnedFd::from(std::fs::File::open(path).map_err(file_error("open"))?);
        if self.inner.program.release >= READONLY_MEMORY {
            return Ok(Arc::new(file));
        }
        let copied = tokio::task::spawn_blocking(move || memory::sealed(&file)).await;
        copied
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
            .map(Arc::new)
            .map_err(file_error("load"))
    }
}

#[async_trait]
impl Reap for Qemu {
    async fn reap(&self, identity: &VmIdentity) -> Result<Vec<String>, VmmError> {
        reap::reap(identity).await
    }
}
