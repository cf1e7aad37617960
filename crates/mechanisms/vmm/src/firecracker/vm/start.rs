//! From files to a machine.

use super::{
    AGENT_CID, BASE, CARD_ID, FIRST_DISK, INITRAMFS, KERNEL, MEMORY, Machine, PLACEHOLDER, PLACEHOLDER_BYTES,
    SESSION, SESSION_DRIVE, STATE,
    arrival::{Arrivals, connect},
};
use crate::{
    AttachDisk, BootSpec, CardRate, CloneSpec, MachineSize, Nic, VmIdentity, VmmError,
    api::guest_mac,
    firecracker::{
        Host,
        api::{
            Action, ApiError, BootSource, Drive, Entropy, LoadSnapshot, MachineConfig, MemoryBackend,
            NetworkInterface, Vsock,
        },
        jail::{
            self, Jail,
            cgroup::Group,
            command_line::{self, AGENT, FILTER, Line, RUN},
        },
        metrics,
    },
    process::Process,
    tail::Tail,
};
use omnirun_guest_net::TAP;
use omnirun_sys::host::{
    net::give_tap,
    spawn::{CORE, NEW_IPC, NEW_NETWORK, NEW_PID, Spawn, spawn},
};
use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
};
use tokio::{net::unix::pipe, sync::watch};

/// A machine that is about to be started.
pub(in crate::firecracker) struct Plan {
    identity: VmIdentity,
    size: MachineSize,
    /// What it may write to files of its jail.
    writes: u64,
    network: Option<Nic>,
    jail: Jail,
}

impl Plan {
    /// An empty jail.
    pub(in crate::firecracker) fn new(
        host: &Host,
        identity: VmIdentity,
        size: MachineSize,
        writes: u64,
        network: Option<Nic>,
    ) -> Result<Self, VmmError> {
        let sandbox = identity.sandbox.as_str();
        let mut jail = Jail::make(
            &identity,
            &host.name,
            host.starter.as_deref(),
            &jail::name(sandbox),
            host.uids.pick(sandbox),
        )?;
        if host.starter.is_some() {
            jail.show_program(open(&host.programs.firecracker)?.as_fd())?;
        }
        if let Some(filter) = &host.filter {
            jail.put(FILTER, filter)?;
        }
        Ok(Self {
            identity,
            size,
            writes,
            network,
            jail,
        })
    }

    fn show(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), VmmError> {
        self.jail.show(name, file)
    }

    /// Starts the process and waits for its API.
    pub(in crate::firecracker) async fn start(self, host: &Arc<Host>) -> Result<Machine, VmmError> {
        let Self {
            identity,
            size,
            writes,
            network,
            mut jail,
        } = self;
        let io = |step| move |source| VmmError::Io { step, source };
        let (log, log_theirs) = jail.log()?;
        let counted = jail.metrics()?;
        let (console, console_theirs) = io::pipe().map_err(io("making a pipe"))?;
        rustix::io::ioctl_fionbio(&console, true).map_err(|e| io("making a pipe")(e.into()))?;
        let null = File::open("/dev/null").map_err(io("opening /dev/null"))?;
        // All that may fail comes before there is a process.
        let (said, screen) = (Tail::new(8 * 1024), Tail::new(64 * 1024));
        let receiver =
            |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd).map_err(io("reading from the process"));
        let reader = metrics::follow(receiver(counted)?, said.follow(receiver(log)?), said.clone());
        drop(screen.follow(receiver(console.into())?));
        // Before there is anything to be seen.
        let sockets = Arrivals::watch(&jail).map_err(io("watching for the API's socket"))?;

        let id = jail::name(identity.sandbox.as_str());
        let args = arguments(host, &identity, &id, writes)?;
        let program =
            CString::new(host.programs.jailer.as_os_str().as_bytes()).map_err(|e| invalid(host, e))?;
        let group = match &host.cgroups {
            Ok(hierarchy) => {
                Some(hierarchy.make(&id, size, writes, jail::io_limit(&identity.run_dir, host.disk))?)
            }
            Err(_) => None,
        };
        if let Some(nic) = &network {
            // By its name, when the machine is made; it has no capability in the namespace.
            let lent = give_tap(&nic.namespace, TAP, host.uids.pick(identity.sandbox.as_str()));
            lent.map_err(|source| VmmError::Card {
                step: "lend the VM",
                source,
            })?;
        }
        let joins = group.as_ref().map(Group::open).transpose()?;
        let spawned = spawn(&Spawn {
            program: &program,
            args: &args,
            fds: &[null.as_fd(), console_theirs.as_fd(), log_theirs.as_fd()],
            limits: &[(CORE, 0, 0)],
            oom_score_adj: Some("500"),
            user_namespace: None,
            network_namespace: network.as_ref().map(|nic| nic.namespace.as_fd()),
            unshare: NEW_IPC | NEW_PID | if network.is_none() { NEW_NETWORK } else { 0 },
            mounts: &jail.mounts(),
            cgroup: joins.as_ref().map(AsFd::as_fd),
            credentials: None,
            landlock: None,
        });
        let spawned = spawned.map_err(|e| VmmError::Spawn {
            program: host.programs.jailer.display().to_string(),
            source: io::Error::new(e.source.kind(), format!("{e}: {}", e.source)),
        })?;
        jail.started();
        drop((console_theirs, log_theirs));
        let process =
            Process::watch(spawned, said, reader, move || drop(group)).map_err(io("watching the process"))?;
        tracing::debug!(
            sandbox = identity.sandbox.as_str(),
            pid = process.pid(),
            "Firecracker's jailer started"
        );
        let api = connect(&jail, &process, sockets).await?;
        Ok(Machine {
            process,
            api,
            jail,
            identity,
            size,
            may_limit: host.may_limit,
            must_filter: host.must_filter,
            disk: host.disk,
            booted: false,
            tracked: false,
            base: Mutex::new(None),
            running: watch::Sender::new(false),
            unsaved: AtomicBool::new(false),
            channel: Mutex::new(None),
            console: screen,
        })
    }
}

fn invalid(host: &Host, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> VmmError {
    VmmError::Spawn {
        program: host.programs.jailer.display().to_string(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    }
}

fn arguments(host: &Host, identity: &VmIdentity, id: &str, writes: u64) -> Result<Vec<CString>, VmmError> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| invalid(host, format!("{} is not UTF-8", path.display())))
    };
    let run_dir = std::path::absolute(&identity.run_dir).map_err(|e| invalid(host, e))?;
    let program = match host.starter {
        Some(_) => run_dir.join(&host.name).join(&host.name),
        None => host.programs.firecracker.clone(),
    };
    let line = Line {
        id,
        program: &text(&program)?,
        run_dir: &text(&run_dir)?,
        uid: host.uids.pick(identity.sandbox.as_str()),
        file_size: host.may_limit.then_some(writes),
        filter: host.filter.is_some(),
    };
    command_line::as_c(line.build()).ok_or_else(|| invalid(host, "a path has a NUL byte in it"))
}

/// How large a file a clone may write: its placeholder, and its session disk.
pub(super) fn writes_to(disk: Option<&AttachDisk>) -> u64 {
    disk.map_or(0, |disk| disk.bytes).max(PLACEHOLDER_BYTES)
}

fn open(path: &Path) -> Result<OwnedFd, VmmError> {
    let file = File::open(path).map_err(|source| VmmError::File {
        step: "open",
        path: path.to_owned(),
        source,
    })?;
    Ok(file.into())
}

impl Machine {
    /// Boots one.
    pub(in crate::firecracker) async fn boot(host: &Arc<Host>, spec: BootSpec) -> Result<Self, VmmError> {
        // A snapshot of its memory, and little else.
        let writes = (spec.size.memory_mib << 20) + (64 << 20);
        let card = spec.network.is_some().then_some(host.card);
        let mut plan = Plan::new(host, spec.identity, spec.size, writes, spec.network)?;
        for (name, path) in [
            (KERNEL, &spec.vmlinux),
            (INITRAMFS, &spec.initramfs),
            (BASE, &spec.base),
        ] {
            plan.show(name, open(path)?.as_fd())?;
        }
        drop(plan.jail.writable(PLACEHOLDER, PLACEHOLDER_BYTES)?);
        let mut machine = plan.start(host).await?;
        machine.booted = true;
        let boot_args = command_line::kernel(&spec.cmdline);
        machine.configure(spec.size, &boot_args, card).await?;
        Ok(machine)
    }

    async fn configure(
        &self,
        size: MachineSize,
        boot_args: &str,
        card: Option<CardRate>,
    ) -> Result<(), VmmError> {
        let api = &self.api;
        let inside = |name: &str| format!("/{name}");
        let config = MachineConfig {
            vcpu_count: size.vcpus,
            mem_size_mib: size.memory_mib,
            smt: false,
            track_dirty_pages: false,
        };
        self.asked("machine-config", api.machine_config(&config).await)
            .await?;
        let source = BootSource {
            kernel_image_path: &inside(KERNEL),
            initrd_path: &inside(INITRAMFS),
            boot_args,
        };
        self.asked("boot-source", api.boot_source(&source).await).await?;
        // In the order in which the guest is to see them.
        for (drive_id, file, is_read_only) in [(FIRST_DISK, BASE, true), (SESSION_DRIVE, PLACEHOLDER, false)]
        {
            let drive = Drive {
                drive_id,
                path_on_host: &inside(file),
                is_root_device: false,
                is_read_only,
                cache_type: "Unsafe",
            };
            self.asked("drives", api.drive(&drive).await).await?;
        }
        let vsock = Vsock {
            guest_cid: AGENT_CID,
            uds_path: &format!("/{RUN}/{AGENT}"),
        };
        self.asked("vsock", api.vsock(&vsock).await).await?;
        self.asked("entropy", api.entropy(&Entropy {}).await).await?;
        if let Some(rate) = card {
            let interface = NetworkInterface {
                iface_id: CARD_ID,
                guest_mac: &guest_mac(),
                host_dev_name: TAP,
                rx_rate_limiter: rate.into(),
                tx_rate_limiter: rate.into(),
            };
            let made = api.network_interface(&interface).await;
            self.asked("network-interfaces", made).await?;
        }
        self.asked("InstanceStart", api.act(&Action::InstanceStart).await)
            .await?;
        self.check_filters()?;
        self.running.send_replace(true);
        Ok(())
    }

    /// A process whose jail has all that a clone needs, and whose API answers.
    pub(in crate::firecracker) async fn prepare(host: &Arc<Host>, spec: CloneSpec) -> Result<Self, VmmError> {
        let writes = writes_to(spec.disk.as_ref());
        let mut plan = Plan::new(host, spec.identity, spec.size, writes, spec.network)?;
        plan.show(BASE, open(&spec.base)?.as_fd())?;
        plan.show(MEMORY, spec.memory.as_fd())?;
        plan.show(STATE, spec.state.as_fd())?;
        drop(plan.jail.writable(PLACEHOLDER, PLACEHOLDER_BYTES)?);
        if let Some(disk) = &spec.disk {
            // Opened while the state is loaded, which has its name, and what it passes, since it was attached.
            let linked = plan.jail.link(SESSION, &disk.file);
            linked.map_err(|source| VmmError::Io {
                step: "linking the session disk",
                source,
            })?;
        }
        let mut machine = plan.start(host).await?;
        machine.tracked = spec.tracked;
        machine.base = Mutex::new(spec.tracked.then_some(spec.memory));
        Ok(machine)
    }

    /// Becomes the clone, paused.
    pub(super) async fn load_snapshot(&self) -> Result<(), VmmError> {
        let load = LoadSnapshot {
            snapshot_path: &format!("/{STATE}"),
            mem_backend: MemoryBackend::File(&format!("/{MEMORY}")),
            track_dirty_pages: self.tracked,
            resume_vm: false,
        };
        self.asked("loading the snapshot", self.api.load_snapshot(&load).await)
            .await
    }

    pub(super) async fn asked<T>(
        &self,
        step: &'static str,
        answer: Result<T, ApiError>,
    ) -> Result<T, VmmError> {
        match answer {
            Ok(value) => Ok(value),
            Err(error) => Err(error.during(step, &self.process).await),
        }
    }
}
