//! What is learnt.

use super::*;
use crate::learn;
use proptest::prelude::*;

fn line(
    protocol: Protocol,
    name: Option<&str>,
    address: Option<&str>,
    port: u16,
    verdict: Verdict,
) -> AuditLine {
    AuditLine {
        time_ms: 0,
        sandbox: "sbx_1".into(),
        session: None,
        protocol,
        name: name.map(Into::into),
        to: address.map(to),
        dialled: None,
        port,
        verdict,
        reason: Reason::NotListed,
        rule: None,
        bytes_up: 1,
        bytes_down: 2,
        duration_ms: 3,
    }
}

#[test]
fn what_is_learnt_is_what_was_needed() {
    use Protocol::*;
    let of = |reason, line| AuditLine { reason, ..line };
    let led = |dialled: &str, line| AuditLine {
        dialled: Some(to(dialled)),
        ..line
    };
    let text = learn(&[
        line(Dns, Some("asked.example"), None, 53, Verdict::Deny),
        line(Tls, Some("a.example"), Some("9.9.9.9:443"), 443, Verdict::Log),
        line(Http, Some("a.example"), None, 80, Verdict::Log),
        line(Tcp, Some("db.example"), None, 5432, Verdict::Allow),
        led(
            "10.1.1.1:443",
            line(Connect, Some("in.example"), None, 443, Verdict::Log),
        ),
        line(Tcp, None, Some("9.9.9.9:22"), 22, Verdict::Log),
        of(
            Reason::Public,
            line(Tcp, None, Some("9.9.9.9:23"), 23, Verdict::Allow),
        ),
        of(
            Reason::Listed,
            line(Tcp, None, Some("10.2.2.2:24"), 24, Verdict::Allow),
        ),
        AuditLine {
            reason: Reason::Listed,
            rule: Some("10.3.0.0/16".into()),
            ..line(
                Tcp,
                Some("told.example"),
                Some("10.3.3.3:443"),
                443,
                Verdict::Allow,
            )
        },
        line(Tls, Some("no.example"), None, 443, Verdict::Deny),
        line(Tls, Some("no.example"), None, 443, Verdict::Deny),
        of(
            Reason::NoAddress,
            line(Tls, Some("typo.example"), None, 443, Verdict::Log),
        ),
        of(
            Reason::Unreachable,
            line(Tls, Some("a.example"), None, 443, Verdict::Log),
        ),
        line(Tls, Some("evil\"]\nallow=[\"x"), None, 443, Verdict::Log),
    ]);
    assert_eq!(
        text,
        "\
# What the session reached. Take out what it should not have.
allow = [
    \"a.example\", # 2 connections, 2 bytes out, 4 in
    \"db.example:5432\", # 1 connection, 1 bytes out, 2 in
    \"in.example\", # 1 connection, 1 bytes out, 2 in
    \"told.example\", # 1 connection, 1 bytes out, 2 in
    \"10.2.2.2:24\", # by its address, which was listed: 1 connection, 1 bytes out, 2 in
    \"10.3.3.3:443\", # by its address, which was listed: 1 connection, 1 bytes out, 2 in
    \"10.1.1.1:443\", # where in.example led: a private address has to be listed as well
]

# Left out: reached by the address alone, so nobody can say who that is. To allow it, put the entry in:
#   \"9.9.9.9:22\", # 1 connection, 1 bytes out, 2 in
#   \"9.9.9.9:23\", # 1 connection, 1 bytes out, 2 in

# Left out: names that did not answer.
#   typo.example (no-address)

# Left out: refused, also while the session was only logged.
#   asked.example (not-listed, 1x)
#   no.example (not-listed, 2x)

# Left out:
#   lines without a name or address that could be listed: 1
"
    );
    let policy = file(&text);
    assert!(policy.name(&name("db.example"), 5432).allows());
    assert!(policy.may_lead_to(to("10.1.1.1:443")));
    assert!(!policy.address(to("9.9.9.9:22")).allows());
}

#[test]
fn of_nothing_nothing_is_learnt() {
    let policy = file(&learn(&[]));
    assert_eq!(policy.mode(), Mode::Allow);
    assert!(!policy.name(&name("a.example"), 443).allows());
}

fn flows() -> impl Strategy<Value = Vec<(Name, u16)>> {
    let flow = (
        "[abc](\\.[xy]){1,2}",
        prop::sample::select(vec![22u16, 80, 443, 8443]),
    );
    prop::collection::vec(flow.prop_map(|(n, port)| (name(&n), port)), 0..20)
}

proptest! {
    /// A session that is only logged does something, the file that it would have needed is made, and it does it again.
    #[test]
    fn what_was_logged_is_allowed_and_nothing_else(did in flows(), others in flows()) {
        let logged = file("log_only = true\nallow = [\"a.x\", \"*.y\"]\ndeny = [\"b.x\"]");
        let lines: Vec<AuditLine> = did.iter().map(|(n, port)| {
            let decision = logged.name(n, *port);
            AuditLine {
                reason: decision.reason,
                rule: decision.rule.map(|rule| rule.to_string()),
                ..line(Protocol::Tls, Some(n.as_str()), None, *port, decision.verdict)
            }
        }).collect();
        let needed = file(&learn(&lines));
        for (n, port) in &did {
            prop_assert!(needed.resolve(n).allows());
            let decision = needed.name(n, *port);
            prop_assert_eq!((decision.verdict, decision.limits.len()), (Verdict::Allow, 0));
        }
        let web = |port: &u16| matches!(port, 80 | 443);
        for (n, port) in &others {
            let was_there = did.iter().any(|(m, p)| m == n && (p == port || web(p) && web(port)));
            prop_assert_eq!(needed.name(n, *port).allows(), was_there);
        }
    }

    /// Whatever a guest gets into its log, it does not get into the policy.
    #[test]
    fn a_log_of_anything_is_a_policy_of_what_it_names(
        lines in prop::collection::vec((".{0,12}", any::<u16>(), any::<[u8; 4]>(), 0..3u8, any::<bool>()), 0..12),
    ) {
        let verdicts = [Verdict::Allow, Verdict::Log, Verdict::Deny];
        let lines: Vec<AuditLine> = lines.into_iter().map(|(n, port, address, verdict, listed)| AuditLine {
            to: Some(SocketAddr::from((address, port))),
            rule: listed.then(|| "0.0.0.0/0".to_owned()),
            ..line(Protocol::Tls, Some(&n), None, port, verdicts[usize::from(verdict)])
        }).collect();
        let policy = file(&learn(&lines));
        let said = |line: &AuditLine| line.name.as_deref().and_then(|name| Name::parse(name.as_bytes()).ok());
        for n in policy.listed_names() {
            let mut passed = lines.iter().filter(|line| line.verdict != Verdict::Deny);
            let was_named = passed.any(|line| said(line).as_ref() == Some(&n));
            prop_assert!(was_named, "{}", n);
        }
    }
}
