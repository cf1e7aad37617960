//! A guest of a few bytes, so that the driver is tested with a real QEMU and without a kernel to build or download.
//!
//! It is a boot-protocol "kernel" whose real-mode part writes to the serial port: `B` once, then `.` for ever. So the
//! console shows whether it was booted (`B`) or restored (only `.`), and whether it runs at all. As an ELF file the same
//! instructions mean the same in 64 bits.

use omnirun_ids::SandboxId;
use omnirun_vmm::{AttachDisk, BootSpec, CloneSpec, DeviceState, MachineSize, Vm, VmIdentity, Vmm, VmmError};
use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Memory of the tiny machines.
pub const SIZE: MachineSize = MachineSize {
    vcpus: 1,
    memory_mib: 32,
};

/// A kernel image in the Linux boot protocol with nothing but a real-mode part.
fn kernel() -> Vec<u8> {
    let mut image = vec![0u8; 1024 + 512];
    let code: &[u8] = &[
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, b'B', 0xee, // mov al, 'B'; out dx, al
        0xb0, b'.', 0xee, // 1: mov al, '.'; out dx, al
        0xb9, 0xff, 0xff, // mov cx, 0xffff
        0xe2, 0xfe, // 2: loop 2b
        0xeb, 0xf6, // jmp 1b
    ];
    image[0x1f1] = 1; // setup sectors
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x7e]); // jmp 0x280
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x0206u16.to_le_bytes());
    image[0x211] = 1; // loaded high
    image[0x22c..0x230].copy_from_slice(&0x37ff_ffffu32.to_le_bytes()); // highest address of the initramfs
    image[0x238..0x23c].copy_from_slice(&255u32.to_le_bytes()); // length of the command line
    image[0x280..0x280 + code.len()].copy_from_slice(code);
    image
}

/// The same for 64 bits.
const ENDLESS: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'B', 0xee, // mov al, 'B'; out dx, al
    0xb0, b'.', 0xee, // 1: mov al, '.'; out dx, al
    0xb9, 0xff, 0x0f, 0x00, 0x00, // mov ecx, 0xfff
    0xe2, 0xfe, // 2: loop 2b
    0xeb, 0xf4, // jmp 1b
];

/// An ELF file of 64-bit code, with one segment at 1 MiB, where it is entered.
pub fn elf(code: &[u8]) -> Vec<u8> {
    const ENTRY: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 56;
    let mut image = Vec::new();
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    image.extend([2u16, 62].iter().flat_map(|n| n.to_le_bytes())); // an executable for x86-64
    image.extend(1u32.to_le_bytes());
    image.extend([ENTRY, 64, 0].iter().flat_map(|n| n.to_le_bytes())); // entry, segments, no sections
    image.extend(0u32.to_le_bytes());
    image.extend([64u16, 56, 1, 64, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    image.extend([1u32, 5].iter().flat_map(|n| n.to_le_bytes())); // to be loaded, read and run
    let size = code.len() as u64;
    let segment = [HEADERS, ENTRY, ENTRY, size, size, 4096];
    image.extend(segment.iter().flat_map(|n| n.to_le_bytes()));
    image.extend(code);
    image
}

/// A folder with the files of tiny machines.
pub struct Bench {
    /// It.
    pub dir: tempfile::TempDir,
}

impl Bench {
    /// Makes it.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("kernel"), kernel()).expect("the kernel");
        fs::write(dir.path().join("vmlinux"), elf(ENDLESS)).expect("the ELF kernel");
        fs::write(dir.path().join("initramfs"), [0u8; 512]).expect("the initramfs");
        fs::write(dir.path().join("base"), [7u8; 4096]).expect("the base");
        Self { dir }
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new sandbox's identity. Ids are unique over all tests that run at the same time.
    pub fn identity(&self, name: &str) -> VmIdentity {
        let unique = format!("{name}_{}_{}", std::process::id(), fresh());
        let sandbox: SandboxId = unique.parse().expect("an id");
        let run_dir = self.path(sandbox.as_str());
        fs::create_dir(&run_dir).expect("the run folder");
        VmIdentity { sandbox, run_dir }
    }

    /// A cold boot.
    pub fn boot(&self, identity: VmIdentity) -> BootSpec {
        BootSpec {
            identity,
            kernel: self.path("kernel"),
            vmlinux: self.path("vmlinux"),
            initramfs: self.path("initramfs"),
            cmdline: String::new(),
            base: self.path("base"),
            size: SIZE,
            network: None,
        }
    }

    /// A clone of a snapshot.
    pub fn clone_of(&self, (memory, state): &Files) -> CloneSpec {
        CloneSpec {
            identity: self.identity("clone"),
            base: self.path("base"),
            size: SIZE,
            network: None,
            memory: Arc::clone(memory),
            state: Arc::clone(state),
            disk: None,
            tracked: false,
        }
    }
}

/// A snapshot's memory and state, opened.
pub type Files = (Arc<OwnedFd>, Arc<OwnedFd>);

/// Boots the guest.
pub async fn booted(bench: &Bench, vmm: &dyn Vmm) -> Box<dyn Vm> {
    let spec = bench.boot(bench.identity("boot"));
    vmm.start(spec).await.expect("it boots")
}

/// That a second disk is refused: a session disk is attached once.
pub async fn refuses_another_disk(bench: &Bench, vm: &dyn Vm, bytes: u64) {
    let file = tempfile::tempfile_in(bench.dir.path()).expect("a disk").into();
    let refused = vm.attach_disk(AttachDisk { file, bytes }).await;
    assert!(matches!(refused, Err(VmmError::Refused { .. })), "{refused:?}");
}

/// Boots the guest, waits until it runs, and takes its snapshot, into the files `memory` and `state`.
pub async fn snapshot(bench: &Bench, vmm: &dyn Vmm) -> Files {
    let vm = booted(bench, vmm).await;
    until("the guest has booted", || vm.console_tail().contains("B.")).await;
    vm.pause().await.expect("it pauses");
    let to = DeviceState {
        memory: bench.path("memory"),
        state: bench.path("state"),
    };
    vm.snapshot(&to).await.expect("it is snapshot");
    assert_eq!(
        fs::metadata(&to.memory).expect("the memory").len(),
        SIZE.memory_mib << 20
    );
    vm.kill();
    vm.wait().await;
    let memory = vmm.open_memory(&to.memory).await.expect("the memory opens");
    (memory, Arc::new(File::open(&to.state).expect("the state").into()))
}

/// A clone with a session disk is snapshot and ended, and goes on from there with the disk in place, as often as one
/// likes; also when what it was first cloned from is not there any more.
pub async fn goes_on_with_its_disk(bench: &Bench, vmm: &dyn Vmm, files: Files, tracked: bool) {
    let (name, bytes) = (format!("disk_{}", fresh()), 64 << 20);
    let open = || {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(bench.path(&name)).expect("the disk");
        file.set_len(bytes).expect("sized");
        AttachDisk {
            file: file.into(),
            bytes,
        }
    };
    let spec = CloneSpec {
        tracked,
        ..bench.clone_of(&files)
    };
    drop(files);
    let mut vm = vmm.restore(spec).await.expect("a clone");
    vm.attach_disk(open()).await.expect("it is attached");
    for round in 0..3 {
        vm.resume().await.expect("it resumes");
        until("it runs", || vm.console_tail().contains("...")).await;
        assert!(
            !vm.console_tail().contains('B'),
            "round {round}: it was booted again"
        );
        vm.pause().await.expect("it pauses");
        let to = DeviceState {
            memory: bench.path(&format!("memory_{round}")),
            state: bench.path(&format!("state_{round}")),
        };
        vm.snapshot(&to).await.expect("it is snapshot");
        let memory = fs::metadata(&to.memory).expect("the memory");
        assert_eq!(memory.len(), SIZE.memory_mib << 20);
        assert!(
            memory.blocks() * 512 < memory.len() / 2,
            "what is zero takes no room"
        );
        vm.kill();
        vm.wait().await;
        let files = (
            vmm.open_memory(&to.memory).await.expect("the memory opens"),
            Arc::new(File::open(&to.state).expect("the state").into()),
        );
        let spec = CloneSpec {
            tracked,
            disk: Some(open()),
            ..bench.clone_of(&files)
        };
        vm = vmm.restore(spec).await.expect("it is restored");
        assert_eq!(vm.console_tail(), "", "nothing runs before it is resumed");
    }
    ends_at_once(&*vm).await;
}

/// Its end is seen at once, and is the same whoever asks.
pub async fn ends_at_once(vm: &dyn Vm) {
    let started = Instant::now();
    vm.kill();
    let exit = vm.wait().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(exit.signal, Some(9));
    vm.kill();
    assert_eq!(vm.wait().await, exit);
    assert!(!alive(vm.pid()), "it is reaped");
}

/// A clone without its base is refused by the base's name.
pub async fn needs_its_base(bench: &Bench, vmm: &dyn Vmm, files: &Files) {
    let mut spec = bench.clone_of(files);
    spec.base = bench.path("nothing");
    let error = vmm.restore(spec).await.map(drop).expect_err("no base");
    assert!(
        matches!(&error, VmmError::File { step: "open", path, .. } if path.ends_with("nothing")),
        "{error:?}"
    );
}

/// A prepared process ends with its handle, or by whoever clears up after its owner, and becomes a clone when it is asked
/// to. `words` are those of a sandbox's command line.
pub async fn waits_to_load(bench: &Bench, vmm: &dyn Vmm, files: &Files, words: fn(&SandboxId) -> String) {
    let prepare = async || {
        let spec = bench.clone_of(files);
        let identity = spec.identity.clone();
        let prepared = vmm.prepare(spec).await.expect("a process");
        let words = words(&identity.sandbox);
        until("it is there", || alive_with(&words)).await;
        (prepared, identity, words)
    };
    let (prepared, _, words) = prepare().await;
    drop(prepared);
    until("it is gone", || !alive_with(&words)).await;

    let (prepared, identity, words) = prepare().await;
    assert!(!vmm.reap(&identity).await.expect("reaped").is_empty());
    assert_eq!(prepared.exited().await.signal, Some(9));
    assert!(!alive_with(&words));
    let error = prepared.load().await.map(drop).expect_err("it has ended");
    assert!(matches!(error, VmmError::Gone { .. }), "{error:?}");

    let (prepared, ..) = prepare().await;
    let vm = prepared.load().await.expect("a clone");
    assert_eq!(vm.console_tail(), "", "nothing runs before it is resumed");
    vm.resume().await.expect("it resumes");
    until("the clone runs", || vm.console_tail().contains("...")).await;
    ends_at_once(&*vm).await;
}

/// A field of a process's status, or of a thread's (`task/NUMBER`).
pub fn status(pid: u32, task: &str, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{task}/status")).expect("its status");
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':').map(str::trim));
    line.unwrap_or_default().to_owned()
}

/// Whether a process is there that has this in its command line, whose words each end with a NUL.
pub fn alive_with(words: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes.into_iter().any(|p| {
        let line = fs::read(p.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(words)
    })
}

fn fresh() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Waits until something holds; a minute is for a machine under heavy load.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process of that number is there.
pub fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
