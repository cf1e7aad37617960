//! From files and sockets to a machine.

use super::{COMMAND, Machine, SOCKET, short};
use crate::{
    AttachDisk, BootSpec, CloneSpec, Exit, MachineSize, Nic, Prepared, Vm, VmIdentity, VmmError, memory,
    process::Process,
    qemu::{
        Host,
        command_line::{self, Begin, Fd},
        qmp::{
            Client, Pending,
            commands::{Capabilities, MIGRATION_CAPABILITIES, MigrateIncoming, SetCapabilities},
        },
        version::READONLY_MEMORY,
    },
    tail::Tail,
};
use async_trait::async_trait;
use omnirun_sys::host::net::attach_tap;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::net::UnixStream;

/// Descriptors and sockets of a machine that is about to be started.
struct Parts {
    control: UnixStream,
    console: UnixStream,
    stderr: tokio::net::unix::pipe::Receiver,
    run_dir: OwnedFd,
    theirs: Theirs,
}

/// The process's sides, closed here once it runs.
struct Theirs {
    null: OwnedFd,
    stderr: OwnedFd,
    control: OwnedFd,
    agent: OwnedFd,
    console: OwnedFd,
    base: OwnedFd,
}

impl Parts {
    fn open(identity: &VmIdentity, base: &Path) -> Result<Self, VmmError> {
        let file = |step, path: &Path| {
            let path = path.to_owned();
            move |source| VmmError::File { step, path, source }
        };
        let io = |source| VmmError::Io {
            step: "opening sockets",
            source,
        };
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(io)?;
        let base_file = File::open(base).map_err(file("open", base))?;
        let run_dir = File::open(&identity.run_dir).map_err(file("open", &identity.run_dir))?;
        let socket = identity.run_dir.join(SOCKET);
        let listener =
            std::os::unix::net::UnixListener::bind(short(&run_dir)).map_err(file("bind", &socket))?;
        let (control, control_theirs) = pair().map_err(io)?;
        let (console, console_theirs) = pair().map_err(io)?;
        let (read, write) = io::pipe().map_err(io)?;
        rustix::io::ioctl_fionbio(&read, true).map_err(|e| io(e.into()))?;
        Ok(Self {
            control,
            console,
            stderr: tokio::net::unix::pipe::Receiver::from_owned_fd(read.into()).map_err(io)?,
            run_dir: run_dir.into(),
            theirs: Theirs {
                null: null.into(),
                stderr: write.into(),
                control: control_theirs,
                agent: listener.into(),
                console: console_theirs,
                base: base_file.into(),
            },
        })
    }
}

/// A socket pair: ours for the runtime, theirs for a process.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((UnixStream::from_std(ours.into())?, theirs))
}

/// The card's end in its namespace. The process itself stays out of that: it has the descriptor.
fn tap(nic: Option<&Nic>) -> Result<Option<OwnedFd>, VmmError> {
    let attach = |nic: &Nic| attach_tap(&nic.namespace, omnirun_guest_net::TAP);
    nic.map(attach)
        .transpose()
        .map_err(|source| VmmError::Card { step: "open", source })
}

impl Machine {
    /// Boots one.
    pub(in crate::qemu) async fn boot(host: Arc<Host>, spec: BootSpec) -> Result<Self, VmmError> {
        // Copies, since the process may not reach the files, and a descriptor's file is opened anew by its path.
        let copy = |path: PathBuf| async move {
            let read = path.clone();
            let copied = tokio::task::spawn_blocking(move || memory::sealed(&File::open(read)?.into())).await;
            copied
                .unwrap_or_else(|e| Err(io::Error::other(e)))
                .map_err(|source| VmmError::File {
                    step: "load",
                    path,
                    source,
                })
        };
        let (kernel, initramfs) = tokio::try_join!(copy(spec.kernel), copy(spec.initramfs))?;
        let memory = memory::fresh(spec.size.memory_mib << 20).map_err(|source| VmmError::Io {
            step: "making guest memory",
            source,
        })?;
        let begin = Begin::Boot(command_line::kernel(&host.accel, &spec.cmdline));
        let tap = tap(spec.network.as_ref())?;
        let mut more = vec![memory.as_fd(), kernel.as_fd(), initramfs.as_fd()];
        more.extend(tap.as_ref().map(AsFd::as_fd));
        let parts = Parts::open(&spec.identity, &spec.base)?;
        let mut machine = Self::start(
            &host,
            spec.identity,
            spec.size,
            (&begin, tap.is_some()),
            parts,
            &more,
            &[],
        )?;
        machine.memory = Some(Arc::new(memory));
        machine
            .asked(
                "qmp_capabilities",
                machine.control.call(&Capabilities {}, COMMAND).await,
            )
            .await?;
        Ok(machine)
    }

    /// A process that waits for a clone's device state.
    fn waiting(host: &Host, spec: CloneSpec) -> Result<Self, VmmError> {
        let parts = Parts::open(&spec.identity, &spec.base)?;
        // A descriptor's offset belongs to all who share it, clones that load at this moment included: so one of this
        // clone's own, on the same file.
        let path = format!("/proc/self/fd/{}", spec.state.as_raw_fd());
        let state = File::open(&path).map_err(|source| VmmError::File {
            step: "open",
            path: path.into(),
            source,
        })?;
        let tap = tap(spec.network.as_ref())?;
        let mut more = vec![spec.memory.as_fd(), state.as_fd()];
        more.extend(tap.as_ref().map(AsFd::as_fd));
        // A later QEMU opens the memory file itself; a sealed memfd needs no leave.
        let readable: &[BorrowedFd<'_>] = if host.program.release >= READONLY_MEMORY {
            &[spec.memory.as_fd()]
        } else {
            &[]
        };
        let empty = memory::is_empty(&spec.memory).map_err(|source| VmmError::Io {
            step: "looking at the snapshot's memory",
            source,
        })?;
        let begin = match empty {
            true => Begin::Whole,
            false => Begin::Incoming,
        };
        Self::start(
            host,
            spec.identity,
            spec.size,
            (&begin, tap.is_some()),
            parts,
            &more,
            readable,
        )
    }

    fn start(
        host: &Host,
        identity: VmIdentity,
        size: MachineSize,
        (begin, card): (&Begin, bool),
        parts: Parts,
        more: &[BorrowedFd<'_>],
        readable: &[BorrowedFd<'_>],
    ) -> Result<Self, VmmError> {
        let program = || host.program.path.display().to_string();
        let args = command_line::build(
            host.program.release,
            &host.accel,
            identity.sandbox.as_str(),
            size,
            begin,
            card,
        );
        let args = command_line::as_c(args).ok_or_else(|| VmmError::Spawn {
            program: program(),
            source: io::Error::new(
                io::ErrorKind::InvalidInput,
                "the kernel command line has a NUL byte in it",
            ),
        })?;
        let t = &parts.theirs;
        // In the order of `Fd`.
        let mut fds = vec![
            t.null.as_fd(),
            t.null.as_fd(),
            t.stderr.as_fd(),
            t.control.as_fd(),
        ];
        fds.extend([t.agent.as_fd(), t.console.as_fd(), t.base.as_fd()]);
        fds.extend(more);
        let spawned = host
            .confinement
            .spawn(identity.sandbox.as_str(), &args, &fds, readable)
            .map_err(|e| {
                let source = io::Error::new(e.source.kind(), format!("{e}: {}", e.source));
                VmmError::Spawn {
                    program: program(),
                    source,
                }
            })?;
        drop(parts.theirs);
        let stderr = Tail::new(8 * 1024);
        let console = Tail::new(64 * 1024);
        let reader = stderr.follow(parts.stderr);
        drop(console.follow(parts.console));
        let process = Process::watch(spawned, stderr, reader, || ()).map_err(|source| VmmError::Io {
            step: "watching the process",
            source,
        })?;
        tracing::debug!(
            sandbox = identity.sandbox.as_str(),
            pid = process.pid(),
            "QEMU started"
        );
        Ok(Self {
            process,
            control: Client::new(parts.control),
            identity,
            size,
            run_dir: parts.run_dir,
            memory: None,
            channel: Mutex::new(None),
            console,
        })
    }
}

/// A process that waits for a clone's device state. Its first commands are sent ahead of its readiness, and nobody waits
/// for their answers before the state is loaded.
pub(in crate::qemu) struct Waiting {
    machine: Machine,
    hello: Pending<Capabilities>,
    capabilities: Pending<SetCapabilities>,
    disk: Option<AttachDisk>,
}

impl Waiting {
    /// Starts it.
    pub(in crate::qemu) fn start(host: &Host, mut spec: CloneSpec) -> Result<Self, VmmError> {
        let disk = spec.disk.take();
        let machine = Machine::waiting(host, spec)?;
        let hello = machine.control.submit(&Capabilities {});
        let capabilities = machine.control.submit(&SetCapabilities {
            capabilities: MIGRATION_CAPABILITIES,
        });
        Ok(Self {
            machine,
            hello,
            capabilities,
            disk,
        })
    }
}

#[async_trait]
impl Prepared for Waiting {
    async fn exited(&self) -> Exit {
        self.machine.process.wait().await
    }

    async fn load(self: Box<Self>) -> Result<Box<dyn Vm>, VmmError> {
        let Self {
            machine,
            hello,
            capabilities,
            disk,
        } = *self;
        let ended = machine.control.expect_migration();
        // A number in `fd:` is a descriptor that the process was born with.
        let uri = format!("fd:{}", Fd::First as i32);
        let incoming = machine.control.submit(&MigrateIncoming { uri });
        machine
            .asked("qmp_capabilities", hello.within(COMMAND).await)
            .await?;
        machine
            .asked("migrate-set-capabilities", capabilities.within(COMMAND).await)
            .await?;
        machine
            .asked("migrate-incoming", incoming.within(COMMAND).await)
            .await?;
        machine.migrated("loading the device state", ended).await?;
        if let Some(disk) = disk {
            // The guest sees the size that it knows.
            machine.attach_disk(disk).await?;
        }
        Ok(Box::new(machine))
    }
}
