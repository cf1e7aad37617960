//! The fake VMM.

use super::machine::{FakeVm, Machine};
use async_trait::async_trait;
use omnirun_guest_proto::message::{Claim, Wake};
use omnirun_vmm::{
    BootSpec, CloneSpec, DiskRate, Exit, Prepared, Reap, Vm, VmIdentity, Vmm, VmmError, VmmFacts,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::watch;

/// What a snapshot of the fake's is made of.
pub(super) const MEMORY: &[u8] = &[1; 100_000];
pub(super) const DEVICES: &[u8] = b"devices";

/// Where something can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Step {
    Start,
    OpenMemory,
    Prepare,
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
    pub const ALL: [Self; 13] = [
        Self::Start,
        Self::OpenMemory,
        Self::Prepare,
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
    /// Inode of the memory that it is a clone of.
    pub memory: Option<u64>,
    /// Whether it had its disk before, and so was somebody's when its snapshot was taken.
    pub goes_on: bool,
}

impl Seen {
    /// Whether it was somebody's before it was suspended, and has been woken since.
    pub(super) fn is_ready(&self) -> bool {
        self.goes_on && !self.wakes.is_empty()
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) living: BTreeSet<PathBuf>,
    pub(super) faults: BTreeMap<Step, Fault>,
    machines: Vec<Arc<Machine>>,
    started: usize,
    restored: usize,
    damaged: usize,
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
            card: "card",
            confinement: "none".into(),
            controllers: Vec::new(),
            disk: DiskRate::default(),
            card_rate: None,
        };
        Self {
            state: Arc::default(),
            facts,
        }
    }
}

impl FakeVmm {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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

    /// How many clones there have been of other bytes than a snapshot was made of.
    pub fn damaged(&self) -> usize {
        self.lock().damaged
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

    pub(super) fn take_fault(&self, step: Step) -> Option<Fault> {
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

    async fn prepare(&self, spec: CloneSpec) -> Result<Box<dyn Prepared>, VmmError> {
        // The process is there before it has loaded anything.
        let vm = self.launch(&spec.identity, false);
        fs::write(spec.identity.run_dir.join("qmp.sock"), "").map_err(io("write", &spec.identity.run_dir))?;
        self.fault(Step::Prepare, "prepare").await?;
        Ok(Box::new(FakePrepared { vm, spec }))
    }
}

/// A process that has loaded nothing.
struct FakePrepared {
    vm: FakeVm,
    spec: CloneSpec,
}

#[async_trait]
impl Prepared for FakePrepared {
    async fn exited(&self) -> Exit {
        self.vm.wait().await
    }

    async fn load(self: Box<Self>) -> Result<Box<dyn Vm>, VmmError> {
        let Self { vm, spec } = *self;
        let vmm = &vm.machine.vmm;
        vmm.fault(Step::Restore, "restore").await?;
        let given = [contents(&spec.memory)?, contents(&spec.state)?];
        if given != [MEMORY.to_vec(), DEVICES.to_vec()] {
            vmm.lock().damaged += 1;
        }
        let memory = rustix::fs::fstat(&spec.memory)
            .map_err(|e| io("look at", Path::new("the memory"))(e.into()))?
            .st_ino;
        vm.machine.note(|seen| seen.memory = Some(memory));
        if let Some(disk) = spec.disk {
            vm.machine.note(|seen| seen.goes_on = true);
            vm.machine.disk.send_replace(disk.bytes);
        }
        vmm.lock().restored += 1;
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

pub(super) fn io<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> VmmError + 'a {
    move |source| VmmError::File {
        step,
        path: path.to_owned(),
        source,
    }
}

fn open(path: &Path) -> Result<Arc<OwnedFd>, VmmError> {
    Ok(Arc::new(File::open(path).map_err(io("open", path))?.into()))
}

/// The whole of a file that was opened for reading, wherever its position is.
fn contents(file: &OwnedFd) -> Result<Vec<u8>, VmmError> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    fs::read(&path).map_err(io("read", &path))
}
