//! Machines below the engine: what a test of a driver with real guests needs.

#![allow(clippy::unwrap_used)] // helpers of tests

use crate::{driver, private_data};
use omnirun_guest_client::{
    ClientError, ExecEvent, GuestClient,
    message::{Claim, Exec, Wake},
};
use omnirun_ids::{ByteSize, SandboxId};
use omnirun_images::{Image, ImageStore};
use omnirun_vmm::{
    AttachDisk, BootSpec, CloneSpec, DeviceState, MachineSize, Nic, Vm, VmIdentity, Vmm, VmmError,
};
use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

/// Of every machine.
pub const SIZE: MachineSize = MachineSize {
    vcpus: 1,
    memory_mib: 256,
};
/// A cold boot, under load.
const BOOT: Duration = Duration::from_secs(300);
/// Anything else that a guest is asked.
const ANSWER: Duration = Duration::from_secs(60);
/// How often a clone is dialled, as the engine does: the reset after its restore may take a connection along.
const DIALS: u32 = 3;

/// A snapshot's memory and state, opened.
pub type Files = (Arc<OwnedFd>, Arc<OwnedFd>);

/// A driver, an image, and a folder for machines.
pub struct Machines {
    /// The driver that the environment names.
    pub vmm: Arc<dyn Vmm>,
    image: Image,
    disk: PathBuf,
    folder: TempDir,
}

impl Machines {
    /// None yet.
    pub async fn new() -> Self {
        let (folder, image, disk) = tokio::task::spawn_blocking(|| {
            let folder = private_data();
            let images = ImageStore::open(folder.path()).expect("images");
            let image = images.get(&"default".parse().expect("a name")).expect("an image");
            let disk = images.session_disk_template(ByteSize::mib(512)).expect("a disk");
            fs::DirBuilder::new()
                .mode(0o700)
                .create(folder.path().join("vms"))
                .expect("a folder");
            (folder, image, disk)
        })
        .await
        .expect("a folder with an image");
        Self {
            vmm: driver().await,
            image,
            disk,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("vms").join(name)
    }

    fn identity(&self) -> VmIdentity {
        let name = format!("sbx_machines_{}_{}", std::process::id(), fresh());
        let sandbox: SandboxId = name.parse().expect("an id");
        let run_dir = self.path(sandbox.as_str());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&run_dir)
            .expect("a run folder");
        VmIdentity { sandbox, run_dir }
    }

    /// Boots one, and waits for its agent.
    pub async fn boot(&self, network: Option<Nic>) -> (Box<dyn Vm>, GuestClient) {
        let spec = BootSpec {
            identity: self.identity(),
            kernel: self.image.kernel.clone(),
            vmlinux: self.image.vmlinux.clone(),
            initramfs: self.image.initramfs.clone(),
            cmdline: String::new(),
            base: self.image.base.clone(),
            size: SIZE,
            network,
        };
        let vm = self.vmm.start(spec).await.expect("it boots");
        let stream = vm.channel().await;
        let stream = stream.unwrap_or_else(|e| panic!("{e}: {}", vm.console_tail()));
        let guest = GuestClient::connect(stream, BOOT)
            .await
            .unwrap_or_else(|e| panic!("{e}: {}", vm.console_tail()));
        (vm, guest)
    }

    /// Pauses it and takes its snapshot.
    pub async fn save(&self, vm: &dyn Vm) -> Files {
        vm.pause().await.expect("it pauses");
        let number = fresh();
        let to = DeviceState {
            memory: self.path(&format!("memory_{number}")),
            state: self.path(&format!("state_{number}")),
        };
        vm.snapshot(&to).await.expect("it is saved");
        let memory = self.vmm.open_memory(&to.memory).await.expect("the memory opens");
        (memory, Arc::new(File::open(&to.state).expect("the state").into()))
    }

    /// A clone of a snapshot, to be restored.
    pub fn clone_of(&self, (memory, state): &Files, network: Option<Nic>) -> CloneSpec {
        CloneSpec {
            identity: self.identity(),
            base: self.image.base.clone(),
            size: SIZE,
            network,
            memory: Arc::clone(memory),
            state: Arc::clone(state),
            disk: None,
            tracked: false,
        }
    }

    /// Restores a clone and dials its agent; how often that took.
    pub async fn restore(&self, spec: CloneSpec) -> (Box<dyn Vm>, GuestClient, u32) {
        let clone = self.vmm.restore(spec).await.expect("a clone");
        let resume = async { clone.resume().await.expect("it resumes") };
        let ((guest, dials), ()) = tokio::join!(dial(&*clone), resume);
        (clone, guest, dials)
    }

    /// Wakes a machine, and gives it a session disk. That is returned as well, for a machine that goes on with it.
    pub async fn claim(&self, vm: &dyn Vm, guest: &GuestClient) -> AttachDisk {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock");
        let realtime_ns = u64::try_from(since.as_nanos()).expect("a time");
        let wake = Wake {
            entropy: vec![7; 64],
            realtime_ns,
            hostname: "machines".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        };
        bounded("waking", guest.wake(wake)).await.expect("it wakes");
        // With a name: a file that has lost its last one gets no other.
        let path = self.path(&format!("disk_{}", fresh()));
        let disk = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let disk = disk.expect("a disk");
        omnirun_images::copy_sparse_into(&self.disk, &disk, &path).expect("copied");
        let bytes = disk.metadata().expect("its size").len();
        let again = AttachDisk {
            file: disk.try_clone().expect("a descriptor").into(),
            bytes,
        };
        let claim = Claim {
            realtime_ns,
            disk_bytes: bytes,
            user: self.image.template.user.clone(),
            ..Claim::default()
        };
        let attach = async {
            let file = OwnedFd::from(disk);
            let attached: Result<(), VmmError> = vm.attach_disk(AttachDisk { file, bytes }).await;
            attached.expect("attached");
        };
        let (claimed, ()) = bounded("claiming", async { tokio::join!(guest.claim(claim), attach) }).await;
        claimed.expect("claimed");
        again
    }
}

fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Ends a machine.
pub async fn end(vm: Box<dyn Vm>) {
    let run_dir = vm.run_dir().to_owned();
    vm.kill();
    vm.wait().await;
    drop(vm);
    fs::remove_dir_all(run_dir).expect("nothing is mounted in it");
}

/// Dials a machine, and says how often that took.
pub async fn dial(vm: &dyn Vm) -> (GuestClient, u32) {
    let mut dials = 1;
    loop {
        let stream = bounded("dialling", vm.channel()).await.expect("a channel");
        match GuestClient::connect(stream, ANSWER).await {
            Err(ClientError::Closed) if dials < DIALS => dials += 1,
            answer => {
                let guest = answer.unwrap_or_else(|e| panic!("{e}: {}", vm.console_tail()));
                return (guest, dials);
            }
        }
    }
}

/// What a shell line says; it has to succeed.
pub async fn output(guest: &GuestClient, line: &str) -> Vec<u8> {
    let exec = Exec {
        argv: vec![line.into()],
        shell: true,
        ..Exec::default()
    };
    bounded(line, async {
        let mut exec = guest.exec(exec).await.expect("it is asked");
        let mut said = Vec::new();
        while let Some(event) = exec.next().await {
            match event {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => said.extend_from_slice(&bytes),
            }
        }
        let code = exec.wait().await.expect("it ends").code;
        assert_eq!(code, Some(0), "{line}: {}", crate::text(&said));
        said
    })
    .await
}

/// Waits for what a guest does, and not for ever.
pub async fn bounded<T>(what: &str, doing: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(ANSWER, doing).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {ANSWER:?}"))
}
