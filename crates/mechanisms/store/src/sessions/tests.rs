use super::*;
use crate::now_ms;
use omnirun_ids::{ApiId, Digest, SessionKey};
use omnirun_redact::Guest;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
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

fn start<'a>(id: &'a ApiId, input: &'a Digest) -> CallStart<'a> {
    CallStart {
        id,
        tool: "bash",
        input_digest: input,
        input_bytes: 3,
        sandbox: "sbx_1",
    }
}

fn result(text: &str) -> StoredResult {
    StoredResult {
        is_error: false,
        content: Guest(text.to_owned()),
        exit_code: Some(0),
    }
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
fn a_call_goes_through_the_journal_once() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    let (id, input) = ("sevt_1".parse().unwrap(), digest(7));
    assert_eq!(
        store.start_call(&lease, &start(&id, &input)).unwrap(),
        Admission::Run
    );
    assert_eq!(
        f.open().start_call(&lease, &start(&id, &input)).unwrap(),
        Admission::Interrupted
    );
    store.finish_call(&lease, &id, &result("out")).unwrap();
    // A second result does not replace what may be on its way already.
    assert!(store.finish_call(&lease, &id, &result("other")).is_err());
    assert_eq!(
        f.open().start_call(&lease, &start(&id, &input)).unwrap(),
        Admission::Stored(result("out"))
    );
    assert_eq!(
        store.start_call(&lease, &start(&id, &digest(8))).unwrap(),
        Admission::Differs
    );
    store.call_posted(&lease, &id).unwrap();
    assert_eq!(
        f.open().start_call(&lease, &start(&id, &input)).unwrap(),
        Admission::Answered
    );
    assert_eq!(store.call_count(lease.hash()).unwrap(), 1);
}

#[test]
fn what_was_posted_is_in_no_file_any_more() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    let (id, input) = ("sevt_1".parse().unwrap(), digest(7));
    let secret = "tool-output-".repeat(2000);
    store.start_call(&lease, &start(&id, &input)).unwrap();
    store.finish_call(&lease, &id, &result(&secret)).unwrap();
    store.call_posted(&lease, &id).unwrap();
    store.remove(lease).unwrap();
    drop(store);
    for entry in fs::read_dir(f.tmp.path().join("d"))
        .unwrap()
        .flatten()
        .filter(|e| e.path().is_file())
    {
        let bytes = fs::read(entry.path()).unwrap();
        let found = bytes.windows(12).any(|w| w == b"tool-output-");
        assert!(!found, "{}", entry.path().display());
    }
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

#[derive(Debug, Clone)]
enum Step {
    Start { call: u8, input: u8 },
    Finish { call: u8 },
    Posted { call: u8 },
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let call = 0..3u8;
    let step = prop_oneof![
        (call.clone(), 0..2u8).prop_map(|(call, input)| Step::Start { call, input }),
        call.clone().prop_map(|call| Step::Finish { call }),
        call.prop_map(|call| Step::Posted { call }),
        Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, with a crash anywhere: a call is told to run at most once, and its result,
    /// once there, is the same ever after until it is posted.
    #[test]
    fn no_call_runs_twice_and_no_result_changes(steps in steps()) {
        let f = Fixture::new();
        let mut store = f.open();
        let mut lease = ready(&store, "sesn_1");
        let mut ran: BTreeMap<u8, u8> = BTreeMap::new();
        let mut results: BTreeMap<u8, StoredResult> = BTreeMap::new();
        let mut posted: Vec<u8> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Start { call, input } => {
                    let id = format!("sevt_{call}").parse().unwrap();
                    let admission = store.start_call(&lease, &start(&id, &digest(input))).unwrap();
                    match ran.get(&call) {
                        None => {
                            prop_assert_eq!(admission, Admission::Run);
                            ran.insert(call, input);
                        }
                        Some(_) if posted.contains(&call) => prop_assert_eq!(admission, Admission::Answered),
                        Some(first) if *first != input => prop_assert_eq!(admission, Admission::Differs),
                        Some(_) => match results.get(&call) {
                            Some(r) => prop_assert_eq!(admission, Admission::Stored(r.clone())),
                            None => prop_assert_eq!(admission, Admission::Interrupted),
                        },
                    }
                }
                Step::Finish { call } => {
                    let r = result(&format!("result {n}"));
                    let done = store.finish_call(&lease, &format!("sevt_{call}").parse().unwrap(), &r);
                    let expected = ran.contains_key(&call) && !results.contains_key(&call);
                    prop_assert_eq!(done.is_ok(), expected);
                    if expected {
                        results.insert(call, r);
                    }
                }
                Step::Posted { call } => {
                    store.call_posted(&lease, &format!("sevt_{call}").parse().unwrap()).unwrap();
                    if results.contains_key(&call) {
                        posted.push(call);
                    }
                }
                Step::Crash => {
                    drop(lease);
                    store = f.open();
                    lease = store.lease(&SessionHash::of(&key("sesn_1"))).unwrap().unwrap();
                }
            }
        }
    }
}

#[test]
fn expiry_does_not_overflow() {
    let f = Fixture::new();
    let store = f.open();
    let lease = ready(&store, "sesn_1");
    store.touch(&lease, Duration::MAX).unwrap();
    assert!(store.get(lease.hash()).unwrap().unwrap().expires_ms() > now_ms());
}
