//! What the calls of a session share in either mode.

use super::*;

#[tokio::test]
async fn in_mode_call_each_call_has_a_sandbox_of_its_own() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    let one = run(&mut hands, "sevt_1", "a").await;
    let two = run(&mut hands, "sevt_2", "b").await;
    assert_eq!(text(&one), "ran a in sbx_1");
    assert_eq!((two.sandbox.as_deref(), two.exit_code), (Some("sbx_2"), Some(0)));
    assert!(one.timings.iter().any(|(name, _)| *name == "guest"));
    hands.close(Release::Keep).await.unwrap();
    assert!(host.fake.living.lock().unwrap().is_empty());
    assert!(host.has_disk());
}

#[tokio::test]
async fn in_mode_session_one_sandbox_serves_all_calls() {
    let host = Host::new(Isolation::Session);
    let mut hands = host.open().await;
    for id in ["sevt_1", "sevt_2", "sevt_3"] {
        assert_eq!(text(&run(&mut hands, id, "a").await), "ran a in sbx_1");
    }
    hands.close(Release::Keep).await.unwrap();
    // The shell went with the VM, and the model is told, once.
    let mut hands = host.open().await;
    let first = text(&run(&mut hands, "sevt_4", "a").await);
    assert!(first.contains(outcome::RESTARTED), "{first}");
    assert_eq!(text(&run(&mut hands, "sevt_5", "a").await), "ran a in sbx_2");
}

#[tokio::test]
async fn a_session_may_ask_for_more_isolation() {
    let host = Host::new(Isolation::Session);
    let metadata = BTreeMap::from([("omnirun.isolation".to_owned(), "call".to_owned())]);
    let mut hands = host.process().open(&key(), &metadata).await.unwrap();
    run(&mut hands, "sevt_1", "a").await;
    assert_eq!(text(&run(&mut hands, "sevt_2", "a").await), "ran a in sbx_2");
}

#[tokio::test]
async fn in_a_living_sandbox_the_files_of_what_writes_are_synced_with_the_call() {
    let host = Host::new(Isolation::Session);
    let mut hands = host.open().await;
    assert!(!text(&run(&mut hands, "sevt_1", "a").await).contains("missing"));
    assert!(text(&run(&mut hands, "sevt_2", "unsynced").await).contains("may be missing"));
    let read = ToolCall {
        name: "read".into(),
        input: Guest(r#"{"file_path":"a"}"#.into()),
        ..bash("sevt_3", "")
    };
    let outcome = hands.call(&read, CancellationToken::new()).await.unwrap();
    assert!(!text(&outcome).contains("missing"), "{}", text(&outcome));
}

/// Sandboxes of one group may share memory pages: sessions of one environment are one, and nobody else's are.
#[tokio::test]
async fn each_environment_is_an_isolation_group() {
    let host = Host::new(Isolation::Call);
    let named = |origin: &str, environment: &str, session: &str| SessionKey {
        origin: origin.into(),
        environment: environment.parse().unwrap(),
        session: session.parse().unwrap(),
    };
    let mut groups = Vec::new();
    for key in [
        named("https://one", "env_1", "sesn_1"),
        named("https://one", "env_1", "sesn_2"),
        named("https://one", "env_2", "sesn_1"),
        named("https://two", "env_1", "sesn_1"),
    ] {
        let hands = host.process().open(&key, &BTreeMap::new()).await.unwrap();
        hands.close(Release::Keep).await.unwrap();
        // Every way to its sandboxes is the same: a worker's first snapshot, and files in and out.
        let group = crate::isolation_group(&key.origin, &key.environment);
        let out = host.tmp.path().join("out");
        let _ = host
            .process()
            .copy_out(&SessionHash::of(&key), "file", &out)
            .await;
        let asked = std::mem::take(&mut *host.fake.groups.lock().unwrap());
        assert_eq!(asked, [group.clone(), group.clone()]);
        groups.push(group);
    }
    assert_eq!(groups[0], groups[1]);
    for (first, second) in [(1, 2), (1, 3), (2, 3)] {
        assert_ne!(groups[first], groups[second]);
    }
    assert_ne!(groups[0], omnirun_sandboxes::IsolationGroup::local());
}
