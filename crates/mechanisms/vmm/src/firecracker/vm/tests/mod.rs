//! Machines whose jailer is a script and whose API is a double.
//!
//! ```text
//!   answers   every answer at every step, and none
//!   jail      what is in a jail before its process starts, and what the process makes of it
//!   channel   the way to the agent
//! ```

mod answers;
mod channel;
mod jail;

use super::*;
use crate::{
    BootSpec, CardRate, CloneSpec,
    firecracker::{Host, version::Programs},
    uids::UidRange,
};
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

/// Waits for its end to be wished for, and has last words.
const JAILER: &str = r#"#!/bin/sh
while [ "$1" != --chroot-base-dir ]; do shift; done
echo last words >&2
: > "$2/started"
read line < "$2/die"
exit 3
"#;

const SIZE: MachineSize = MachineSize {
    vcpus: 1,
    memory_mib: 1,
};

/// How the double takes a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Good,
    /// Good, byte by byte.
    Slow,
    Fault,
    Garbage,
    /// The process ends.
    Death,
    /// The process ends within its answer.
    LastBreath,
    /// None, and the connection ends; the process lives.
    Hangup,
    /// None, and nothing else happens.
    Silence,
    /// Good, and the snapshot's memory and state have so many bytes.
    Written(u64, u64),
}

/// A clone, in one go.
async fn restore(host: &Arc<Host>, spec: CloneSpec) -> Result<Machine, VmmError> {
    let machine = Machine::prepare(host, spec).await?;
    machine.load_snapshot().await?;
    Ok(machine)
}

struct Bench {
    dir: tempfile::TempDir,
    host: Arc<Host>,
}

impl Bench {
    /// `None`, with a word, where it cannot be: jails are root's.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root builds jails");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let jailer = dir.path().join("jailer");
        fs::write(&jailer, JAILER).expect("written");
        fs::set_permissions(&jailer, fs::Permissions::from_mode(0o755)).expect("it is ours");
        for name in ["fc", "vmlinux", "initramfs", "base", "memory", "state"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        let host = Host {
            programs: Programs::unasked(dir.path().join("fc"), jailer),
            name: "fc".into(),
            starter: Some(b"starts it".to_vec()),
            filter: None,
            uids: UidRange::here().expect("ids"),
            cgroups: Err("none in this test".into()),
            must_filter: false,
            disk: DiskRate::default(),
            card: CardRate::default(),
            may_limit: false,
        };
        Some(Self {
            dir,
            host: Arc::new(host),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn identity(&self) -> VmIdentity {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let run_dir = self.path(&name);
        fs::create_dir(&run_dir).expect("the run folder");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, run_dir.join("die"), fifo, 0o600.into(), 0).expect("a pipe");
        VmIdentity {
            sandbox: name.parse().expect("an id"),
            run_dir,
        }
    }

    async fn boot(&self, answers: &[Answer]) -> Result<(Machine, Double), VmmError> {
        let identity = self.identity();
        let double = Double::start(&identity, answers);
        let machine = Machine::boot(&self.host, self.boot_spec(identity)).await;
        machine.map(|m| (m, double))
    }

    fn boot_spec(&self, identity: VmIdentity) -> BootSpec {
        BootSpec {
            identity,
            kernel: self.path("nothing"),
            vmlinux: self.path("vmlinux"),
            initramfs: self.path("initramfs"),
            cmdline: String::new(),
            base: self.path("base"),
            size: SIZE,
            network: None,
        }
    }

    fn clone_spec(&self, identity: VmIdentity) -> CloneSpec {
        let open = |name| Arc::new(File::open(self.path(name)).expect("it is there").into());
        CloneSpec {
            identity,
            base: self.path("base"),
            size: SIZE,
            network: None,
            memory: open("memory"),
            state: open("state"),
            disk: None,
            tracked: false,
        }
    }

    async fn restore(&self, answers: &[Answer]) -> Result<(Machine, Double), VmmError> {
        let identity = self.identity();
        let double = Double::start(&identity, answers);
        let machine = restore(&self.host, self.clone_spec(identity)).await;
        machine.map(|m| (m, double))
    }
}

fn jail_of(identity: &VmIdentity) -> PathBuf {
    let id = identity.sandbox.as_str().replace('_', "-");
    identity.run_dir.join("fc").join(id).join("root")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// That no process of this VM is left.
async fn gone(run_dir: &Path) {
    let name = run_dir.to_str().expect("UTF-8").to_owned();
    until("its process is gone", || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        !processes.into_iter().any(|p| {
            let line = fs::read(p.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&name)
        })
    })
    .await;
}

/// The API's double: takes the calls one by one, and all after the last answer well.
struct Double(JoinHandle<()>);

impl Drop for Double {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Double {
    fn start(identity: &VmIdentity, answers: &[Answer]) -> Self {
        let (identity, answers) = (identity.clone(), answers.to_vec());
        Self(tokio::spawn(async move {
            until("the jailer runs", || identity.run_dir.join("started").exists()).await;
            let listener = UnixListener::bind(jail_of(&identity).join("run/api.sock")).expect("bound");
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut answers = answers.into_iter();
            let mut buffer = vec![0u8; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                let answer = answers.next().unwrap_or(Answer::Good);
                let bytes: &[u8] = match answer {
                    Answer::Good | Answer::Slow | Answer::Written(..) => b"HTTP/1.1 204 \r\n\r\n",
                    Answer::Fault => {
                        b"HTTP/1.1 400 \r\nContent-Length: 23\r\n\r\n{\"fault_message\":\"No.\"}"
                    }
                    Answer::Garbage => b"\xff\xff\xff\xff\r\n\r\n",
                    Answer::LastBreath => b"HTTP/1.1 204 \r\nSer",
                    Answer::Death | Answer::Hangup | Answer::Silence => b"",
                };
                if let Answer::Written(memory, state) = answer {
                    for (name, bytes) in [("snapshot.memory", memory), ("snapshot.state", state)] {
                        let path = jail_of(&identity).join(name);
                        let file = File::options().write(true).open(path).expect("it is there");
                        file.set_len(bytes).expect("written");
                    }
                }
                let step = if answer == Answer::Slow {
                    1
                } else {
                    bytes.len().max(1)
                };
                for part in bytes.chunks(step) {
                    if stream.write_all(part).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                match answer {
                    Answer::Death | Answer::LastBreath => {
                        fs::write(identity.run_dir.join("die"), "\n").expect("it reads");
                        return;
                    }
                    Answer::Hangup => return,
                    // What is waited for in vain is over at once: there is nothing else to come that the clock could
                    // overtake.
                    Answer::Silence => {
                        tokio::time::pause();
                        return std::future::pending().await;
                    }
                    _ => {}
                }
            }
        }))
    }
}
