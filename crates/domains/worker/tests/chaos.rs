//! Twenty sessions of twenty calls against a server that fails at random: each call answered exactly once, none run
//! twice, no item left unfinished. `CHAOS_SEED` repeats a run.

mod support;

use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use support::{Api, Reply, Setup, call, idle, item, ms};

const SESSIONS: usize = 20;
const CALLS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_answered_once_and_none_runs_twice() {
    let seed = match std::env::var("CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("CHAOS_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let api = Api::start().await;
    for session in 0..SESSIONS {
        api.session(
            session,
            [call(
                &format!("c{session}_0"),
                "bash",
                json!({"ms":rng.u64(0..20)}),
            )],
        );
    }
    {
        let mut inner = api.lock();
        let mut dice = rng.fork();
        // The agent's next call comes with the result of the last one, as the model would send it.
        let mut next: HashMap<String, usize> = HashMap::new();
        inner.on_result = Some(Box::new(move |session, event| {
            let n = next.entry(session.to_owned()).or_default();
            let number: usize = session.strip_prefix("sesn_").unwrap().parse().unwrap();
            if event["tool_use_id"] != format!("c{number}_{n}") {
                return Vec::new();
            }
            *n += 1;
            if *n == CALLS {
                return vec![idle("end_turn")];
            }
            vec![call(
                &format!("c{number}_{n}"),
                "bash",
                json!({"ms":dice.u64(0..20)}),
            )]
        }));
        let mut dice = rng.fork();
        inner.chaos = Some(Box::new(move |endpoint| match (endpoint, dice.u32(0..100)) {
            // A heartbeat whose answer is lost costs the lease: the item comes back below.
            ("heartbeat", 0) => Reply::Lost,
            ("heartbeat", 1..4) => Reply::Status(500),
            ("heartbeat", _) => Reply::Normal,
            (_, 0..4) => Reply::Status(500),
            (_, 4..6) => Reply::Status(429),
            ("poll" | "ack", _) => Reply::Normal,
            (_, 6..9) => Reply::Lost,
            ("stream", 9..30) => Reply::Bytes(b"event: agent.tool_use\ndata: {\"ty".to_vec()),
            _ => Reply::Normal,
        }));
    }
    let worker = Setup {
        max_sessions: SESSIONS,
        ..Setup::default()
    }
    .start(&api);

    // The server's part: drops streams, and queues again what has no holder.
    let server = {
        let (api, mut dice) = (api.clone(), rng.fork());
        tokio::spawn(async move {
            let mut quiet: HashMap<usize, std::time::Instant> =
                (0..SESSIONS).map(|n| (n, std::time::Instant::now())).collect();
            loop {
                tokio::time::sleep(ms(40)).await;
                api.close_streams(dice.usize(0..SESSIONS));
                let mut inner = api.lock();
                for n in 0..SESSIONS {
                    let work = format!("/work/work_{n}/");
                    let stopped = inner
                        .asked
                        .iter()
                        .rev()
                        .take(400)
                        .any(|a| a.endpoint == "stop" && a.path.contains(&work));
                    let done = inner.sessions[&format!("sesn_{n}")].answered().len() >= CALLS;
                    let beat = inner
                        .asked
                        .iter()
                        .rev()
                        .take(400)
                        .find(|a| a.endpoint == "heartbeat" && a.path.contains(&work));
                    let silent = beat.is_none_or(|a| a.at.elapsed() > ms(700)) && !inner.asked.is_empty();
                    let queued = inner.queue.iter().any(|w| w["id"] == format!("work_{n}"));
                    let recent = quiet.get(&n).is_some_and(|at| at.elapsed() < ms(1500));
                    if !done && !queued && !recent && (silent || stopped) {
                        quiet.insert(n, std::time::Instant::now());
                        inner.beats.remove(&format!("work_{n}"));
                        inner.beats_before.remove(&format!("work_{n}"));
                        inner.states.remove(&format!("work_{n}"));
                        inner.queue.push_back(item(n, None));
                    }
                }
            }
        })
    };

    api.within(Duration::from_secs(120), "all calls answered", |i| {
        i.sessions.values().all(|s| s.answered().len() >= CALLS)
    })
    .await;
    server.abort();
    api.lock().chaos = None;
    let (_, hands) = worker.end().await;

    let inner = api.lock();
    for (name, session) in &inner.sessions {
        let number = name.strip_prefix("sesn_").unwrap();
        let mut answered = session.answered();
        answered.dedup();
        let expected: Vec<String> = (0..CALLS).map(|n| format!("c{number}_{n}")).collect();
        assert_eq!(answered, expected, "seed {seed}: {name}");
        // The same result may have arrived twice, when the first answer got lost; it is the same then.
        let results: HashMap<&str, Vec<&Value>> = session.log.iter().fold(HashMap::new(), |mut all, e| {
            if let Some(id) = e["tool_use_id"].as_str() {
                all.entry(id).or_default().push(&e["content"]);
            }
            all
        });
        assert!(
            results.values().all(|r| r.windows(2).all(|w| w[0] == w[1])),
            "seed {seed}: {name}"
        );
    }
    let seen = hands.seen.lock().unwrap();
    let mut ran = seen.ran.clone();
    ran.sort();
    let twice = ran.windows(2).filter(|w| w[0] == w[1]).count();
    assert_eq!(twice, 0, "seed {seed}");
    assert!(
        ran.len() >= SESSIONS * CALLS * 9 / 10,
        "seed {seed}: {}",
        ran.len()
    );
}
