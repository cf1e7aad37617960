use std::net::{Ipv4Addr, SocketAddr};

use omnirun_egress_policy::{Mode, Protocol as Logged, Reason, Verdict as Allowed};

use super::*;
use crate::{
    attacker::Saw,
    attempts::{Act, attempts},
    capture::{Protocol, Sign},
    lab::Via,
    nonce::Nonce,
    world::World,
};

/// Attempts of mode `allow`, of which one is looked at.
fn attempt(id: &str) -> Vec<Attempt> {
    let all = attempts(Mode::Allow, &World::lab());
    all.into_iter().filter(|attempt| attempt.id == id).collect()
}

fn line(id: &str, saw: Saw, sent: u32, reply: &[u8]) -> (String, Line) {
    let line = Line {
        id: id.to_owned(),
        saw,
        sent,
        text: String::new(),
        reply: hex::encode(reply),
    };
    (id.to_owned(), line)
}

fn hit(sign: Sign, to: [u8; 4], threshold: bool) -> Hit {
    Hit {
        sign,
        place: "host".to_owned(),
        link: if threshold { "omr3" } else { "eth0" }.to_owned(),
        threshold,
        from: None,
        to: Some(Ipv4Addr::from(to).into()),
        port: Some(443),
        protocol: Protocol::Tcp,
    }
}

fn audit(reason: Reason, name: Option<String>, to: Option<SocketAddr>) -> AuditLine {
    AuditLine {
        time_ms: 0,
        sandbox: String::new(),
        session: None,
        protocol: Logged::Tls,
        name,
        to,
        dialled: None,
        port: 443,
        verdict: Allowed::Deny,
        reason,
        rule: None,
        bytes_up: 0,
        bytes_down: 0,
        duration_ms: 0,
    }
}

/// What is known when all goes well with `spoofed-mac`: three frames, all dropped by its rule.
fn well() -> (Vec<Attempt>, Evidence) {
    let evidence = Evidence {
        lines: [line("spoofed-mac", Saw::Silent, 3, b"")].into(),
        rules: [("spoofed-mac".to_owned(), 3)].into(),
        ..Evidence::default()
    };
    (attempt("spoofed-mac"), evidence)
}

fn verdict(attempts: &[Attempt], evidence: &Evidence) -> Verdict {
    let judgements = judge(attempts, evidence, true);
    assert_eq!(judgements.len(), 1);
    let judgement = &judgements[0];
    assert_eq!(
        judgement.why.is_empty(),
        judgement.verdict == Verdict::Passed,
        "{judgement:?}"
    );
    judgement.verdict
}

#[test]
fn what_is_dropped_by_its_rule_passes() {
    let (attempts, evidence) = well();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
}

#[test]
fn what_is_seen_outside_has_leaked_whatever_the_guest_says() {
    let (attempts, mut evidence) = well();
    evidence.hits = vec![hit(Sign::Nonce(0), [9, 9, 9, 9], false)];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Leaked);
    // Another's.
    evidence.hits = vec![
        hit(Sign::Nonce(1), [9, 9, 9, 9], false),
        hit(Sign::Sandbox, [9; 4], false),
    ];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
    evidence.hits.clear();
    evidence.records = vec![Record {
        attempt: 0,
        server: "internet".to_owned(),
        at: None,
        via: Via::Udp,
    }];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Leaked);
}

#[test]
fn what_only_the_second_wall_stopped_is_weakened() {
    let (attempts, mut evidence) = well();
    evidence.hits = vec![hit(Sign::Nonce(0), [9, 9, 9, 9], true)];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
}

#[test]
fn what_is_stopped_by_another_rule_is_weakened() {
    let (attempts, mut evidence) = well();
    evidence.rules = [("spoofed-mac".to_owned(), 2), ("spoofed-ip".to_owned(), 1)].into();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
    evidence.rules.remove("spoofed-mac");
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
}

#[test]
fn an_answer_to_what_is_blocked_is_red() {
    let (attempts, mut evidence) = well();
    for saw in [Saw::Reply, Saw::Connected] {
        evidence.lines = [line("spoofed-mac", saw, 3, b"")].into();
        assert_eq!(verdict(&attempts, &evidence), Verdict::Allowed);
    }
}

#[test]
fn what_was_not_tried_is_inconclusive() {
    let (attempts, mut evidence) = well();
    for saw in [Saw::Unsent, Saw::Unable] {
        evidence.lines = [line("spoofed-mac", saw, 0, b"")].into();
        assert_eq!(verdict(&attempts, &evidence), Verdict::Inconclusive);
    }
    evidence.lines.clear();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Inconclusive);
}

#[test]
fn the_sandboxs_own_answers_are_no_answers_from_outside() {
    let attempts = attempt("no-sni");
    let mut evidence = Evidence {
        lines: [line("no-sni", Saw::Reply, 1, &[0x15, 3, 1, 0, 2, 2, 40])].into(),
        ..Evidence::default()
    };
    // The proxy's log has a connection of no name: by its place in a list of such it could be anybody's.
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
    evidence.lines = [line("no-sni", Saw::Reply, 1, &[0x16, 3, 3, 0, 60, 2, 0])].into();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Allowed);
    evidence.lines = [line(
        "no-sni",
        Saw::Reply,
        1,
        b"HTTP/1.1 200 OK\r\n\r\nomnirun-lab internet",
    )]
    .into();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Allowed);
}

#[test]
fn the_proxys_reason_must_be_the_one() {
    let attempts = attempt("sni-unlisted");
    let name = format!("x{}.attacker.example", attempts[0].nonce.hex());
    let mut evidence = Evidence {
        lines: [line("sni-unlisted", Saw::Connected, 1, b"")].into(),
        audit: vec![audit(Reason::NotListed, Some(name.to_uppercase()), None)],
        ..Evidence::default()
    };
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
    evidence.audit = vec![audit(Reason::Failed, Some(name), None)];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
    evidence.audit = vec![audit(
        Reason::NotListed,
        Some("x.attacker.example".to_owned()),
        None,
    )];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
    let attempts = attempt("other-port-22");
    evidence.lines = [line("other-port-22", Saw::Connected, 1, b"")].into();
    evidence.audit = vec![audit(
        Reason::PortNotListed,
        None,
        Some("203.0.112.10:22".parse().unwrap()),
    )];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
}

#[test]
fn what_is_led_elsewhere_may_be_seen_there_and_nowhere_else() {
    let attempts = attempt("sni-of-another-listed");
    let mut evidence = Evidence {
        lines: [line(
            "sni-of-another-listed",
            Saw::Reply,
            1,
            b"omnirun-lab internet",
        )]
        .into(),
        hits: vec![hit(Sign::Nonce(0), [203, 0, 112, 10], false)],
        ..Evidence::default()
    };
    let record = |at: &str| Record {
        attempt: 0,
        server: "internet".to_owned(),
        at: Some(at.parse().unwrap()),
        via: Via::Tls,
    };
    evidence.records = vec![record("203.0.112.10:443")];
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
    evidence.hits.push(hit(Sign::Nonce(0), [203, 0, 112, 11], false));
    assert_eq!(verdict(&attempts, &evidence), Verdict::Leaked);
    evidence.hits.pop();
    evidence.records.push(record("203.0.112.11:443"));
    assert_eq!(verdict(&attempts, &evidence), Verdict::Leaked);
}

#[test]
fn what_must_work_is_red_if_it_does_not() {
    let attempts = attempt("control-port");
    let mut evidence = Evidence {
        lines: [line("control-port", Saw::Reply, 1, b"omnirun-lab internet")].into(),
        ..Evidence::default()
    };
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
    evidence.lines = [line("control-port", Saw::Reply, 1, b"somebody else")].into();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Denied);
    for saw in [Saw::Connected, Saw::Silent, Saw::Unsent] {
        evidence.lines = [line("control-port", saw, 1, b"")].into();
        assert_eq!(verdict(&attempts, &evidence), Verdict::Denied);
    }
}

#[test]
fn a_rule_that_stands_behind_another_must_stand_there() {
    let attempts = vec![Attempt {
        id: "stands-x".to_owned(),
        meets: vec![("x".to_owned(), Count::Stands)],
        ..Attempt::new(Nonce::random(), Act::Nothing)
    }];
    let mut evidence = Evidence {
        rules: [("x".to_owned(), 0)].into(),
        ..Evidence::default()
    };
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
    evidence.rules.clear();
    assert_eq!(verdict(&attempts, &evidence), Verdict::Weakened);
}

#[test]
fn a_flood_meets_its_rule_once_and_a_terminal_is_not_told_what_to_do() {
    let attempts = attempt("arp-flood");
    let mut evidence = Evidence {
        lines: [line("arp-flood", Saw::Silent, 1000, b"")].into(),
        rules: [("arp-flood".to_owned(), 1)].into(),
        ..Evidence::default()
    };
    assert_eq!(verdict(&attempts, &evidence), Verdict::Passed);
    if let Some(line) = evidence.lines.get_mut("arp-flood") {
        line.text = "\x1b[2Jgreen".to_owned();
    }
    assert!(!judge(&attempts, &evidence, true)[0].seen.contains('\x1b'));
}
