mod journal;

use super::*;
use crate::now_ms;
use omnirun_ids::{Digest, SessionKey};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

const KEEP: Duration = Duration::from_secs(3600);

struct Fixture {
    tmp: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            tmp: tempfile::tempdir().unwrap(),
        }
    }

    /// Opens the store as a new process does.
    fn open(&self) -> Sessions {
        open_at(self.tmp.path().join("d"))
    }
}

fn open_at(root: PathBuf) -> Sessions {
    let dir = DataDir::open(Some(root)).unwrap();
    Sessions::new(&Db::open(&dir).unwrap(), &dir, Durability::Process).unwrap()
}

fn key(session: &str) -> SessionKey {
    SessionKey {
        origin: "https://api.example".into(),
        environment: "env_1".parse().unwrap(),
        session: session.parse().unwrap(),
    }
}

fn new_session() -> NewSession {
    NewSession {
        template: "default".parse().unwrap(),
        base: digest(1),
        disk_bytes: 8 << 30,
        user: "root".into(),
        seed: true,
    }
}

fn digest(n: u8) -> Digest {
    Digest::from([n; 32])
}

/// A session that is ready, with a small disk.
fn ready(store: &Sessions, session: &str) -> Lease {
    let key = key(session);
    let lease = store.lease(&SessionHash::of(&key)).unwrap().unwrap();
    store.create(&lease, &key, &new_session(), KEEP).unwrap();
    store
        .make_disk::<StoreError>(&lease, |path| {
            fs::write(path, b"disk").unwrap();
            Ok(())
        })
        .unwrap();
    store.set_state(&lease, SessionState::Ready).unwrap();
    lease
}

#[test]
fn a_record_is_what_was_recorded() {
    let f = Fixture::new();
    let lease = ready(&f.open(), "sesn_1");
    let store = f.open();
    let row = store.get(lease.hash()).unwrap().unwrap();
    assert_eq!(
        (row.key, row.state, row.seed),
        (key("sesn_1"), SessionState::Ready, Seed::Due)
    );
    assert_eq!(
        (row.base, row.user.as_str(), row.disk_bytes),
        (digest(1), "root", 8 << 30)
    );
    assert_eq!(row.keep_ms, 3_600_000);
    assert!(!row.live_shell);
    store.set_seed(&lease, Seed::Done).unwrap();
    store.set_live_shell(&lease, true).unwrap();
    let row = store.get(lease.hash()).unwrap().unwrap();
    assert!(row.live_shell && row.seed == Seed::Done);
    assert_eq!(store.bases().unwrap(), [digest(1)]);
    let mode = fs::metadata(store.disk_path(lease.hash()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_hash_keeps_origins_and_environments_apart() {
    let mut other = key("sesn_1");
    other.origin = "https://api.example.org".into();
    assert_ne!(SessionHash::of(&key("sesn_1")), SessionHash::of(&other));
    let (mut a, mut b) = (key("b"), key("ab"));
    a.environment = "xa".parse().unwrap();
    b.environment = "x".parse().unwrap();
    assert_ne!(SessionHash::of(&a), SessionHash::of(&b));
    assert!(SessionHash::parse("../../etc").is_none());
}

#[test]
fn a_lease_is_one_processs() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    let hash = lease.hash().clone();
    assert!(store.lease(&hash).unwrap().is_none());
    assert_eq!(store.holder(&hash).unwrap().unwrap().pid, std::process::id());
    drop(lease);
    assert_eq!(store.holder(&hash).unwrap(), None);
    assert!(store.lease(&hash).unwrap().is_some());
}

/// Run by [`two_processes_contend`] as another process: holds the lease until its input ends.
#[test]
fn child_that_holds_a_lease() {
    let Some(root) = std::env::var_os("OMNIRUN_TEST_HOLD") else {
        return;
    };
    let store = open_at(root.into());
    let lease = store.lease(&SessionHash::of(&key("sesn_1"))).unwrap().unwrap();
    let _disk = store.open_disk(&lease).unwrap().unwrap();
    println!("\nheld");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn two_processes_contend() {
    let f = Fixture::new();
    let store = f.open();
    let hash = ready(&store, "sesn_1").hash().clone();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sessions::tests::child_that_holds_a_lease",
            "--nocapture",
        ])
        .env("OMNIRUN_TEST_HOLD", f.tmp.path().join("d"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().map_while(Result::ok).any(|l| l == "held"));
    assert!(store.lease(&hash).unwrap().is_none());
    assert_eq!(store.holder(&hash).unwrap().unwrap().pid, child.id());
    // However it ends, the kernel lets go of both locks.
    child.kill().unwrap();
    child.wait().unwrap();
    let lease = store.lease(&hash).unwrap().unwrap();
    assert!(store.open_disk(&lease).unwrap().is_some());
}

#[test]
fn a_disk_stays_locked_while_any_copy_of_its_descriptor_is_open() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    let disk = store.open_disk(&lease).unwrap().unwrap();
    assert_eq!(disk.bytes, 4);
    // The copy is what a VMM has got.
    let copy = disk.file.try_clone().unwrap();
    drop(disk);
    assert!(store.open_disk(&lease).unwrap().is_none());
    drop(copy);
    assert!(store.open_disk(&lease).unwrap().is_some());
}

#[test]
fn a_removed_session_leaves_nothing_and_a_waiter_starts_anew() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    let hash = lease.hash().clone();
    let said = store.remove(lease).unwrap();
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("sesn_1"), "{said:?}");
    assert!(store.get(&hash).unwrap().is_none() && !store.folder(&hash).exists());
    assert!(ready(&store, "sesn_1").folder().exists());
}

#[test]
fn many_take_and_remove_the_same_session() {
    let f = Fixture::new();
    f.open();
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let store = f.open();
                let key = key("sesn_1");
                for _ in 0..25 {
                    let Some(lease) = store.lease(&SessionHash::of(&key)).unwrap() else {
                        continue;
                    };
                    // Two holders at once would both insert the row.
                    store.create(&lease, &key, &new_session(), KEEP).unwrap();
                    store.remove(lease).unwrap();
                }
            });
        }
    });
    assert!(f.open().list().unwrap().is_empty());
}

#[test]
fn a_sweep_takes_what_is_over_and_nothing_else() {
    let f = Fixture::new();
    let store = f.open();
    drop(ready(&store, "sesn_kept"));
    let over = ready(&store, "sesn_over");
    store.touch(&over, Duration::ZERO).unwrap();
    drop(over);
    let served = ready(&store, "sesn_served");
    store.touch(&served, Duration::ZERO).unwrap();

    // What killed processes leave: a record without a disk, a folder without a record, a half-done removal.
    let half = key("sesn_half");
    let lease = store.lease(&SessionHash::of(&half)).unwrap().unwrap();
    store.create(&lease, &half, &new_session(), KEEP).unwrap();
    drop(lease);
    let orphan = store
        .lease(&SessionHash::of(&key("sesn_orphan")))
        .unwrap()
        .unwrap();
    fs::write(orphan.folder().join("disk.raw.new"), b"x").unwrap();
    drop(orphan);
    let cut = ready(&store, "sesn_cut");
    store.set_state(&cut, SessionState::Removing).unwrap();
    drop(cut);

    assert_eq!(store.overdue().unwrap().len(), 4, "{:?}", store.overdue());
    f.open().sweep().unwrap();
    let mut left: Vec<_> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|r| r.key.session.to_string())
        .collect();
    left.sort();
    assert_eq!(left, ["sesn_kept", "sesn_served"]);
    assert_eq!(fs::read_dir(f.tmp.path().join("d/sessions")).unwrap().count(), 2);
    assert!(store.sweep().unwrap().is_empty());
}

#[test]
fn a_disk_is_there_whole_or_not_at_all() {
    let f = Fixture::new();
    let store = f.open();
    let key = key("sesn_1");
    let lease = store.lease(&SessionHash::of(&key)).unwrap().unwrap();
    let failed = store.make_disk::<StoreError>(&lease, |path| {
        fs::write(path, b"half").unwrap();
        Err(StoreError::NoPlace)
    });
    assert!(failed.is_err());
    assert_eq!(fs::read_dir(lease.folder()).unwrap().count(), 1, "only the lease");
    assert!(store.open_disk(&lease).is_err());
}

#[test]
fn expiry_does_not_overflow() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    store.touch(&lease, Duration::MAX).unwrap();
    assert!(store.get(lease.hash()).unwrap().unwrap().expires_ms() > now_ms());
}

#[test]
fn a_memory_is_taken_once_and_goes_with_its_session() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let lease = ready(&store, "sesn_1");
    let hash = lease.hash().clone();
    let keep = |generation| {
        let folder = store.memory_folder(&hash);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("memory"), [1; 5000]).unwrap();
        store.set_memory(&lease, generation).unwrap();
    };
    assert_eq!(store.take_memory(&lease).unwrap(), None);
    keep("one");
    assert!(store.memory_bytes(&hash) >= 5000);
    // By whoever comes, once.
    let other = fixture.open();
    assert_eq!(other.get(&hash).unwrap().unwrap().memory.as_deref(), Some("one"));
    assert_eq!(other.take_memory(&lease).unwrap().as_deref(), Some("one"));
    assert_eq!(store.take_memory(&lease).unwrap(), None);
    // What is left in the folder is rubbish, and goes.
    assert!(!store.drop_memory(&lease).unwrap() && !store.memory_folder(&hash).exists());
    keep("two");
    assert!(store.drop_memory(&lease).unwrap() && !store.memory_folder(&hash).exists());
    keep("three");
    let removed = store.remove(lease).unwrap();
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert!(
        removed[1].starts_with("memory of session sesn_1 ("),
        "{removed:?}"
    );
    assert!(!store.folder(&hash).exists());
}
