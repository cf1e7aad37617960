//! Twenty sessions of twenty calls against the simulator, which audits what the worker does while it fails at random.
//! `CHAOS_SEED` repeats a run.

mod support;

use omnirun_redact::Secret;
use omnirun_sim::{Scenario, Sim};
use omnirun_work_client::{Client, ClientConfig, Limits};
use omnirun_worker::{Ignore, ItemConfig, Shutdown, WorkerConfig};
use std::{fmt::Write, net::Ipv4Addr, sync::Arc, time::Duration};
use support::{FakeHands, PACE, Setup, ms};

const SESSIONS: usize = 20;
const CALLS: usize = 20;

fn scenario(seed: u64) -> String {
    let mut yaml = format!(
        "name: chaos\nqueue: {{ttl_seconds: 3, requeue_after: 100ms}}\nevents: {{think: 1ms, noise: true}}\nrandom:\n  \
         seed: {seed}\n  rates:\n    poll: {{status_500: 0.05, drop_after: 0.02}}\n    ack: {{status_500: 0.03}}\n    \
         heartbeat: {{status_500: 0.03, drop_before: 0.02, lose_lease: 0.004}}\n    session_get: {{status_500: 0.05, drop_before: 0.03}}\n    \
         events_list: {{status_500: 0.05, drop_after: 0.03, status_429: 0.03}}\n    \
         events_send: {{status_500: 0.05, drop_after: 0.05, drop_before: 0.03, delay: 0.05, delay_for: 100ms}}\n    \
         events_stream: {{status_500: 0.05, stream_close: 0.1, stream_break: 0.1}}\n    stop: {{status_500: 0.05}}\nsessions:\n"
    );
    for session in 0..SESSIONS {
        let _ = writeln!(yaml, "  - name: s{session}\n    steps:\n      - user: Go.");
        for call in 0..CALLS {
            let _ = writeln!(
                yaml,
                "      - call: {{name: c{call}, tool: bash, input: {{command: x}}, expect: {{any: true}}}}"
            );
        }
    }
    yaml
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_answered_once_and_no_rule_is_broken() {
    let seed = match std::env::var("CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("CHAOS_SEED is a number"),
        Err(_) => fastrand::u64(..1 << 32),
    };
    println!("CHAOS_SEED={seed}");
    let scenario = Scenario::parse(&scenario(seed)).expect("a scenario");
    let sim = Sim::start(scenario, (Ipv4Addr::LOCALHOST, 0).into())
        .await
        .expect("the simulator starts");
    let setup = Setup::default();
    let hands = FakeHands::default();
    let item = ItemConfig {
        client: Client::new(ClientConfig {
            base: sim.url().parse().expect("a URL"),
            user_agent: "omnirun/test".into(),
            limits: Limits {
                pace: PACE,
                ..Limits::default()
            },
        })
        .expect("a client"),
        environment: sim.environment_id().parse().expect("an id"),
        key: Some(Secret::new(sim.environment_key())),
        hands: Arc::new(hands.clone()),
        max_idle: Some(ms(300)),
        timing: setup.timing,
        wind_down: setup.wind_down,
        observer: Arc::new(Ignore),
    };
    let config = Arc::new(WorkerConfig {
        item: Arc::new(item),
        key: Secret::new(sim.environment_key()),
        worker_id: "chaos".into(),
        max_sessions: SESSIONS,
        drain: false,
    });
    let shutdown = Shutdown::new();
    let doors = shutdown.clone();
    let worker = tokio::spawn(async move { omnirun_worker::run(&config, &doors).await });
    let done = sim.wait_done(Duration::from_secs(120)).await;
    shutdown.wind_down();
    let _ = tokio::time::timeout(Duration::from_secs(20), worker)
        .await
        .expect("the worker ends");
    let report = sim.stop().await;
    let broken: Vec<String> = report.violations.iter().map(|v| format!("{v:?}")).collect();
    assert!(done && report.ok, "seed {seed}: {:?} {broken:?}", report.failures);
    assert!(!report.faults.is_empty(), "there were faults");
    let seen = hands.seen.lock().expect("not poisoned");
    let mut ran = seen.ran.clone();
    ran.sort();
    assert!(
        ran.windows(2).all(|w| w[0] != w[1]),
        "seed {seed}: a call ran twice"
    );
    for session in &report.sessions {
        assert_eq!(session.calls.len(), CALLS, "seed {seed}: {}", session.name);
        for call in &session.calls {
            assert_eq!(
                call.received - call.repeats,
                1,
                "seed {seed}: {} {}",
                session.name,
                call.name
            );
        }
    }
}
