//! Sessions over a platform without VMs: the journal, the modes, and what happens when things die.

mod copying;
mod fake;
mod lives;
mod memory;
mod modes;

use crate::{
    Hands, HandsError, HandsFactory, Isolation, Release, SessionFactory, SessionsConfig, SessionsError,
    ToolCall, outcome,
};
use fake::{Fake, FakePlatform};
use omnirun_ids::{ByteSize, SessionKey};
use omnirun_redact::Guest;
use omnirun_store::{
    DataDir, Db,
    sessions::{Durability, SessionHash},
};
use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};
use tokio_util::sync::CancellationToken;

struct Host {
    tmp: tempfile::TempDir,
    fake: Arc<Fake>,
    config: SessionsConfig,
}

impl Host {
    fn new(isolation: Isolation) -> Self {
        let config = SessionsConfig {
            isolation,
            floor: Some(ByteSize(0)),
            keep_memory: ByteSize(0),
            ..SessionsConfig::new("default".parse().unwrap())
        };
        Self {
            tmp: tempfile::tempdir().unwrap(),
            fake: Fake::new(),
            config,
        }
    }

    /// A new process on this host.
    fn process(&self) -> SessionFactory {
        let dir = DataDir::open(Some(self.tmp.path().join("d"))).unwrap();
        let db = Db::open(&dir).unwrap();
        SessionFactory::new(
            self.config.clone(),
            Arc::new(FakePlatform(self.fake.clone())),
            &db,
            &dir,
        )
        .unwrap()
    }

    async fn open(&self) -> Box<dyn Hands> {
        self.process().open(&key(), &BTreeMap::new()).await.unwrap()
    }

    fn has_disk(&self) -> bool {
        self.process()
            .store()
            .disk_path(&SessionHash::of(&key()))
            .exists()
    }
}

fn key() -> SessionKey {
    SessionKey {
        origin: "http://127.0.0.1:1".into(),
        environment: "env_1".parse().unwrap(),
        session: "sesn_1".parse().unwrap(),
    }
}

fn bash(id: &str, command: &str) -> ToolCall {
    ToolCall {
        id: id.parse().unwrap(),
        name: "bash".into(),
        input: Guest(serde_json::json!({ "command": command }).to_string()),
    }
}

async fn run(hands: &mut Box<dyn Hands>, id: &str, command: &str) -> crate::CallOutcome {
    hands
        .call(&bash(id, command), CancellationToken::new())
        .await
        .unwrap()
}

fn text(outcome: &crate::CallOutcome) -> String {
    let blocks = outcome.content_json();
    blocks
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["text"].as_str().unwrap_or("?"))
        .collect::<Vec<_>>()
        .join("|")
}

#[tokio::test]
async fn a_result_is_returned_as_it_was_until_it_is_posted() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    let first = run(&mut hands, "sevt_1", "a").await;
    drop(hands);
    let mut hands = host.open().await;
    let again = run(&mut hands, "sevt_1", "a").await;
    assert_eq!(
        (again.content.clone(), again.exit_code),
        (first.content, first.exit_code)
    );
    assert_eq!((host.fake.runs("a"), again.sandbox), (1, None));
    hands.posted(&"sevt_1".parse().unwrap()).await.unwrap();
    let error = hands
        .call(&bash("sevt_1", "a"), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(error, HandsError::Answered { .. }), "{error}");
    assert_eq!(host.fake.runs("a"), 1);
}

#[tokio::test]
async fn a_call_that_was_cut_off_is_never_run_again() {
    for isolation in [Isolation::Call, Isolation::Session] {
        let host = Host::new(isolation);
        let mut hands = host.open().await;
        {
            let call = bash("sevt_1", "until-cancelled");
            let running = hands.call(&call, CancellationToken::new());
            tokio::pin!(running);
            tokio::select! {
                _ = &mut running => panic!("it does not end"),
                () = wait_for(|| host.fake.runs("until-cancelled") == 1) => {}
            }
        }
        // Dropped in the same process: its VM is not trusted any more.
        assert!(text(&run(&mut hands, "sevt_2", "a").await).contains("ran a in sbx_2"));
        drop(hands);
        // And after the death of the process.
        let mut hands = host.open().await;
        let outcome = run(&mut hands, "sevt_1", "until-cancelled").await;
        assert_eq!(
            (outcome.is_error, text(&outcome)),
            (true, outcome::INTERRUPTED.to_owned())
        );
        // The answer is durable like any other.
        assert_eq!(
            run(&mut hands, "sevt_1", "until-cancelled").await.content,
            outcome.content
        );
        assert_eq!(host.fake.runs("until-cancelled"), 1);
    }
}

async fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_clone_that_fails_before_the_start_is_replaced() {
    let host = Host::new(Isolation::Call);
    host.fake.failing_claims.store(2, SeqCst);
    let mut hands = host.open().await;
    assert_eq!(text(&run(&mut hands, "sevt_1", "a").await), "ran a in sbx_3");

    host.fake.failing_claims.store(100, SeqCst);
    let error = hands
        .call(&bash("sevt_2", "b"), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(error, HandsError::Failed { .. }), "{error}");
    assert_eq!(host.fake.made.load(SeqCst), 6, "no more than three tries");
    // Nothing has run, so the call may be made again.
    host.fake.failing_claims.store(0, SeqCst);
    assert_eq!(text(&run(&mut hands, "sevt_2", "b").await), "ran b in sbx_7");
}

#[tokio::test]
async fn bad_input_costs_no_sandbox() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    for (n, (name, input)) in [
        ("bash", "{\"command\": 3}"),
        ("bash", "not json"),
        ("read", "{}"),
        ("frobnicate", "{}"),
    ]
    .into_iter()
    .enumerate()
    {
        let call = ToolCall {
            id: format!("sevt_{n}").parse().unwrap(),
            name: name.into(),
            input: Guest(input.into()),
        };
        let outcome = hands.call(&call, CancellationToken::new()).await.unwrap();
        assert!(outcome.is_error && outcome.sandbox.is_none(), "{name} {input}");
        assert_eq!(
            hands.call(&call, CancellationToken::new()).await.unwrap().content,
            outcome.content
        );
    }
    assert_eq!(host.fake.made.load(SeqCst), 0);
}

#[tokio::test]
async fn one_id_with_two_inputs_runs_once() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    run(&mut hands, "sevt_1", "a").await;
    let other = run(&mut hands, "sevt_1", "b").await;
    assert!(other.is_error && host.fake.runs("b") == 0);
}

#[tokio::test]
async fn a_ruined_disk_gives_each_call_the_same_error_and_stays() {
    let host = Host::new(Isolation::Call);
    host.fake.bad_disk.store(true, SeqCst);
    let mut hands = host.open().await;
    for id in ["sevt_1", "sevt_2"] {
        let outcome = run(&mut hands, id, "a").await;
        assert_eq!(
            (outcome.is_error, text(&outcome)),
            (true, outcome::DISK_UNUSABLE.to_owned())
        );
    }
    assert_eq!((host.fake.runs("a"), host.fake.made.load(SeqCst)), (0, 2));
    hands.close(Release::Keep).await.unwrap();
    assert!(host.has_disk());
}

#[tokio::test]
async fn a_vm_that_dies_under_a_call_is_an_error_that_says_so() {
    for isolation in [Isolation::Call, Isolation::Session] {
        let host = Host::new(isolation);
        let mut hands = host.open().await;
        for (n, command) in ["crash", "hang-up", "refuse"].into_iter().enumerate() {
            let outcome = run(&mut hands, &format!("sevt_{n}"), command).await;
            assert!(
                outcome.is_error && text(&outcome).contains("check what it did"),
                "{}",
                text(&outcome)
            );
        }
        let next = text(&run(&mut hands, "sevt_9", "a").await);
        assert!(next.starts_with("ran a in sbx_4"), "{next}");
        assert_eq!(next.contains(outcome::RESTARTED), isolation == Isolation::Session);
    }
}

#[tokio::test]
async fn a_vm_that_dies_between_calls_is_replaced_and_the_model_is_told() {
    let host = Host::new(Isolation::Session);
    let mut hands = host.open().await;
    run(&mut hands, "sevt_1", "a").await;
    host.fake.crash_vms();
    let next = text(&run(&mut hands, "sevt_2", "b").await);
    assert!(
        next.starts_with("ran b in sbx_2") && next.contains(outcome::RESTARTED),
        "{next}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_vm_count() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    assert_eq!(
        text(&run(&mut hands, "sevt_1", "last-words").await),
        "ran last-words in sbx_1"
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_ended() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    let outcome = run(&mut hands, "sevt_1", "stuck").await;
    assert!(
        outcome.is_error && text(&outcome).contains("did not answer"),
        "{}",
        text(&outcome)
    );
    assert!(text(&run(&mut hands, "sevt_2", "a").await).contains("sbx_2"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_has_its_partial_output() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    let cancel = CancellationToken::new();
    let (call, ran) = (bash("sevt_1", "until-cancelled"), || {
        host.fake.runs("until-cancelled") == 1
    });
    let running = hands.call(&call, cancel.clone());
    let (outcome, ()) = tokio::join!(running, async {
        wait_for(ran).await;
        cancel.cancel();
    });
    let outcome = outcome.unwrap();
    assert_eq!((outcome.is_error, text(&outcome)), (true, "partial".to_owned()));

    // Cancelled before its start it has not run, and may be run another time.
    let error = hands.call(&bash("sevt_2", "a"), cancel).await.unwrap_err();
    assert!(matches!(error, HandsError::Cancelled), "{error}");
    assert_eq!(text(&run(&mut hands, "sevt_2", "a").await), "ran a in sbx_2");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_that_does_not_come_back_is_ended() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    let cancel = CancellationToken::new();
    let start = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(
        async {
            hands
                .call(&bash("sevt_1", "stuck"), cancel.clone())
                .await
                .unwrap()
        },
        async {
            wait_for(|| host.fake.runs("stuck") == 1).await;
            cancel.cancel();
        }
    );
    assert!(
        outcome.is_error && text(&outcome).contains("cancelled"),
        "{}",
        text(&outcome)
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_call_that_has_run_and_cannot_be_recorded_is_no_call_that_never_ran() {
    let mut host = Host::new(Isolation::Call);
    host.config.durability = Durability::Power;
    let process = host.process();
    let mut hands = process.open(&key(), &BTreeMap::new()).await.unwrap();
    let (call, cancel) = (bash("sevt_1", "until-cancelled"), CancellationToken::new());
    let (outcome, ()) = tokio::join!(hands.call(&call, cancel.clone()), async {
        wait_for(|| host.fake.runs("until-cancelled") == 1).await;
        std::fs::remove_file(process.store().disk_path(&SessionHash::of(&key()))).unwrap();
        cancel.cancel();
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, HandsError::Unrecorded(_)), "{error}");
}

#[tokio::test]
async fn notes_of_ours_are_in_the_result() {
    let host = Host::new(Isolation::Call);
    let mut hands = host.open().await;
    assert!(text(&run(&mut hands, "sevt_1", "background").await).contains("1 process was still running"));
    assert!(text(&run(&mut hands, "sevt_2", "unsynced").await).contains("may be missing"));
}
