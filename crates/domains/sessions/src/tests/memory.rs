//! What a session's VM had in memory, between two work items.

use super::*;
use std::fs;

fn host() -> Host {
    let mut host = Host::new(Isolation::Session);
    host.config.keep_memory = ByteSize::gib(8);
    host
}

fn hash() -> SessionHash {
    SessionHash::of(&key())
}

impl Host {
    fn memory(&self) -> Option<String> {
        let store = self.process().shared.store.clone();
        let row = store.get(&hash()).unwrap().unwrap();
        assert!(row.memory.is_none() || store.memory_folder(&hash()).exists());
        row.memory
    }

    /// Runs a call as a work item of its own.
    async fn item(&self, id: &str) -> String {
        let mut hands = self.open().await;
        let text = text(&run(&mut hands, id, "a").await);
        hands.close(Release::Keep).await.unwrap();
        text
    }
}

#[tokio::test]
async fn the_next_item_finds_the_sandbox_of_the_last_one() {
    let host = host();
    let mut generations = Vec::new();
    for id in ["sevt_1", "sevt_2", "sevt_3"] {
        assert_eq!(host.item(id).await, "ran a in sbx_1");
        assert!(host.fake.living.lock().unwrap().is_empty(), "its memory is free");
        generations.push(host.memory().unwrap());
    }
    generations.sort();
    generations.dedup();
    assert_eq!(generations.len(), 3);
    // Only the first had use for a clone before its call.
    assert_eq!(host.fake.refills.load(SeqCst), 1);
    // An item without a call leaves it as it is.
    let before = host.memory();
    host.open().await.close(Release::Keep).await.unwrap();
    assert!(before.is_some() && before == host.memory());
    assert_eq!(host.item("sevt_4").await, "ran a in sbx_1");
    let said = host.open().await.close(Release::Remove).await.unwrap();
    assert!(
        said.iter().any(|s| s.contains("memory of session sesn_1")),
        "{said:?}"
    );
    assert!(!host.process().store().folder(&hash()).exists());
}

#[tokio::test]
async fn one_that_is_of_no_use_is_said_once_and_gone() {
    let host = host();
    host.item("sevt_1").await;
    host.fake.failing_resumes.store(1, SeqCst);
    let text = host.item("sevt_2").await;
    assert!(
        text.starts_with("ran a in sbx_2") && text.contains(outcome::RESTARTED),
        "{text}"
    );
    assert_eq!(host.item("sevt_3").await, "ran a in sbx_2");
    // It cannot be kept.
    host.fake.failing_suspends.store(1, SeqCst);
    assert_eq!(host.item("sevt_4").await, "ran a in sbx_2");
    assert_eq!(host.memory(), None);
    let text = host.item("sevt_5").await;
    assert!(
        text.contains("sbx_") && text.contains(outcome::RESTARTED),
        "{text}"
    );
}

/// Whoever dies half-way leaves the memory that was there, or none: never one that is used twice.
#[tokio::test]
async fn a_death_at_any_step_leaves_it_or_nothing() {
    let host = host();
    host.item("sevt_1").await;
    let store = host.process().shared.store.clone();
    let folder = store.memory_folder(&hash());
    let generation = host.memory().unwrap();
    let copy = host.tmp.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(folder.join("memory"), copy.join("memory")).unwrap();
    // Taken, not yet used.
    let lease = store.lease(&hash()).unwrap().unwrap();
    assert_eq!(store.take_memory(&lease).unwrap().as_deref(), Some(&*generation));
    drop(lease);
    let text = host.item("sevt_2").await;
    assert!(
        text.contains("sbx_2") && text.contains(outcome::RESTARTED),
        "{text}"
    );
    // The old files come back from somewhere: they are of another generation.
    fs::copy(copy.join("memory"), folder.join("memory")).unwrap();
    let text = host.item("sevt_3").await;
    assert!(
        text.contains("sbx_") && text.contains(outcome::RESTARTED),
        "{text}"
    );
    // Written, not yet recorded.
    let lease = store.lease(&hash()).unwrap().unwrap();
    store.take_memory(&lease).unwrap();
    drop(lease);
    assert!(folder.exists());
    let mut hands = host.open().await;
    let text = text_of(&mut hands).await;
    assert!(text.contains(outcome::RESTARTED) && !folder.exists(), "{text}");
    // Killed while it serves: as ever.
    drop(hands);
    assert!(host.item("sevt_5").await.contains(outcome::RESTARTED));
}

async fn text_of(hands: &mut Box<dyn Hands>) -> String {
    text(&run(hands, "sevt_4", "a").await)
}

#[tokio::test]
async fn a_disk_that_another_vm_has_had_belongs_to_no_memory() {
    let mut host = host();
    // Files in and out.
    for (round, (id, next)) in [("sevt_1", "sevt_2"), ("sevt_3", "sevt_4")]
        .into_iter()
        .enumerate()
    {
        host.item(id).await;
        assert!(host.memory().is_some());
        let process = host.process();
        let out = host.tmp.path().join("out");
        match round {
            0 => drop(process.copy_out(&hash(), "file", &out).await),
            _ => process.copy_in(&hash(), host.tmp.path(), "in/").await.unwrap(),
        }
        assert_eq!(host.memory(), None);
        assert!(!process.store().memory_folder(&hash()).exists());
        assert!(host.item(next).await.contains(outcome::RESTARTED));
    }
    // A call in a sandbox of its own.
    host.config.isolation = Isolation::Call;
    assert!(host.item("sevt_5").await.contains(outcome::RESTARTED));
    assert_eq!(host.memory(), None);
    // Kept by one process, and the next is told to keep none.
    host.config.isolation = Isolation::Session;
    host.item("sevt_6").await;
    assert!(host.memory().is_some());
    host.config.keep_memory = ByteSize(0);
    assert!(host.item("sevt_7").await.contains(outcome::RESTARTED));
    assert_eq!(host.memory(), None);
}

#[tokio::test]
async fn there_is_room_for_so_many() {
    let mut host = host();
    host.config.size.memory = ByteSize::gib(1);
    // A memory may take a gigabyte, and these take a page: room for one more beside any number of them.
    host.config.keep_memory = ByteSize::gib(1);
    host.item("sevt_1").await;
    assert!(host.memory().is_some());
    let other = SessionKey {
        session: "sesn_2".parse().unwrap(),
        ..key()
    };
    let mut hands = host.process().open(&other, &BTreeMap::new()).await.unwrap();
    run(&mut hands, "sevt_1", "a").await;
    hands.close(Release::Keep).await.unwrap();
    assert_eq!(host.memory(), None, "the one that was used longer ago made room");
    let store = host.process().shared.store.clone();
    assert!(
        store
            .get(&SessionHash::of(&other))
            .unwrap()
            .unwrap()
            .memory
            .is_some()
    );
    // None at all.
    host.config.keep_memory = ByteSize::mib(1023);
    host.item("sevt_2").await;
    assert_eq!(host.memory(), None);
    // Nor where the file system has no room.
    host.config.keep_memory = ByteSize::gib(8);
    host.item("sevt_3").await;
    assert!(host.memory().is_some());
    host.config.floor = Some(ByteSize(u64::MAX));
    host.item("sevt_4").await;
    assert_eq!(host.memory(), None);
    // A session that is given up to another worker writes nothing.
    host.config.floor = Some(ByteSize(0));
    let mut hands = host.open().await;
    run(&mut hands, "sevt_5", "a").await;
    hands.close(Release::Lost).await.unwrap();
    assert_eq!(host.memory(), None);
}
