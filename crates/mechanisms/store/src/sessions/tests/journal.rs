//! The call journal: once, in order, and forgotten when it was posted.

use super::{Fixture, digest, key, ready};
use crate::sessions::{Admission, CallStart, SessionHash, StoredResult};
use omnirun_ids::{ApiId, Digest};
use omnirun_redact::Guest;
use proptest::prelude::*;
use std::{collections::BTreeMap, fs};

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
