//! A session's life on a host: who holds it, how it begins, when it goes.

use super::*;

/// Lets time pass on a paused clock: at once, and whatever was due by then has been done.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test]
async fn a_session_has_one_holder() {
    let host = Host::new(Isolation::Call);
    let hands = host.open().await;
    let second = host.process().open(&key(), &BTreeMap::new()).await;
    assert!(matches!(second.err(), Some(HandsError::Held { session }) if session == "sesn_1"));
    hands.close(Release::Keep).await.unwrap();
    host.open().await;
}

#[tokio::test]
async fn release_decides_about_the_disk() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    run(&mut hands, "sevt_1", "a").await;
    hands.close(Release::Lost).await.unwrap();
    assert!(host.has_disk());
    let said = host.open().await.close(Release::Remove).await.unwrap();
    assert!(
        said.iter().any(|s| s.contains("disk of session sesn_1")),
        "{said:?}"
    );
    assert!(!host.has_disk());
    // The same id later is a new session: the journal went as well.
    let mut hands = host.open().await;
    run(&mut hands, "sevt_1", "a").await;
    assert_eq!(host.fake.runs("a"), 2);
}

#[tokio::test]
async fn a_claimed_session_is_opened_over_the_pool_that_was_begun_for_it() {
    let host = Host::new(Isolation::Call);
    let process = host.process();
    process.warm(&key());
    wait_for(|| process.shared.warmed.is_ready(&key())).await;
    let mut hands = process.open(&key(), &BTreeMap::new()).await.unwrap();
    run(&mut hands, "sevt_1", "a").await;
    assert_eq!(host.fake.pools.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_nobody_opens_goes_and_a_later_claims_stays() {
    let host = Host::new(Isolation::Call);
    let process = host.process();
    let ready = || process.shared.warmed.is_ready(&key());
    process.warm(&key());
    wait_for(ready).await;
    tokio::time::advance(Duration::from_secs(40)).await;
    // Taken, and claimed again: the first claim's time is not the second's.
    assert!(process.shared.warmed.take(&key()).is_some());
    process.warm(&key());
    wait_for(ready).await;
    pass(Duration::from_secs(40)).await;
    assert!(ready());
    pass(Duration::from_secs(40)).await;
    assert!(!ready());
    // Opened before its pool was begun: the pool is not begun any more.
    process.warm(&key());
    process.shared.warmed.take(&key());
    let pools = host.fake.pools.load(SeqCst);
    pass(Duration::from_secs(40)).await;
    assert!(!ready() && host.fake.pools.load(SeqCst) == pools);
}

#[tokio::test]
async fn a_session_that_is_over_is_forgotten_without_being_opened() {
    let host = Host::new(Isolation::Call);
    assert!(host.process().forget(&key()).await.unwrap().is_empty());
    let hands = host.open().await;
    let held = host.process().forget(&key()).await;
    assert!(matches!(held, Err(HandsError::Held { .. })), "{held:?}");
    hands.close(Release::Keep).await.unwrap();
    assert_eq!(host.process().forget(&key()).await.unwrap().len(), 1);
    assert!(!host.has_disk());
    let left = std::fs::read_dir(host.tmp.path().join("d/sessions"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_disk_whose_base_is_gone_is_not_put_over_another() {
    let host = Host::new(Isolation::Call);
    host.open().await.close(Release::Keep).await.unwrap();
    host.fake.base_gone.store(true, SeqCst);
    let error = host.process().open(&key(), &BTreeMap::new()).await.err().unwrap();
    let HandsError::Failed { source, .. } = error else {
        panic!("{error}")
    };
    assert!(
        source.to_string().contains("omnirun session rm sesn_1"),
        "{source}"
    );
    assert!(host.has_disk());
}

#[tokio::test]
async fn no_session_starts_below_the_floor_but_old_ones_go_on() {
    let mut host = Host::new(Isolation::Call);
    host.open().await.close(Release::Keep).await.unwrap();
    host.config.floor = Some(ByteSize(u64::MAX));
    host.open().await.close(Release::Remove).await.unwrap();
    let error = host.process().open(&key(), &BTreeMap::new()).await.err().unwrap();
    let HandsError::Failed { source, .. } = error else {
        panic!("{error}")
    };
    assert!(source.to_string().contains("free space"), "{source}");
    let left = std::fs::read_dir(host.tmp.path().join("d/sessions"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_new_session_is_seeded_once_before_its_first_call() {
    let mut host = Host::new(Isolation::Call);
    let seed = host.tmp.path().join("seed");
    std::fs::create_dir(&seed).unwrap();
    std::fs::write(seed.join("README"), "hello").unwrap();
    host.config.seed = Some(seed);
    host.fake.failing_seeds.store(1, SeqCst);
    let mut hands = host.open().await;
    assert_eq!(text(&run(&mut hands, "sevt_1", "a").await), "ran a in sbx_2");
    run(&mut hands, "sevt_2", "a").await;
    hands.close(Release::Keep).await.unwrap();
    run(&mut host.open().await, "sevt_3", "a").await;
    assert_eq!(*host.fake.seeded.lock().unwrap(), ["README"]);

    host.config.seed = Some(host.tmp.path().join("nowhere"));
    let dir = DataDir::open(Some(host.tmp.path().join("d"))).unwrap();
    let db = Db::open(&dir).unwrap();
    let platform = Arc::new(FakePlatform(host.fake.clone()));
    let refused = SessionFactory::new(host.config.clone(), platform, &db, &dir);
    assert!(matches!(refused.err(), Some(SessionsError::Seed { .. })));
}

#[tokio::test]
async fn a_session_whose_time_is_over_goes_at_the_next_start() {
    let mut host = Host::new(Isolation::Call);
    host.config.keep = Duration::ZERO;
    host.open().await.close(Release::Keep).await.unwrap();
    assert!(!host.has_disk());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_runs_on_keeps_no_session_longer_than_its_time() {
    let mut host = Host::new(Isolation::Call);
    host.config.keep = Duration::ZERO;
    let process = host.process();
    let served = process.open(&key(), &BTreeMap::new()).await.unwrap();
    let disk = process.store().disk_path(&SessionHash::of(&key()));
    let _sweeping = process.keep_swept();
    pass(Duration::from_secs(600)).await;
    assert!(disk.exists(), "it is being served");
    served.close(Release::Keep).await.unwrap();
    assert!(disk.exists());
    pass(Duration::from_secs(600)).await;
    assert!(!disk.exists());
}
