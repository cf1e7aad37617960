//! A process that owns machines, from both sides.

use super::*;
use omnirun_vmm::CloneSpec;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
};
use tokio::{sync::watch, task::JoinSet};

/// For an owner: the folder of the test's files, and the ids of its clones.
const FOLDER: &str = "OMNIRUN_TEST_FOLDER";
const CLONES: &str = "OMNIRUN_TEST_CLONES";
/// How many clones an owner makes, at the same time.
const EACH: usize = 2;

/// The lock that an owner has while it lives.
pub(super) fn lock(bench: &Bench, wait: bool) -> File {
    lock_in(bench.dir.path(), wait)
}

fn lock_in(folder: &Path, wait: bool) -> File {
    let file = File::open(folder.join("lock")).expect("the lock");
    let how = match wait {
        true => FlockOperation::LockExclusive,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    flock(&file, how).expect("nobody else has it");
    file
}

/// Processes, mounts, sockets and control groups that have this in their names.
pub(super) fn traces(of: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // Who has not become another program yet has its owner's environment. This process has what it looks for.
        let names = ["cmdline", "environ", "mountinfo"].into_iter();
        found.extend(names.filter(|_| pid != std::process::id()).filter_map(|name| {
            let bytes = fs::read(entry.path().join(name)).ok()?;
            let text = String::from_utf8_lossy(&bytes);
            text.contains(of)
                .then(|| format!("process {pid}: {name}: {}", text.replace('\0', " ")))
        }));
    }
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let text = fs::read_to_string(table).expect(table);
        let lines = text.lines().filter(|line| line.contains(of));
        found.extend(lines.map(|line| format!("{table}: {line}")));
    }
    for root in hierarchies() {
        let groups = fs::read_dir(root.join("omnirun")).into_iter().flatten().flatten();
        let paths = groups.map(|group| group.path().display().to_string());
        found.extend(paths.filter(|path| path.contains(of)));
    }
    found
}

/// The process.
pub(super) struct Owner {
    child: Child,
    pub(super) clones: Vec<VmIdentity>,
    log: PathBuf,
}

impl Owner {
    pub(super) fn start(bench: &Bench) -> Self {
        let clones: Vec<VmIdentity> = (0..EACH).map(|_| bench.identity("clone")).collect();
        let ids: Vec<&str> = clones.iter().map(|c| c.sandbox.as_str()).collect();
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["deaths::owner::lives", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, bench.dir.path())
            .env(CLONES, ids.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(bench.path("log")).expect("its log"))
            .spawn()
            .expect("it starts");
        let log = bench.path("log");
        Self { child, clones, log }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn tell_to_end(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it ends");
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    fn over(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }

    /// It ends by itself, without a panic.
    pub(super) async fn ends(&mut self, point: &str) {
        let mut status = None;
        until("the owner ends", || {
            status = self.over();
            status.is_some()
        })
        .await;
        assert!(
            status.is_some_and(|s| s.success()),
            "{point}: {status:?}: {}",
            self.said()
        );
    }

    /// Kills a jailer or a Firecracker of its, once there is one, and says which.
    pub(super) async fn kill_vmm(&mut self, chance: &mut Chance, point: &str) -> &'static str {
        let mut ids: Vec<String> = self.clones.iter().map(|c| jailed(&c.sandbox)).collect();
        ids.push(format!("--id\0sbx-trial-{}-", self.pid()));
        let first = chance.below(ids.len());
        ids.rotate_left(first);
        let mut killed = None;
        until("there is a jail", || {
            killed = ids.iter().find_map(|id| kill_with(id));
            killed.is_some() || self.over().is_some()
        })
        .await;
        killed.unwrap_or_else(|| panic!("{point}: it ended by itself: {}", self.said()))
    }

    /// Neither it nor any of its clones has left anything but folders.
    pub(super) fn is_gone(&self, point: &str) {
        for identity in &self.clones {
            let id = identity.sandbox.as_str();
            for name in [id, &id.replace('_', "-")] {
                assert_eq!(traces(name), Vec::<String>::new(), "{point}");
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills the process that has this in its command line.
fn kill_with(words: &str) -> Option<&'static str> {
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = || {
            let bytes = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|line| line.contains(words))
        };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| Pid::from_raw(n.parse().ok()?))
        else {
            continue;
        };
        if line().is_none() {
            continue;
        }
        // The number may be another's by now; what the descriptor names is looked at again.
        let Ok(named) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let Some(line) = line() else {
            continue;
        };
        if pidfd_send_signal(&named, Signal::KILL).is_ok() {
            let trial = words.contains("trial");
            return Some(match (trial, line.starts_with('/')) {
                (false, true) => "Firecracker",
                (false, false) => "jailer",
                (true, true) => "trial's Firecracker",
                (true, false) => "trial's jailer",
            });
        }
    }
    None
}

/// Its side. It ends when it is told, or when any of its machines has ended or could not be made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn lives() {
    let (Some(folder), Ok(clones)) = (std::env::var_os(FOLDER), std::env::var(CLONES)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let lock = lock_in(&folder, false);
    let code = match Firecracker::find(None, &folder.join("tmp")).await {
        Ok(vmm) => {
            own(Arc::new(vmm), &folder, &clones).await;
            0
        }
        // The jail of its trial was killed.
        Err(VmmError::Gone { .. } | VmmError::Io { .. }) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    };
    drop(lock);
    // A thread that still reads what it is told would hold up an end by itself.
    std::process::exit(code);
}

async fn own(vmm: Arc<Firecracker>, folder: &Path, clones: &str) {
    let open = |name: &str| Arc::new(OwnedFd::from(File::open(folder.join(name)).expect(name)));
    let (memory, state) = (open("memory"), open("state"));
    let (tell, told) = watch::channel(false);
    let mut machines = JoinSet::new();
    for id in clones.split(' ') {
        let identity = VmIdentity {
            sandbox: id.parse().expect("an id"),
            run_dir: folder.join(id),
        };
        let spec = CloneSpec {
            identity,
            base: folder.join("base"),
            size: tiny::SIZE,
            network: None,
            memory: Arc::clone(&memory),
            state: Arc::clone(&state),
            disk: None,
            tracked: false,
        };
        machines.spawn(machine(Arc::clone(&vmm), spec, told.clone()));
    }
    let mut input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut stopped = false;
    while !machines.is_empty() {
        tokio::select! {
            ended = machines.join_next() => ended.expect("one").expect("no panic"),
            _ = &mut input, if !stopped => {}
        }
        stopped = true;
        tell.send_replace(true);
    }
}

/// A machine's life.
async fn machine(vmm: Arc<Firecracker>, spec: CloneSpec, mut told: watch::Receiver<bool>) {
    let vm = match vmm.restore(spec).await {
        Ok(vm) => vm,
        Err(error) => return eprintln!("{error}"),
    };
    if let Err(error) = vm.resume().await {
        eprintln!("{error}");
    }
    tokio::select! {
        _ = told.wait_for(|told| *told) => {}
        _ = vm.wait() => {}
    }
    vm.kill();
    vm.wait().await;
}
