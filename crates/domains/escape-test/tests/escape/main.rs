//! The whole: a namespace plays the guest of a real sandbox's network, in a lab, with the real proxy.
//!
//! This program is its own test harness, since it is run again: inside a lab, once for each test, and as the proxy's child.

#![allow(clippy::unwrap_used)] // helpers of tests

mod killed;
mod play;
mod witness;

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use omnirun_escape_test::{
    Mode, Outcome, Sandbox,
    attempts::{Attempt, Count, attempts},
    judge::Verdict,
    lab::{Lab, enter},
    report::render,
};
use play::Play;

/// The tests, and in how many parts each is run: side by side, in labs of their own, since they mostly wait.
const TESTS: [(&str, usize); 11] = [
    ("planted", 1),
    ("deaf-and-dumb", 1),
    ("killed", 1),
    ("none", 1),
    ("allow", 1),
    ("open", 1),
    ("unaware-allow", 1),
    ("unaware-open", 1),
    ("behind", 1),
    ("walls-of-allow", PARTS),
    ("walls-of-open", PARTS),
];
const PARTS: usize = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == play::CHILD) {
        return omnirun_egress::child::main();
    }
    if arguments.first().is_some_and(|first| first == killed::HOLD) {
        killed::hold();
        return ExitCode::SUCCESS;
    }
    if enter::inside() {
        inside(&arguments[0], arguments[1].parse().unwrap());
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("nothing tested: this takes root");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut failed = false;
    for (test, parts) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| test.contains(&***filter)) {
            continue;
        }
        let begun = Instant::now();
        if test == "killed" {
            killed::test();
            println!("test {test} ... ok ({:.1} s)", begun.elapsed().as_secs_f64());
            continue;
        }
        let part = |part: usize| enter::again(&[test, &part.to_string()]).unwrap().success();
        let ok = std::thread::scope(|scope| {
            let parts: Vec<_> = (0..parts)
                .map(|number| scope.spawn(move || part(number)))
                .collect();
            parts.into_iter().all(|part| part.join().unwrap())
        });
        let (outcome, seconds) = (if ok { "ok" } else { "FAILED" }, begun.elapsed().as_secs_f64());
        println!("test {test} ... {outcome} ({seconds:.1} s)");
        failed |= !ok;
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn inside(test: &str, part: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lab = Lab::build().unwrap();
        let test = async {
            match test {
                "planted" => witness::planted(&lab).await,
                "deaf-and-dumb" => witness::deaf_and_dumb(&lab).await,
                "none" => none(&lab).await,
                "allow" => green(Play::begin(&lab, Mode::Allow).await).await,
                "open" => green(Play::begin(&lab, Mode::Open).await).await,
                // The lab as if it were this host's own network.
                "unaware-allow" => green(Play::begin_unaware(&lab, Mode::Allow).await).await,
                "unaware-open" => green(Play::begin_unaware(&lab, Mode::Open).await).await,
                "behind" => behind(&lab).await,
                "walls-of-allow" => walls(&lab, Mode::Allow, part).await,
                "walls-of-open" => walls(&lab, Mode::Open, part).await,
                other => panic!("there is no test {other}"),
            }
        };
        tokio::select! {
            () = test => {}
            () = enter::abandoned() => panic!("nobody waits for this test"),
        }
    });
}

/// Where there is no card.
async fn none(lab: &Lab) {
    let report = play::without_card(lab, &play::Native::nowhere()).await;
    assert!(report.outcome == Outcome::Green, "{}", render(&report, false));
}

/// Everything at once.
async fn green(play: Play<'_>) {
    let report = play.run(None).await;
    play.end().await;
    assert!(report.outcome == Outcome::Green, "{}", render(&report, false));
}

/// Takes out every rule by itself, and each time makes the attempts that are meant for it: one of them must not pass.
///
/// The rule is shown as if it were there and had met nothing, so it is not by its absence that it is missed; but for those
/// that stand behind others, for which see [`behind`].
async fn walls(lab: &Lab, mode: Mode, part: usize) {
    let play = Play::begin(lab, mode).await;
    let rules = play.names().await;
    let meant: BTreeMap<String, Count> = attempts(mode, &play.world)
        .into_iter()
        .flat_map(|attempt| attempt.meets)
        .collect();
    play.end().await;
    let untried: Vec<&String> = rules.iter().filter(|rule| !meant.contains_key(*rule)).collect();
    assert_eq!(untried, [""; 0], "no attempt is made for these rules");
    let mut held = Vec::new();
    for rule in rules.iter().skip(part).step_by(PARTS) {
        let begun = Instant::now();
        let mut play = Play::begin(lab, mode).await;
        play.remove(rule, meant[rule] != Count::Stands).await;
        let only = |attempt: &Attempt| {
            attempt.id == "control-dns" || attempt.meets.iter().any(|(meant, _)| meant == rule)
        };
        let report = play.run(Some(&only)).await;
        play.end().await;
        let red: Vec<String> = report
            .attempts
            .iter()
            .filter(|row| row.verdict.is_red())
            .map(|row| format!("{} {}", row.id, row.verdict.as_str()))
            .collect();
        println!(
            "without {rule}: {} ({:.1} s)",
            red.join(", "),
            begun.elapsed().as_secs_f64()
        );
        if report.outcome != Outcome::Red {
            held.push(rule.clone());
        }
    }
    assert_eq!(
        held, [""; 0],
        "without these rules the test is as green as with them"
    );
}

/// Takes out a rule, and sees that those behind it stop what it stopped.
async fn behind(lab: &Lab) {
    for (front, behind) in [
        ("host-address", &["host-input"][..]),
        ("host-special", &["host-neighbours", "host-forward-special"]),
    ] {
        let mut play = Play::begin(lab, Mode::Open).await;
        play.remove(front, true).await;
        let before = play.rules().await.unwrap();
        let only = |attempt: &Attempt| attempt.meets.iter().any(|(meant, _)| meant == front);
        let report = play.run(Some(&only)).await;
        let after = play.rules().await.unwrap();
        play.end().await;
        for rule in behind {
            assert!(after[*rule] > before[*rule], "{rule} met nothing without {front}");
        }
        assert!(report.attempts.iter().all(|row| row.verdict == Verdict::Weakened));
    }
}
