//! A machine of the fake VMM.

use super::{
    agent,
    vmm::{DEVICES, FakeVmm, Fault, MEMORY, Seen, Step, io},
};
use async_trait::async_trait;
use omnirun_vmm::{AttachDisk, ChannelStream, DeviceState, Exit, Vm, VmmError};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{net::UnixStream, sync::watch};

/// One machine, as its agent sees it.
pub(super) struct Machine {
    pub(super) vmm: FakeVmm,
    pub(super) run_dir: PathBuf,
    pub(super) exit: watch::Sender<Option<Exit>>,
    pub(super) running: watch::Sender<bool>,
    pub(super) disk: watch::Sender<u64>,
    pub(super) seen: Mutex<Seen>,
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

    pub(super) fn die(&self, signal: Option<i32>) {
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

/// Its VMM process.
pub(super) struct FakeVm {
    pub(super) machine: Arc<Machine>,
    pub(super) pid: u32,
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
        fs::write(&to.memory, MEMORY).map_err(io("write", &to.memory))?;
        self.fault(Step::Snapshot).await?;
        fs::write(&to.state, DEVICES).map_err(io("write", &to.state))
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
