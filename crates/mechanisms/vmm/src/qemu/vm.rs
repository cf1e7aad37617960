//! One machine.

use super::{
    Host,
    command_line::{self, Begin, Fd, SESSION_FILTER, THROTTLE_GROUP},
    memory,
    process::{Process, Tail},
    qmp::{
        Client, Migration, QmpError,
        commands::{
            AddFd, BlockResize, BlockdevAdd, BlockdevReopen, Capabilities, Cont, GetFd,
            MIGRATION_CAPABILITIES, Migrate, MigrateIncoming, SetCapabilities, SetParameters, Stop,
        },
        migration_end,
    },
    version::READONLY_MEMORY,
};
use crate::{
    AttachDisk, BootSpec, ChannelStream, CloneSpec, DeviceState, Exit, MachineSize, Vm, VmIdentity, VmmError,
};
use async_trait::async_trait;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::json;
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::UnixStream;

/// For commands that do nothing slow. A host under load may be slow all the same.
const COMMAND: Duration = Duration::from_secs(30);
/// For what moves a whole machine.
const MOVE: Duration = Duration::from_secs(120);

const SOCKET: &str = "agent.sock";
/// Where the session disk's descriptor is found by QEMU. Sets 1 and 2 are the command line's.
const SESSION_SET: u32 = 3;

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    process: Process,
    control: Client,
    identity: VmIdentity,
    /// The run folder, so that the agent's socket can be named in few bytes however long the folder's path is.
    run_dir: OwnedFd,
    /// Memory of a machine that was booted; a clone's is private to its process.
    memory: Option<Arc<OwnedFd>>,
    channel: Mutex<Option<OwnedFd>>,
    console: Tail,
}

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

/// The agent's socket in the run folder, in a path that fits a socket address.
fn short(run_dir: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", run_dir.as_raw_fd()))
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

impl Machine {
    /// Boots one.
    pub(super) async fn boot(host: Arc<Host>, spec: BootSpec) -> Result<Self, VmmError> {
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
        let more = [memory.as_fd(), kernel.as_fd(), initramfs.as_fd()];
        let parts = Parts::open(&spec.identity, &spec.base)?;
        let mut machine = Self::start(&host, spec.identity, spec.size, &begin, parts, &more, &[])?;
        machine.memory = Some(Arc::new(memory));
        machine
            .asked(
                "qmp_capabilities",
                machine.control.call(&Capabilities {}, COMMAND).await,
            )
            .await?;
        Ok(machine)
    }

    /// Makes a clone, paused.
    pub(super) async fn restore(host: Arc<Host>, spec: CloneSpec) -> Result<Self, VmmError> {
        let parts = Parts::open(&spec.identity, &spec.base)?;
        let more = [spec.memory.as_fd(), spec.state.as_fd()];
        // A descriptor's offset belongs to all who share it, clones that load at this moment included: so one of this
        // clone's own, on the same file.
        let path = format!("/proc/self/fd/{}", spec.state.as_raw_fd());
        let state = File::open(&path).map_err(|source| VmmError::File {
            step: "open",
            path: path.into(),
            source,
        })?;
        let more = [more[0], state.as_fd()];
        // A later QEMU opens the memory file itself; a sealed memfd needs no leave.
        let readable: &[BorrowedFd<'_>] = if host.program.release >= READONLY_MEMORY {
            &[spec.memory.as_fd()]
        } else {
            &[]
        };
        let machine = Self::start(
            &host,
            spec.identity,
            spec.size,
            &Begin::Incoming,
            parts,
            &more,
            readable,
        )?;
        machine.load().await?;
        Ok(machine)
    }

    fn start(
        host: &Host,
        identity: VmIdentity,
        size: MachineSize,
        begin: &Begin,
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
        let process =
            Process::watch(spawned.pid, spawned.pidfd, stderr, reader).map_err(|source| VmmError::Io {
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
            run_dir: parts.run_dir,
            memory: None,
            channel: Mutex::new(None),
            console,
        })
    }

    /// Loads the device state. All commands are sent ahead of the process's readiness.
    async fn load(&self) -> Result<(), VmmError> {
        let ended = self.control.expect_migration();
        let hello = self.control.submit(&Capabilities {});
        let capabilities = self.control.submit(&SetCapabilities {
            capabilities: MIGRATION_CAPABILITIES,
        });
        // A number in `fd:` is a descriptor that the process was born with.
        let uri = format!("fd:{}", Fd::First as i32);
        let incoming = self.control.submit(&MigrateIncoming { uri });
        self.asked("qmp_capabilities", hello.within(COMMAND).await)
            .await?;
        self.asked("migrate-set-capabilities", capabilities.within(COMMAND).await)
            .await?;
        self.asked("migrate-incoming", incoming.within(COMMAND).await)
            .await?;
        self.migrated("loading the device state", ended).await
    }

    async fn migrated(
        &self,
        step: &'static str,
        state: tokio::sync::watch::Receiver<Migration>,
    ) -> Result<(), VmmError> {
        match tokio::time::timeout(MOVE, migration_end(state, &self.control)).await {
            Err(_) => Err(VmmError::Timeout {
                step,
                seconds: MOVE.as_secs(),
            }),
            Ok(Some(Migration::Completed)) => Ok(()),
            Ok(Some(_)) => Err(VmmError::Refused {
                step,
                reason: self.last_words().await,
            }),
            Ok(None) => Err(self.gone(step).await),
        }
    }

    /// QEMU says why a migration failed on its standard error, and mostly ends then.
    async fn last_words(&self) -> String {
        match tokio::time::timeout(Duration::from_secs(2), self.process.wait()).await {
            Ok(exit) => exit.stderr_tail,
            Err(_) => "it failed".into(),
        }
    }

    async fn gone(&self, step: &'static str) -> VmmError {
        // A process that closed its control socket and lives on is of no use to anyone.
        let exit = match tokio::time::timeout(Duration::from_secs(1), self.process.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                self.process.kill();
                self.process.wait().await
            }
        };
        VmmError::Gone {
            step,
            tail: exit.stderr_tail,
        }
    }

    async fn asked<T>(&self, step: &'static str, answer: Result<T, QmpError>) -> Result<T, VmmError> {
        match answer {
            Ok(value) => Ok(value),
            Err(QmpError::Refused(reason)) => Err(VmmError::Refused { step, reason }),
            Err(QmpError::Timeout(within)) => Err(VmmError::Timeout {
                step,
                seconds: within.as_secs(),
            }),
            Err(QmpError::Shape(source)) => Err(VmmError::Io {
                step,
                source: source.into(),
            }),
            Err(QmpError::Closed) => Err(self.gone(step).await),
        }
    }
}

/// Makes a file that only its owner may write, and nobody through it once it is closed.
fn create(path: &Path) -> Result<OwnedFd, VmmError> {
    // Readable for a VMM that opens a clone's memory by itself; who may come near is up to the folder.
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o444)
        .open(path);
    file.map(OwnedFd::from).map_err(|source| VmmError::File {
        step: "create",
        path: path.to_owned(),
        source,
    })
}

#[async_trait]
impl Vm for Machine {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn channel(&self) -> Result<ChannelStream, VmmError> {
        let step = "connecting to the agent's channel";
        // QEMU serves one connection at a time. The earlier one ends, so that it comes to this one.
        if let Some(earlier) = self.channel.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let _ = rustix::net::shutdown(&earlier, rustix::net::Shutdown::Both);
        }
        let stream = match UnixStream::connect(short(&self.run_dir)).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused) => {
                return Err(self.gone(step).await);
            }
            Err(source) => return Err(VmmError::Io { step, source }),
        };
        let kept = stream
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| VmmError::Io { step, source })?;
        *self.channel.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept);
        Ok(stream)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.asked("stop", self.control.call(&Stop {}, COMMAND).await)
            .await
            .map(drop)
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.asked("cont", self.control.call(&Cont {}, COMMAND).await)
            .await
            .map(drop)
    }

    async fn snapshot(&self, to: &DeviceState) -> Result<(), VmmError> {
        let Some(memory) = self.memory.clone() else {
            let reason =
                "a clone's memory is private to its process; only a machine that was booted can be snapshot"
                    .into();
            return Err(VmmError::Refused {
                step: "snapshot",
                reason,
            });
        };
        let state = create(&to.state)?;
        let theirs = state.try_clone().map_err(|source| VmmError::File {
            step: "open",
            path: to.state.clone(),
            source,
        })?;
        let ended = self.control.expect_migration();
        let (bandwidth, downtime) = (1 << 40, 60_000);
        let capabilities = self.control.submit(&SetCapabilities {
            capabilities: MIGRATION_CAPABILITIES,
        });
        let parameters = self.control.submit(&SetParameters {
            max_bandwidth: bandwidth,
            downtime_limit: downtime,
        });
        let fd = self.control.submit_fd(&GetFd { fdname: "state" }, Some(theirs));
        let migrate = self.control.submit(&Migrate {
            uri: "fd:state".into(),
        });
        self.asked("migrate-set-capabilities", capabilities.within(COMMAND).await)
            .await?;
        self.asked("migrate-set-parameters", parameters.within(COMMAND).await)
            .await?;
        self.asked("getfd", fd.within(COMMAND).await).await?;
        self.asked("migrate", migrate.within(COMMAND).await).await?;
        self.migrated("saving the device state", ended).await?;

        let (memory_path, state_path) = (to.memory.clone(), to.state.clone());
        let saved = tokio::task::spawn_blocking(move || {
            let file = create(&memory_path)?;
            let failed = |step, path: &Path| {
                let path = path.to_owned();
                move |source| VmmError::File { step, path, source }
            };
            memory::save(&memory, &file).map_err(failed("write", &memory_path))?;
            rustix::fs::fsync(&file)
                .map_err(io::Error::from)
                .map_err(failed("fsync", &memory_path))?;
            rustix::fs::fsync(&state)
                .map_err(io::Error::from)
                .map_err(failed("fsync", &state_path))
        });
        saved.await.unwrap_or_else(|e| {
            Err(VmmError::Io {
                step: "writing the memory file",
                source: io::Error::other(e),
            })
        })
    }

    async fn attach_disk(&self, disk: AttachDisk) -> Result<(), VmmError> {
        // From now on the disk is all that it may write, and a disk that grew could fill the host.
        if let Err(error) = self.process.limit_file_size(disk.bytes) {
            // Root of a container may lack the capability for it. What is left then is that QEMU keeps to the size.
            tracing::debug!(%error, "the size of the session disk's file is not limited");
        }
        let fd = self.control.submit_fd(
            &AddFd {
                fdset_id: SESSION_SET,
            },
            Some(disk.file),
        );
        // A flush reaches the host's page cache, which outlives every process here; only power loss is beyond it.
        let add = self.control.submit(&BlockdevAdd(json!({
            "driver": "raw",
            "node-name": "session-disk",
            "discard": "unmap",
            "cache": {"no-flush": true},
            "file": {
                "driver": "file",
                "filename": format!("/dev/fdset/{SESSION_SET}"),
                "discard": "unmap",
                "cache": {"no-flush": true},
            },
        })));
        let reopen = self.control.submit(&BlockdevReopen {
            options: [json!({
                "driver": "throttle",
                "node-name": SESSION_FILTER,
                "throttle-group": THROTTLE_GROUP,
                "file": "session-disk",
            })],
        });
        // The guest keeps the placeholder's size otherwise.
        let resize = self.control.submit(&BlockResize {
            node_name: SESSION_FILTER,
            size: disk.bytes,
        });
        self.asked("add-fd", fd.within(COMMAND).await).await?;
        self.asked("blockdev-add", add.within(COMMAND).await).await?;
        self.asked("blockdev-reopen", reopen.within(COMMAND).await)
            .await?;
        self.asked("block_resize", resize.within(COMMAND).await).await?;
        Ok(())
    }

    fn kill(&self) {
        self.process.kill();
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }

    fn memory(&self) -> Result<(u64, u64), VmmError> {
        let path = PathBuf::from(format!("/proc/{}/smaps_rollup", self.pid()));
        let text = fs::read_to_string(&path).map_err(|source| VmmError::File {
            step: "read",
            path,
            source,
        })?;
        let kib = |name: &str| -> u64 {
            let lines = text
                .lines()
                .filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            lines
                .filter_map(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
                .sum()
        };
        Ok((
            kib("Pss") << 10,
            (kib("Private_Clean") + kib("Private_Dirty")) << 10,
        ))
    }

    fn console_tail(&self) -> String {
        self.console.text()
    }

    fn run_dir(&self) -> &Path {
        &self.identity.run_dir
    }
}
