//! Machines whose jailer is a script and whose API is a double: what a driver makes of every answer, and of none.

use super::*;
use crate::{
    BootSpec, CloneSpec,
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
    Fault,
    Garbage,
    Death,
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
        for name in ["vmlinux", "initramfs", "base", "memory", "state"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        let host = Host {
            programs: Programs::unasked("/nowhere/fc".into(), jailer),
            name: "fc".into(),
            uids: UidRange::here().expect("ids"),
            cgroups: Err("none in this test".into()),
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
        let spec = BootSpec {
            identity,
            kernel: self.path("nothing"),
            vmlinux: self.path("vmlinux"),
            initramfs: self.path("initramfs"),
            cmdline: String::new(),
            base: self.path("base"),
            size: SIZE,
        };
        Machine::boot(&self.host, spec).await.map(|m| (m, double))
    }

    fn clone_spec(&self, identity: VmIdentity) -> CloneSpec {
        let open = |name| Arc::new(File::open(self.path(name)).expect("it is there").into());
        CloneSpec {
            identity,
            base: self.path("base"),
            size: SIZE,
            memory: open("memory"),
            state: open("state"),
        }
    }

    async fn restore(&self, answers: &[Answer]) -> Result<(Machine, Double), VmmError> {
        let identity = self.identity();
        let double = Double::start(&identity, answers);
        let machine = Machine::restore(&self.host, self.clone_spec(identity)).await;
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
                let bytes: &[u8] = match answers.next().unwrap_or(Answer::Good) {
                    Answer::Good => b"HTTP/1.1 204 \r\n\r\n",
                    Answer::Fault => {
                        b"HTTP/1.1 400 \r\nContent-Length: 23\r\n\r\n{\"fault_message\":\"No.\"}"
                    }
                    Answer::Garbage => b"\xff\xff\xff\xff\r\n\r\n",
                    Answer::Death => {
                        fs::write(identity.run_dir.join("die"), "\n").expect("it reads");
                        return;
                    }
                };
                if stream.write_all(bytes).await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// That an answer at this step came to what it should.
fn check(answer: Answer, at: &'static str, error: &VmmError) {
    match (answer, error) {
        (Answer::Fault, VmmError::Refused { step, reason }) => assert_eq!((*step, &**reason), (at, "No.")),
        (Answer::Garbage, VmmError::Io { step, .. }) => assert_eq!(*step, at),
        (Answer::Death, VmmError::Gone { step, tail }) => assert_eq!((*step, &**tail), (at, "last words")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whatever_is_said_at_each_step_of_a_boot_names_the_step() {
    let Some(bench) = Bench::new() else { return };
    let steps = [
        "machine-config",
        "boot-source",
        "drives",
        "drives",
        "vsock",
        "entropy",
        "InstanceStart",
    ];
    for (number, step) in steps.into_iter().enumerate() {
        for answer in [Answer::Fault, Answer::Garbage, Answer::Death] {
            let mut answers = vec![Answer::Good; number];
            answers.push(answer);
            let error = bench.boot(&answers).await.map(drop).expect_err(step);
            check(answer, step, &error);
        }
    }
    let (machine, _double) = bench.boot(&[]).await.expect("it boots");
    let (pid, started) = (machine.pid(), Instant::now());
    drop(machine);
    until("a dropped machine is gone", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn whatever_is_said_in_a_clones_life_names_the_step() {
    let Some(bench) = Bench::new() else { return };
    for answer in [Answer::Fault, Answer::Garbage, Answer::Death] {
        let error = bench.restore(&[answer]).await.map(drop).expect_err("no load");
        check(answer, "loading the snapshot", &error);

        for step in ["pause", "resume", "attaching the session disk", "snapshot"] {
            let (machine, _double) = bench.restore(&[Answer::Good, answer]).await.expect("a clone");
            let error = match step {
                "pause" => machine.pause().await,
                "resume" => machine.resume().await,
                "snapshot" => {
                    let to = DeviceState {
                        memory: bench.path("to.memory"),
                        state: bench.path("to.state"),
                    };
                    machine.snapshot(&to).await
                }
                _ => {
                    let file = tempfile::tempfile_in(bench.dir.path()).expect("a disk").into();
                    machine.attach_disk(AttachDisk { file, bytes: 512 }).await
                }
            };
            check(answer, step, &error.expect_err(step));
            if answer == Answer::Death {
                assert_eq!(machine.wait().await.code, Some(3));
            }
        }
    }
}

#[tokio::test]
async fn an_empty_snapshot_is_none() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let to = DeviceState {
        memory: bench.path("to.memory"),
        state: bench.path("to.state"),
    };
    // The double says that it is written, and has written nothing.
    let error = machine.snapshot(&to).await.expect_err("nothing was written");
    assert!(
        matches!(error, VmmError::Io { step: "snapshot", .. }),
        "{error:?}"
    );
    assert!(!to.memory.exists());
    let left: Vec<_> = fs::read_dir(machine.jail.path())
        .expect("the jail")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("snapshot."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_jailer_that_ends_before_there_is_an_api_is_heard() {
    let Some(bench) = Bench::new() else { return };
    fs::write(
        bench.path("jailer"),
        "#!/bin/sh\necho no such thing >&2\nexit 7\n",
    )
    .expect("written");
    let error = bench.restore(&[]).await.map(drop).expect_err("it ends");
    match error {
        VmmError::Gone { step, tail } => {
            assert_eq!((step, &*tail), ("starting Firecracker", "no such thing"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_planted_where_the_jail_should_be_fails_the_start_and_stays() {
    let Some(bench) = Bench::new() else { return };
    let victim = bench.path("victim");
    fs::write(&victim, "as it was").expect("written");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("ours");
    let folder = bench.path("elsewhere");
    fs::create_dir(&folder).expect("made");
    type Plant<'a> = Box<dyn Fn(&VmIdentity) + 'a>;
    let plants: [Plant<'_>; 5] = [
        Box::new(|id| symlink(&folder, id.run_dir.join("fc")).expect("planted")),
        Box::new(|id| {
            fs::create_dir(id.run_dir.join("fc")).expect("planted");
            symlink(&folder, jail_of(id).parent().expect("its parent")).expect("planted");
        }),
        Box::new(|id| {
            fs::create_dir_all(jail_of(id)).expect("planted");
            symlink(&victim, jail_of(id).join("fc")).expect("planted");
        }),
        Box::new(|id| {
            fs::create_dir_all(jail_of(id)).expect("planted");
            fs::hard_link(&victim, jail_of(id).join("fc")).expect("planted");
        }),
        Box::new(|id| {
            fs::set_permissions(&id.run_dir, fs::Permissions::from_mode(0o777)).expect("ours");
        }),
    ];
    for (number, plant) in plants.iter().enumerate() {
        let identity = bench.identity();
        plant(&identity);
        let started = identity.run_dir.join("started");
        let spec = bench.clone_spec(identity);
        let error = Machine::restore(&bench.host, spec)
            .await
            .map(drop)
            .expect_err("refused");
        assert!(matches!(error, VmmError::File { .. }), "{number}: {error:?}");
        assert!(!started.exists(), "{number}: the jailer never ran");
        assert_eq!(fs::read_to_string(&victim).expect("the victim"), "as it was");
        assert_eq!(fs::metadata(&victim).expect("the victim").uid(), 0);
        assert!(fs::read_dir(&folder).expect("the folder").next().is_none());
    }
}

#[tokio::test]
async fn a_link_that_the_process_made_of_its_socket_is_not_followed() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let elsewhere = bench.path("else.sock");
    let _listener = UnixListener::bind(&elsewhere).expect("bound");
    symlink(&elsewhere, machine.jail.path().join("run/agent.sock")).expect("made");
    let error = machine.channel().await.map(drop).expect_err("refused");
    assert!(matches!(error, VmmError::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn a_disk_is_linked_once_and_belongs_to_the_vm() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let path = bench.path("disk");
    fs::write(&path, [0u8; 512]).expect("written");
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("a disk")
    };
    let disk = |file: File| AttachDisk {
        file: file.into(),
        bytes: 512,
    };
    machine.attach_disk(disk(open())).await.expect("attached");
    let (there, here) = (
        fs::metadata(machine.jail.path().join("session")).expect("linked"),
        fs::metadata(&path).expect("the disk"),
    );
    assert_eq!((there.dev(), there.ino()), (here.dev(), here.ino()));
    assert!(here.uid() != 0 && here.uid() == here.gid());
    let again = machine.attach_disk(disk(open())).await.expect_err("one already");
    assert!(matches!(again, VmmError::Refused { .. }), "{again:?}");
}

/// Takes a connection as Firecracker does: reads the line, and the rest is the guest's.
async fn accept(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().await.expect("accepted");
    let mut line = vec![0u8; "CONNECT 1024\n".len()];
    stream.read_exact(&mut line).await.expect("the line");
    assert_eq!(line, b"CONNECT 1024\n");
    stream
}

#[tokio::test]
async fn a_clones_channel_is_there_at_once_and_the_next_replaces_it() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let listener = UnixListener::bind(machine.jail.path().join("run/agent.sock")).expect("bound");
    // Nobody has taken the connection yet.
    let mut first = machine.channel().await.expect("a channel");
    first.write_all(b"hello").await.expect("it waits");
    let mut guest = accept(&listener).await;
    let mut word = [0u8; 5];
    guest.read_exact(&mut word).await.expect("the first bytes");
    assert_eq!(&word, b"hello");
    let _second = machine.channel().await.expect("another");
    assert_eq!(first.read(&mut word).await.expect("its end is seen"), 0);
    assert_eq!(guest.read(&mut word).await.expect("here as well"), 0);
}

#[tokio::test]
async fn a_booting_machines_channel_waits_for_its_agent() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.boot(&[]).await.expect("it boots");
    let listener = UnixListener::bind(machine.jail.path().join("run/agent.sock")).expect("bound");
    let guest = tokio::spawn(async move {
        for _ in 0..3 {
            drop(accept(&listener).await);
        }
        let mut stream = accept(&listener).await;
        stream.write_all(b"OK 1073741824\n").await.expect("written");
        stream
    });
    let mut channel = machine.channel().await.expect("in the end");
    let mut line = [0u8; 14];
    channel
        .read_exact(&mut line)
        .await
        .expect("the answer is still there");
    assert_eq!(&line, b"OK 1073741824\n");
    drop(guest.await.expect("it went well"));
    machine.kill();
    let error = machine.channel().await.map(drop).expect_err("it is gone");
    assert!(matches!(error, VmmError::Gone { .. }), "{error:?}");
}
