//! What is in a jail before its process starts, and what the process makes of it.

use super::*;

/// A file of the host that a link may lead to, and how it was.
struct Victim {
    path: PathBuf,
    before: Option<(String, [i64; 6])>,
}

impl Victim {
    fn new(bench: &Bench) -> Self {
        let path = bench.path("victim");
        fs::write(&path, "as it was").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        Self { path, before: None }
    }

    fn now(&self) -> (String, [i64; 6]) {
        let m = fs::metadata(&self.path).expect("the victim");
        let owner = [m.uid().into(), m.gid().into(), m.mode().into()];
        let [uid, gid, mode] = owner;
        let text = fs::read_to_string(&self.path).expect("the victim");
        (text, [uid, gid, mode, m.mtime_nsec(), m.ctime(), m.ctime_nsec()])
    }

    /// Puts a link to it there. A hard link is a change by itself.
    fn plant(&mut self, at: &Path, soft: bool) {
        fs::create_dir_all(at.parent().expect("it is in a folder")).expect("made");
        match soft {
            true => symlink(&self.path, at),
            false => fs::hard_link(&self.path, at),
        }
        .expect("planted");
        self.before = Some(self.now());
    }

    fn is_as_it_was(&self) -> bool {
        self.before.as_ref() == Some(&self.now())
    }
}

/// What there will be in a jail, from the run folder down: by the owner, by the jailer, by Firecracker.
const PLACES: [&str; 28] = [
    "fc",
    "fc/fc",
    "fc/ID",
    "fc/ID/root",
    "fc/ID/root/run",
    "fc/ID/root/run/api.sock",
    "fc/ID/root/run/agent.sock",
    "fc/ID/root/dev",
    "fc/ID/root/dev/kvm",
    "fc/ID/root/dev/urandom",
    "fc/ID/root/dev/userfaultfd",
    "fc/ID/root/dev/net",
    "fc/ID/root/dev/net/tun",
    "fc/ID/root/fc",
    "fc/ID/root/fc.pid",
    "fc/ID/root/bin",
    "fc/ID/root/bin/firecracker",
    "fc/ID/root/log",
    "fc/ID/root/metrics",
    "fc/ID/root/base",
    "fc/ID/root/vmlinux",
    "fc/ID/root/initramfs",
    "fc/ID/root/memory",
    "fc/ID/root/state",
    "fc/ID/root/placeholder",
    "fc/ID/root/session",
    "fc/ID/root/seccomp.bpf",
    "fc/ID/root/snapshot.memory",
];

#[tokio::test]
async fn a_link_planted_before_the_start_fails_it_and_what_it_leads_to_stays() {
    let Some(bench) = Bench::new() else { return };
    let mut victim = Victim::new(&bench);
    for (place, soft) in PLACES.into_iter().flat_map(|p| [(p, true), (p, false)]) {
        let identity = bench.identity();
        let id = identity.sandbox.as_str().replace('_', "-");
        victim.plant(&identity.run_dir.join(place.replace("ID", &id)), soft);
        let (planted, started) = (identity.run_dir.join("fc"), identity.run_dir.join("started"));
        let cloned = restore(&bench.host, bench.clone_spec(identity.clone())).await;
        let booted = Machine::boot(&bench.host, bench.boot_spec(identity)).await;
        for error in [
            cloned.map(drop).expect_err(place),
            booted.map(drop).expect_err(place),
        ] {
            match error {
                VmmError::File {
                    step: "create",
                    path,
                    source,
                } => {
                    assert_eq!(
                        (path, source.kind()),
                        (planted.clone(), io::ErrorKind::AlreadyExists)
                    );
                }
                other => panic!("{place}: {other:?}"),
            }
        }
        assert!(!started.exists(), "{place}: the jailer never ran");
        assert!(
            victim.is_as_it_was(),
            "{place}: {:?}, was {:?}",
            victim.now(),
            victim.before
        );
    }
}

#[tokio::test]
async fn a_run_folder_that_is_a_link_or_open_to_others_fails_the_start() {
    let Some(bench) = Bench::new() else { return };
    let elsewhere = bench.path("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    let plants: [&dyn Fn(&Path); 3] = [
        &|run_dir| {
            fs::remove_dir_all(run_dir).expect("removed");
            symlink(&elsewhere, run_dir).expect("planted");
        },
        &|run_dir| fs::set_permissions(run_dir, fs::Permissions::from_mode(0o777)).expect("ours"),
        &|run_dir| std::os::unix::fs::chown(run_dir, Some(1), None).expect("root gives it away"),
    ];
    for (number, plant) in plants.into_iter().enumerate() {
        let identity = bench.identity();
        plant(&identity.run_dir);
        let failed = restore(&bench.host, bench.clone_spec(identity.clone())).await;
        match failed.map(drop).expect_err("refused") {
            VmmError::File { path, .. } => assert_eq!(path, identity.run_dir, "{number}"),
            other => panic!("{number}: {other:?}"),
        }
        assert!(fs::read_dir(&elsewhere).expect("the folder").next().is_none());
    }
}

#[tokio::test]
async fn a_link_that_the_process_plants_for_later_is_not_followed_either() {
    let Some(bench) = Bench::new() else { return };
    let mut victim = Victim::new(&bench);
    for soft in [true, false] {
        let (machine, _double) = bench.restore(&[]).await.expect("a clone");
        for name in ["session", "snapshot.memory"] {
            victim.plant(&machine.jail.path().join(name), soft);
        }
        let file = tempfile::tempfile_in(bench.dir.path()).expect("a disk").into();
        let refused = machine.attach_disk(AttachDisk { file, bytes: 512 }).await;
        assert!(matches!(refused, Err(VmmError::Refused { .. })), "{refused:?}");
        let to = DeviceState {
            memory: bench.path("to.memory"),
            state: bench.path("to.state"),
        };
        let refused = machine.snapshot(&to).await;
        assert!(
            matches!(refused, Err(VmmError::File { step: "create", .. })),
            "{refused:?}"
        );
        assert!(victim.is_as_it_was());
    }
}

#[tokio::test]
async fn a_link_that_the_process_made_of_its_socket_is_not_followed() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let elsewhere = bench.path("else.sock");
    let _listener = UnixListener::bind(&elsewhere).expect("bound");
    symlink(&elsewhere, machine.jail.path().join("run/agent.sock")).expect("made");
    machine.resume().await.expect("it runs");
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
