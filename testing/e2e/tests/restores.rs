//! The channel to a guest while its machine is paused, saved and restored in the middle of traffic: what was said goes on
//! where the machine goes on, and a clone answers whoever dials it anew.
//!
//! Below the engine, which saves only machines that are quiet. (Firecracker's vsock has been dead after restores with
//! traffic in flight, and has lost wake-ups over a pause: firecracker#5969, firecracker#6100.)

use omnirun_e2e::{driver, private_data};
use omnirun_guest_client::{
    ClientError, ExecEvent, GuestClient,
    message::{Claim, Exec, Wake},
};
use omnirun_ids::{ByteSize, SandboxId};
use omnirun_images::{Image, ImageStore};
use omnirun_vmm::{AttachDisk, BootSpec, CloneSpec, DeviceState, MachineSize, Vm, VmIdentity, Vmm, VmmError};
use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const SIZE: MachineSize = MachineSize {
    vcpus: 1,
    memory_mib: 256,
};
/// A cold boot, under load.
const BOOT: Duration = Duration::from_secs(300);
/// Anything else that a guest is asked.
const ANSWER: Duration = Duration::from_secs(60);
/// How often a clone is dialled, as the engine does: the reset after its restore may take a connection along.
const DIALS: u32 = 3;
/// Requests that are under way at any time: more, and a slow guest has time for nothing else.
const AT_ONCE: usize = 12;

/// How often. `OMNIRUN_SOAK=1` is a thousand times, another number is itself.
fn rounds() -> u32 {
    match std::env::var("OMNIRUN_SOAK") {
        Ok(number) => number.parse().ok().filter(|n| *n > 1).unwrap_or(1000),
        Err(_) => 5,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_a_machine_that_was_saved_amid_traffic_answer() {
    let lab = Lab::new().await;
    let (vm, guest) = lab.boot().await;
    let traffic = Traffic::start(&guest);
    traffic.flows(100).await;
    vm.pause().await.expect("it pauses");
    let to = DeviceState {
        memory: lab.path("memory"),
        state: lab.path("state"),
    };
    vm.snapshot(&to).await.expect("it is saved");
    // It can go on as well.
    vm.resume().await.expect("it resumes");
    let (guest, traffic) = lab.goes_on(&*vm, guest, traffic).await;
    vm.kill();
    vm.wait().await;
    traffic.ends_with_the_connection().await;
    drop(guest);

    let memory = lab.vmm.open_memory(&to.memory).await.expect("the memory opens");
    let (mut slowest, mut redialled) = (Duration::ZERO, 0);
    for round in 0..rounds() {
        let begun = Instant::now();
        let spec = CloneSpec {
            identity: lab.identity(),
            base: lab.image.base.clone(),
            size: SIZE,
            network: None,
            memory: Arc::clone(&memory),
            state: Arc::new(File::open(&to.state).expect("the state").into()),
            disk: None,
            tracked: false,
        };
        let run_dir = spec.identity.run_dir.clone();
        let clone = lab.vmm.restore(spec).await.expect("a clone");
        let resume = async { clone.resume().await.expect("it resumes") };
        let ((guest, dials), ()) = tokio::join!(dial(&*clone), resume);
        let pong = bounded("a clone's ping", guest.ping()).await.expect("it answers");
        assert_eq!(pong.boot_id, "", "it was not awake");
        lab.claim(&*clone, &guest).await;
        let out = output(&guest, "echo round $((6 * 7))").await;
        assert_eq!(out, b"round 42\n", "round {round}");
        slowest = slowest.max(begun.elapsed());
        redialled += dials - 1;
        drop(guest);
        clone.kill();
        clone.wait().await;
        fs::remove_dir_all(run_dir).expect("nothing is mounted in it");
    }
    eprintln!(
        "{} restores: the slowest took {slowest:?}, {redialled} were dialled again",
        rounds()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_paused_amid_traffic_goes_on() {
    let lab = Lab::new().await;
    let (vm, mut guest) = lab.boot().await;
    lab.claim(&*vm, &guest).await;
    let mut traffic = Traffic::start(&guest);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds() {
        // Bytes both ways, which have to come back as they went, beside many small requests.
        let echoed = Arc::new(AtomicU64::new(0));
        let echo = tokio::spawn(echo(guest.clone(), Arc::clone(&echoed)));
        passes("what is echoed", &echoed, 1000).await;
        traffic.flows(20).await;
        vm.pause().await.expect("it pauses");
        let begun = Instant::now();
        vm.resume().await.expect("it resumes");
        (guest, traffic) = lab.goes_on(&*vm, guest, traffic).await;
        slowest = slowest.max(begun.elapsed());
        if lab.keeps_connections() {
            passes("what is echoed", &echoed, 1000).await;
            echo.abort();
        } else {
            bounded("the echo's end", echo)
                .await
                .expect("what came back is what went");
        }
        assert_eq!(output(&guest, "echo fine").await, b"fine\n");
    }
    eprintln!(
        "{} pauses: the slowest took {slowest:?} until it went on",
        rounds()
    );

    let (second, dials) = dial(&*vm).await;
    assert_eq!(dials, 1);
    assert_eq!(output(&second, "echo the new one").await, b"the new one\n");
    bounded("the old connection's end", guest.closed()).await;
    traffic.ends_with_the_connection().await;
    vm.kill();
    vm.wait().await;
}

/// Sends a stream through `cat` until the connection ends, and compares what comes back, in words.
async fn echo(guest: GuestClient, echoed: Arc<AtomicU64>) {
    let exec = Exec {
        argv: vec![b"cat".to_vec()],
        stdin: true,
        ..Exec::default()
    };
    let mut cat = guest.exec(exec).await.expect("it is asked");
    let mut input = cat.stdin().expect("its input");
    // Not the reader's: it holds the connection open no longer than the other side does.
    drop(guest);
    let writer = tokio::spawn(async move {
        let mut next = 0u64;
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            for _ in 0..4096 {
                chunk.extend_from_slice(&next.to_le_bytes());
                next += 1;
            }
            if !matches!(input.write(&chunk).await, Ok(true)) {
                return;
            }
        }
    });
    let (mut seen, mut rest) = (0u64, Vec::new());
    while let Some(event) = cat.next().await {
        let ExecEvent::Stdout(bytes) = event else {
            panic!("{event:?}")
        };
        rest.extend_from_slice(&bytes);
        let whole = rest.len() / 8 * 8;
        for word in rest.drain(..whole).as_slice().chunks_exact(8) {
            assert_eq!(word, seen.to_le_bytes(), "after {seen} words");
            seen += 1;
        }
        echoed.store(seen, Ordering::Relaxed);
    }
    writer.abort();
}

/// Waits until a count has grown by so much.
async fn passes(what: &str, count: &AtomicU64, more: u64) {
    let until = count.load(Ordering::Relaxed) + more;
    bounded(what, async {
        while count.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Requests that are asked without pause, some of them large.
struct Traffic {
    answered: Arc<AtomicU64>,
    askers: JoinSet<ClientError>,
}

impl Traffic {
    fn start(guest: &GuestClient) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let mut askers = JoinSet::new();
        for number in 0..AT_ONCE {
            let (guest, answered) = (guest.clone(), Arc::clone(&answered));
            askers.spawn(async move {
                loop {
                    let asked = match number % 4 {
                        // Before a claim it is refused, after it fails; either is an answer.
                        0 => guest.stat(vec![b'/'; 4096]).await.map(drop),
                        _ => guest.ping().await.map(drop),
                    };
                    match asked {
                        Ok(()) | Err(ClientError::Guest { .. }) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return error,
                    };
                }
            });
        }
        Self { answered, askers }
    }

    /// Waits for so many more answers.
    async fn flows(&self, more: u64) {
        passes("requests", &self.answered, more).await;
    }

    async fn ends_with_the_connection(mut self) {
        while let Some(ended) = bounded("the traffic's end", self.askers.join_next()).await {
            let error = ended.expect("no panic");
            assert!(matches!(error, ClientError::Closed), "{error:?}");
        }
    }
}

/// Dials a machine, and says how often that took.
async fn dial(vm: &dyn Vm) -> (GuestClient, u32) {
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

async fn bounded<T>(what: &str, doing: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(ANSWER, doing).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {ANSWER:?}"))
}

/// What a shell line says.
async fn output(guest: &GuestClient, line: &str) -> Vec<u8> {
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
        assert_eq!(exec.wait().await.expect("it ends").code, Some(0));
        said
    })
    .await
}

/// A driver, an image, and a folder for machines.
struct Lab {
    vmm: Arc<dyn Vmm>,
    image: Image,
    disk: PathBuf,
    folder: TempDir,
}

impl Lab {
    async fn new() -> Self {
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
        .expect("a lab");
        Self {
            vmm: driver().await,
            image,
            disk,
            folder,
        }
    }

    /// Whether a connection outlives a pause. Firecracker has its guest reset all of them.
    fn keeps_connections(&self) -> bool {
        self.vmm.facts().driver == "qemu"
    }

    /// What is asked is answered again after a resume: on the same connection, or on a new one where that has ended.
    async fn goes_on(&self, vm: &dyn Vm, guest: GuestClient, traffic: Traffic) -> (GuestClient, Traffic) {
        let (guest, traffic) = match self.keeps_connections() {
            true => (guest, traffic),
            false => {
                traffic.ends_with_the_connection().await;
                let (guest, _) = dial(vm).await;
                let traffic = Traffic::start(&guest);
                (guest, traffic)
            }
        };
        traffic.flows(100).await;
        (guest, traffic)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("vms").join(name)
    }

    fn identity(&self) -> VmIdentity {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sbx_restores_{}_{number}", std::process::id());
        let sandbox: SandboxId = name.parse().expect("an id");
        let run_dir = self.path(sandbox.as_str());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&run_dir)
            .expect("a run folder");
        VmIdentity { sandbox, run_dir }
    }

    async fn boot(&self) -> (Box<dyn Vm>, GuestClient) {
        let spec = BootSpec {
            identity: self.identity(),
            kernel: self.image.kernel.clone(),
            vmlinux: self.image.vmlinux.clone(),
            initramfs: self.image.initramfs.clone(),
            cmdline: String::new(),
            base: self.image.base.clone(),
            size: SIZE,
            network: None,
        };
        let vm = self.vmm.start(spec).await.expect("it boots");
        let stream = vm.channel().await;
        let stream = stream.unwrap_or_else(|e| panic!("{e}: {}", vm.console_tail()));
        let guest = GuestClient::connect(stream, BOOT)
            .await
            .unwrap_or_else(|e| panic!("{e}: {}", vm.console_tail()));
        (vm, guest)
    }

    /// Wakes a machine, and gives it a session disk.
    async fn claim(&self, vm: &dyn Vm, guest: &GuestClient) {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock");
        let realtime_ns = u64::try_from(since.as_nanos()).expect("a time");
        let wake = Wake {
            entropy: vec![7; 64],
            realtime_ns,
            hostname: "restores".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        };
        bounded("waking", guest.wake(wake)).await.expect("it wakes");
        let disk = tempfile::tempfile_in(self.path("")).expect("a disk");
        omnirun_images::copy_sparse_into(&self.disk, &disk, &self.path("disk")).expect("copied");
        let bytes = disk.metadata().expect("its size").len();
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
    }
}
