//! Machines whose guest answers: on its vsock, and by writing to its disk. All of it under the seccomp filter.
//!
//! The guest is C for no operating system (`guest.c`), compiled by the compiler that links Rust programs as well.

use super::*;
use omnirun_vmm::{ChannelStream, DiskRate};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// For an answer, on a machine under heavy load.
const SOON: Duration = Duration::from_secs(60);
/// What the guest writes at once.
const CHUNK: u64 = 64 << 10;

/// A bench whose kernel is that guest; `None`, with a word, where there is no compiler.
pub fn talking() -> Option<Bench> {
    let bench = bench();
    let source = bench.path("guest.c");
    fs::write(&source, include_str!("guest.c")).expect("written");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(compiler)
        .args([
            "-O1",
            "-ffreestanding",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-fno-pic",
            "-mno-red-zone",
        ])
        .args([
            "-mgeneral-regs-only",
            "-fno-stack-protector",
            "-fcf-protection=none",
        ])
        .args([
            "-fno-asynchronous-unwind-tables",
            "-fno-tree-loop-distribute-patterns",
        ])
        // One segment, entered at 1 MiB.
        .args(["-Wl,-Ttext=0x100000,-N,--build-id=none,-z,noexecstack", "-o"])
        .args([&bench.path("vmlinux"), &source])
        .output();
    match built {
        Ok(output) if output.status.success() => Some(bench),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("SKIPPED: there is no C compiler: {error}");
            None
        }
    }
}

/// A connection, past Firecracker's own line.
pub async fn connect(vm: &dyn Vm) -> ChannelStream {
    let mut channel = vm.channel().await.expect("a channel");
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let byte = tokio::time::timeout(SOON, channel.read_u8()).await;
        line.push(byte.expect("in time").expect("the line"));
    }
    assert!(line.starts_with(b"OK "), "{line:?}");
    channel
}

/// Sends it, and waits until it comes back.
pub async fn echo(channel: &mut ChannelStream, bytes: &[u8]) {
    let back = exchange(channel, bytes, bytes.len()).await;
    assert!(back == bytes);
}

/// Sends something, and waits for so much in return.
pub async fn exchange(channel: &mut ChannelStream, bytes: &[u8], len: usize) -> Vec<u8> {
    channel.write_all(bytes).await.expect("sent");
    let mut back = vec![0; len];
    let read = tokio::time::timeout(SOON, channel.read_exact(&mut back)).await;
    read.expect("in time").expect("received");
    back
}

/// Lets the guest write so many chunks to its second disk.
async fn write(channel: &mut ChannelStream, chunks: u8) {
    echo(channel, &[b'W', chunks]).await;
}

async fn attach(bench: &Bench, vm: &dyn Vm, name: &str) {
    let bytes = 4 << 20;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(bench.path(name))
        .expect("a disk");
    file.set_len(bytes).expect("sized");
    let disk = AttachDisk {
        file: file.into(),
        bytes,
    };
    vm.attach_disk(disk).await.expect("it is attached");
}

/// Pauses it and takes its snapshot.
pub async fn saved(bench: &Bench, vmm: &dyn Vmm, vm: &dyn Vm) -> Files {
    vm.pause().await.expect("it pauses");
    let to = DeviceState {
        memory: bench.path("memory"),
        state: bench.path("state"),
    };
    vm.snapshot(&to).await.expect("it is snapshot");
    let memory = vmm.open_memory(&to.memory).await.expect("it opens");
    (memory, Arc::new(File::open(&to.state).expect("the state").into()))
}

#[tokio::test]
async fn a_guest_is_heard_and_its_disk_written_before_and_after_a_restore() {
    let (Some(vmm), Some(bench)) = (driver().await, talking()) else {
        return;
    };
    let booted = booted(&bench, &vmm).await;
    until("the guest has booted", || booted.console_tail().contains("B.")).await;
    let mut channel = connect(&*booted).await;
    echo(&mut channel, b"hello").await;
    echo(&mut channel, &[7; 3000]).await;
    write(&mut channel, 2).await;
    drop(channel);
    let files = saved(&bench, &vmm, &*booted).await;
    ends_at_once(&*booted).await;

    let clone = vmm.restore(bench.clone_of(&files)).await.expect("a clone");
    attach(&bench, &*clone, "disk").await;
    clone.resume().await.expect("it resumes");
    let mut channel = connect(&*clone).await;
    echo(&mut channel, b"hello again").await;
    write(&mut channel, 3).await;
    let written = fs::read(bench.path("disk")).expect("the disk");
    let (data, rest) = written.split_at(3 * CHUNK as usize);
    assert!(data.iter().all(|b| *b == b'w') && rest.iter().all(|b| *b == 0));
    assert!(!clone.console_tail().contains('!'), "no write failed");
    ends_at_once(&*clone).await;
}

#[tokio::test]
async fn a_session_disk_keeps_to_its_rate() {
    let (Some(vmm), Some(bench)) = (driver().await, talking()) else {
        return;
    };
    let rate = DiskRate {
        bytes: 4 * CHUNK,
        operations: 1000,
    };
    let vmm = vmm.with_disk_rate(rate);
    let vm = vmm
        .start(bench.boot(bench.identity("slow")))
        .await
        .expect("it boots");
    let mut channel = connect(&*vm).await;
    attach(&bench, &*vm, "disk").await;
    // What may pass at once, and two seconds' worth beyond.
    let chunks = 4 * DiskRate::BURST as u8 + 8;
    let begun = Instant::now();
    write(&mut channel, chunks).await;
    assert!(
        begun.elapsed() > Duration::from_millis(1500),
        "{:?}",
        begun.elapsed()
    );
    ends_at_once(&*vm).await;
}

/// How many clones are made in turn; `OMNIRUN_TEST_RESTORES` says another number.
const RESTORES: u32 = 20;

#[tokio::test]
async fn every_clone_answers_though_the_snapshot_was_taken_amid_traffic() {
    let (Some(vmm), Some(bench)) = (driver().await, talking()) else {
        return;
    };
    let booted = booted(&bench, &vmm).await;
    let mut channel = connect(&*booted).await;
    echo(&mut channel, b"hello").await;
    // On their way in and out when the machine stops (firecracker#5969).
    for _ in 0..8 {
        channel.write_all(&[1; 2048]).await.expect("sent");
    }
    let files = saved(&bench, &vmm, &*booted).await;
    ends_at_once(&*booted).await;

    let wanted = std::env::var("OMNIRUN_TEST_RESTORES").map_or(RESTORES, |n| n.parse().expect("a number"));
    for number in 0..wanted {
        let vm = vmm.restore(bench.clone_of(&files)).await.expect("a clone");
        vm.resume().await.expect("it resumes");
        let mut channel = connect(&*vm).await;
        echo(&mut channel, &number.to_le_bytes()).await;
        vm.kill();
        assert_eq!(vm.wait().await.signal, Some(9), "clone {number}");
    }
}

#[tokio::test]
async fn a_machine_that_goes_on_after_a_pause_still_answers_saved_or_not() {
    let (Some(vmm), Some(bench)) = (driver().await, talking()) else {
        return;
    };
    let vm = booted(&bench, &vmm).await;
    for saves in [false, true, false, false, true, true] {
        let mut channel = connect(&*vm).await;
        echo(&mut channel, b"hello").await;
        channel.write_all(&[1; 2048]).await.expect("sent");
        for name in ["memory", "state"] {
            let _ = fs::remove_file(bench.path(name));
        }
        match saves {
            true => drop(saved(&bench, &vmm, &*vm).await),
            // Firecracker alone would be deaf from then on (firecracker#6100).
            false => vm.pause().await.expect("it pauses"),
        }
        vm.resume().await.expect("it goes on");
    }
    ends_at_once(&*vm).await;
}
