//! From a sandbox that is somebody's to files, and how one goes on from them.

use super::{
    CloneTask, Stop,
    calls::{realtime_ns, save},
    random,
};
use crate::{EngineError, snapshot::SnapshotKey};
use omnirun_guest_client::{GuestClient, message::Wake};
use omnirun_vm_machine::{Admission, Event, Request, Why};
use omnirun_vmm::DeviceState;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// A folder that goes when this does.
#[derive(Debug)]
pub(crate) struct Going(pub(crate) PathBuf);

impl Drop for Going {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Files of a sandbox whose VM is about to end, in a folder of the owner's.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) folder: Going,
    pub(crate) key: SnapshotKey,
}

/// What a sandbox needs that goes on: it keeps its names.
pub(super) fn wake_again() -> Result<Wake, EngineError> {
    let entropy: [u8; 64] = random()?;
    Ok(Wake {
        entropy: entropy.to_vec(),
        realtime_ns: realtime_ns(),
        ..Wake::default()
    })
}

impl CloneTask {
    /// The sandbox goes on as what it was.
    pub(super) fn gone_on(&mut self, purpose: String) {
        self.owned.apply(Event::Woken);
        self.owned.apply(Event::ClaimBegun { purpose });
        self.owned.apply(Event::ClaimDone);
    }

    /// Writes the machine into a folder in `tmp/` that is removed should we die. It ends then, whatever came of it.
    pub(super) async fn suspend(&mut self, guest: GuestClient) -> (Why, Result<Written, EngineError>) {
        let id = self.owned.identity.sandbox.clone();
        let context = self.owned.context.clone();
        let name = format!("memory-{id}.{}", context.owner);
        let folder = Going(context.data.tmp().join(name));
        let written = match self.owned.machine().admit(Request::Snapshot) {
            Admission::Accept => self.write(guest, &folder.0).await,
            Admission::AlreadySo => Err(Stop {
                why: Why::Released,
                error: EngineError::ShuttingDown,
            }),
            Admission::Denied(source) => Err(Stop {
                why: Why::Released,
                error: EngineError::Denied { sandbox: id, source },
            }),
        };
        match written {
            Ok(()) => {
                let key = self.template.key.clone();
                (Why::Snapshotted, Ok(Written { folder, key }))
            }
            Err(stop) => (stop.why, Err(stop.error)),
        }
    }

    async fn write(&mut self, guest: GuestClient, folder: &Path) -> Result<(), Stop> {
        let id = self.owned.identity.sandbox.clone();
        let vm = self.owned.vm().cloned();
        let to = DeviceState {
            memory: folder.join("memory"),
            state: folder.join("state"),
        };
        let step = async {
            let made = fs::DirBuilder::new().mode(0o700).create(folder);
            made.map_err(|source| EngineError::File {
                sandbox: id.clone(),
                step: format!("create {}", folder.display()),
                source,
            })?;
            let vm = vm.ok_or(EngineError::ShuttingDown)?;
            save(&id, &*vm, guest, &to, "write its memory").await
        };
        self.owned.step(step).await
    }
}
