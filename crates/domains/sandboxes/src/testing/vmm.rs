//! The fake VMM.

use super::agent;
use async_trait::async_trait;
use omnirun_guest_proto::message::{Claim, Wake};
use omnirun_vmm::{
    AttachDisk, BootSpec, ChannelStream, CloneSpec, DeviceState, DiskRate, Exit, Reap, Vm, VmIdentity, Vmm,
    VmmError, VmmFacts,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{net::UnixStream, sync::watch};

/// Where something can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Step {
    Start,
    OpenMemory,
    Restore,
    Channel,
    Preface,
    Warm,
    Pause,
    Snapshot,
    Resume,
    Wake,
    Attach,
    Claim,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::OpenMemory,
        Self::Restore,
        Self::Channel,
        Self::Preface,
        Self::Warm,
        Self::Pause,
        Self::Snapshot,
        Self::Resume,
        Self::Wake,
        Self::Attach,
        Self::Claim,
    ];
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It says so.
    Error,
    /// It says so so many times, and then goes well.
    Errors(u32),
    /// It never ends.
    Hang,
    /// The VMM process ends.
    Die,
}

/// What the guest of a machine has been asked.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Wakes that succeeded.
    pub wakes: Vec<Wake>,
    /// Claims that succeeded.
    pub claims: Vec<Claim>,
    /// Processes and tools.
    pub execs: usize,
}

#[derive(Default)]
struct State {
    living: BTreeSet<PathBuf>,
    faults: BTreeMap<Step, Fault>,
    machines: Vec<Arc<Machine>>,
    started: usize,
    restored: usize,
}

/// A VMM without machines. Clones share everything, as two processes share a host.
#[derive(Clone)]
pub struct FakeVmm {
    state: Arc<Mutex<State>>,
    facts: VmmFacts,
}

impl Default for FakeVmm {
    fn default() -> Self {
        let facts = VmmFacts {
            driver: "fake",
            version: "1".into(),
            accelerator: "none",
            cpu: "none".into(),
            devices: "none",
            confinement: "none".into(),
            controllers: Vec::new(),
            disk: DiskRate::default(),
        };
        Self {
            state: Arc::default(),
            facts,
        }
    }
}

impl FakeVmm {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this step goes wrong so.
    pub fn set_fault(&self, step: Step, fault: Fault) {
        self.lock().faults.insert(step, fault);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// How many processes live.
    pub fn living(&self) -> usize {
        self.lock().living.len()
    }

    /// How many cold boots and clones there have been.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.started, state.restored)
    }

    /// What each guest has been asked, in the order in which they started.
    pub fn seen(&self) -> Vec<Seen> {
        self.lock()
            .machines
            .iter()
            .map(|m| m.seen(Clone::clone))
            .collect()
    }

    /// Kills every machine, as an operator or the kernel might.
    pub fn kill_all(&self) {
        let machines = self.lock().machines.clone();
        machines.iter().for_each(|m| m.die(Some(9)));
    }

    fn take_fault(&self, step: Step) -> Option<Fault> {
        let mut state = self.lock();
        let fault = state.faults.get_mut(&step)?;
        match fault {
            Fault::Errors(0) => return None,
            Fault::Errors(left) => *left -= 1,
            Fault::Error | Fault::Hang | Fault::Die => {}
        }
        Some(*fault)
    }

    async fn fault(&self, step: Step, program: &str) -> Result<(), VmmError> {
        // A place at which a caller can be dropped.
        tokio::task::yield_now().await;
        match self.take_fault(step) {
            None => Ok(()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Error | Fault::Errors(_)) => Err(VmmError::Refused {
                step: "it",
                reason: format!("{program}: as told"),
            }),
            Some(Fault::Die) => Err(VmmError::Gone {
                step: "it",
                tail: "as told".into(),
            }),
        }
    }

    fn launch(&self, identity: &VmIdentity, running: bool) -> FakeVm {
        static PID: AtomicU32 = AtomicU32::new(1 << 30);
        let machine = Arc::new(Machine {
            vmm: self.clone(),
            run_dir: identity.run_dir.clone(),
            exit: watch::Sender::new(None),
            running: watch::Sender::new(running),
            disk: watch::Sender::new(0),
            seen: Mutex::default(),
        });
        let mut state = self.lock();
        state.living.insert(identity.run_dir.clone());
        state.machines.push(machine.clone());
        FakeVm {
            machine,
            pid: PID.fetch_add(1, Ordering::Relaxed),
        }
    }
}

#[async_trait]
impl Vmm for FakeVmm {
    fn facts(&self) -> &VmmFacts {
        &self.facts
    }

    async fn start(&self, spec: BootSpec) -> Result<Box<dyn Vm>, VmmError> {
        let vm = self.launch(&spec.identity, true);
        self.fault(Step::Start, "start").await?;
        self.lock().started += 1;
        Ok(Box::new(vm))
    }

    async fn open_memory(&self, memory: &Path) -> Result<Arc<OwnedFd>, VmmError> {
        self.fault(Step::OpenMemory, "memory").await?;
        open(memory)
    }

    async fn restore(&self, spec: CloneSpec) -> Result<Box<dyn Vm>, VmmError> {
        // The process is there before it has loaded anything.
        let vm = self.launch(&spec.identity, false);
        fs::write(spec.identity.run_dir.join("qmp.sock"), "").map_err(io("write", &spec.identity.run_dir))?;
        self.fault(Step::Restore, "restore").await?;
        self.lock().restored += 1;
        Ok(Box::new(vm))
    }
}

#[async_trait]
impl Reap for FakeVmm {
    async fn reap(&self, identity: &VmIdentity) -> Result<Vec<String>, VmmError> {
        let was = self.lock().living.remove(&identity.run_dir);
        Ok(if was {
            vec!["process of the fake".to_owned()]
        } else {
            Vec::new()
        })
    }
}

fn io<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> VmmError + 'a {
    move |source| VmmError::File {
        step,
        path: path.to_owned(),
        source,
    }
}

fn open(path: &Path) -> Result<Arc<OwnedFd>, VmmError> {
    Ok(Arc::new(File::open(path).map_err(io("open", path))?.into()))
}

/// One machine, as its agent sees it.
pub(super) struct Machine {
    vmm: FakeVmm,
    run_dir: PathBuf,
    exit: watch::Sender<Option<Exit>>,
    running: watch::Sender<bool>,
    disk: watch::Sender<u64>,
    seen: Mutex<Seen>,
}

impl Machine {
    pub(super) async fn fault(&self, step: Step) -> Result<(), Fault> {
        tokio::task::yield_now().await;
        match self.vmm.take_fault(step) {
            None => Ok(()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Error | Fault::Errors(_)) => Err(Fault::Error),
            Some(Fault::Die) => {
                self.die(None);
                Err(Fault::Die)
            }
        }
    }

    pub(super) async fn running(&self) {
        let _ = self.running.subscribe().wait_for(|r| *r).await;
    }

    pub(super) async fn disk_of(&self, bytes: u64) {
        let _ = self.disk.subscribe().wait_for(|b| *b == bytes).await;
    }

    pub(super) fn note(&self, f: impl FnOnce(&mut Seen)) {
        f(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn seen<T>(&self, f: impl FnOnce(&Seen) -> T) -> T {
        f(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn die(&self, signal: Option<i32>) {
        self.vmm.lock().living.remove(&self.run_dir);
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            let code = if signal.is_none() { Some(0) } else { None };
            exit.get_or_insert_with(|| Exit {
                code,
                signal,
                stderr_tail: String::new(),
            });
            first
        });
    }
}

struct FakeVm {
    machine: Arc<Machine>,
    pid: u32,
}

impl FakeVm {
    async fn fault(&self, step: Step) -> Result<(), VmmError> {
        match self.machine.fault(step).await {
            Ok(()) => Ok(()),
            Err(_) => Err(VmmError::Refused {
                step: "it",
                reason: "as told".into(),
            }),
        }
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.machine.die(Some(9));
    }
}

#[async_trait]
impl Vm for FakeVm {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn channel(&self) -> Result<ChannelStream, VmmError> {
        self.fault(Step::Channel).await?;
        let (ours, theirs) = UnixStream::pair().map_err(io("pair", Path::new("socket")))?;
        let machine = self.machine.clone();
        // The guest lives as long as its machine.
        tokio::spawn(async move {
            let mut exit = machine.exit.subscribe();
            tokio::select! {
                () = agent::serve(machine.clone(), theirs) => {}
                _ = exit.wait_for(Option::is_some) => {}
            }
        });
        Ok(ours)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.fault(Step::Pause).await?;
        self.machine.running.send_replace(false);
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.fault(Step::Resume).await?;
        self.machine.running.send_replace(true);
        Ok(())
    }

    async fn snapshot(&self, to: &DeviceState) -> Result<(), VmmError> {
        fs::write(&to.memory, vec![1; 100_000]).map_err(io("write", &to.memory))?;
        self.fault(Step::Snapshot).await?;
        fs::write(&to.state, "devices").map_err(io("write", &to.state))
    }

    async fn attach_disk(&self, disk: AttachDisk) -> Result<(), VmmError> {
        self.fault(Step::Attach).await?;
        self.machine.disk.send_replace(disk.bytes);
        Ok(())
    }

    fn kill(&self) {
        self.machine.die(Some(9));
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.machine.exit.subscribe();
        let seen = exit.wait_for(Option::is_some).await.ok().and_then(|e| e.clone());
        seen.unwrap_or(Exit {
            code: None,
            signal: None,
            stderr_tail: String::new(),
        })
    }

    fn memory(&self) -> Result<(u64, u64), VmmError> {
        Ok((40 << 20, 20 << 20))
    }

    fn console_tail(&self) -> String {
        "the console".into()
    }

    fn run_dir(&self) -> &Path {
        &self.machine.run_dir
    }
}
