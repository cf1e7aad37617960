use super::*;
use crate::{NoPresets, Verdict};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn file(text: &str) -> Policy {
    Policy::from_toml(text, &NoPresets).unwrap()
}

fn list(entries: &[&str]) -> Policy {
    let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
    Policy::allow(&entries, &NoPresets).unwrap()
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn an_empty_list_is_not_everything() {
    let spec = |json: &str| Policy::compile(&serde_json::from_str(json).unwrap(), &NoPresets).unwrap();
    for policy in [
        Policy::none(),
        file(""),
        file("allow = []"),
        file("internet = false"),
        list(&[]),
        spec("{}"),
        spec(r#"{"internet":false}"#),
        spec(r#"{"network":{}}"#),
        spec(r#"{"network":{"allowDomains":[]}}"#),
        spec(r#"{"network":{"denyDomains":["a.example"]}}"#),
        spec(r#"{"internet":false,"network":{"allowDomains":["b.example"]}}"#),
        serde_json::from_str("[]").unwrap(),
    ] {
        assert_ne!(policy.mode(), Mode::Open, "{policy:?}");
        assert!(!policy.resolve(&name("b.example")).allows());
        assert!(!policy.name(&name("b.example"), 443).allows());
        assert!(!policy.address(to("9.9.9.9:443")).allows());
    }
}

#[test]
fn names_and_ports() {
    let policy = list(&[
        "pypi.org",
        "*.example.net",
        "db.example.com:5432",
        "10.1.2.0/24:443",
        "9.9.9.9",
    ]);
    let allows = |n: &str, port| policy.name(&name(n), port);
    for (n, port) in [
        ("pypi.org", 443),
        ("pypi.org", 80),
        ("a.b.example.net", 443),
        ("db.example.com", 5432),
    ] {
        assert!(allows(n, port).allows(), "{n}:{port}");
        assert!(policy.resolve(&name(n)).allows());
    }
    for (n, port, reason) in [
        ("pypi.org", 22, Reason::PortNotListed),
        ("example.net", 443, Reason::NotListed),
        ("xexample.net", 443, Reason::NotListed),
        ("pypi.org.evil.example", 443, Reason::NotListed),
        ("db.example.com", 443, Reason::PortNotListed),
    ] {
        let decision = allows(n, port);
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Deny, reason),
            "{n}:{port}"
        );
    }
    assert_eq!(allows("pypi.org", 443).rule.as_deref(), Some("pypi.org"));
    for (addr, ok) in [
        ("10.1.2.3:443", true),
        ("[::ffff:10.1.2.3]:443", true),
        ("10.1.2.3:80", false),
        ("10.1.3.3:443", false),
        ("9.9.9.9:1", true),
        ("169.254.169.254:80", false),
    ] {
        assert_eq!(policy.address(to(addr)).allows(), ok, "{addr}");
    }
    assert!(policy.may_lead_to(to("8.8.8.8:443")));
    assert!(policy.may_lead_to(to("10.1.2.3:443")), "it is listed");
    assert!(!policy.may_lead_to(to("10.1.3.3:443")), "rebinding");
    assert!(!policy.may_lead_to(to("127.0.0.1:443")));
}

#[test]
fn denied_wins() {
    let policy =
        file("allow = [\"*.example.net\", \"8.0.0.0/8\"]\ndeny = [\"bad.example.net\", \"8.8.8.0/24\"]");
    assert!(policy.name(&name("good.example.net"), 443).allows());
    assert_eq!(policy.name(&name("bad.example.net"), 443).reason, Reason::Denied);
    assert!(!policy.resolve(&name("bad.example.net")).allows());
    assert!(policy.address(to("8.9.9.9:443")).allows());
    assert!(!policy.address(to("8.8.8.8:443")).allows());
    assert!(!policy.may_lead_to(to("8.8.8.8:443")));
}

#[test]
fn open_reaches_the_public_internet_and_nothing_else() {
    let policy =
        file("internet = true\nallow = [\"10.9.0.0/16\"]\ndeny = [\"*.bad.example\", \"9.9.9.0/24\"]");
    assert_eq!(policy.mode(), Mode::Open);
    assert!(policy.proxies_web());
    assert!(policy.name(&name("any.example"), 443).allows());
    assert!(!policy.name(&name("x.bad.example"), 443).allows());
    for (addr, ok) in [
        ("8.8.8.8:53", true),
        ("9.9.9.9:443", false),
        ("10.9.1.1:22", true),
        ("10.8.1.1:22", false),
        ("127.0.0.1:80", false),
        ("169.254.169.254:80", false),
    ] {
        assert_eq!(policy.address(to(addr)).allows(), ok, "{addr}");
    }
    assert!(!Policy::open().proxies_web());
    let wide = list(&["0.0.0.0/0"]);
    assert!(wide.address(to("8.8.8.8:25")).allows());
    assert!(
        !wide.address(to("10.0.0.1:25")).allows(),
        "a wide net is no word for what is private"
    );
}

#[test]
fn log_only_lets_through_what_is_public_and_says_what_it_would_have_done() {
    let policy = file("log_only = true\nallow = [\"a.example\"]");
    assert_eq!(policy.name(&name("a.example"), 443).verdict, Verdict::Allow);
    let other = policy.name(&name("b.example"), 443);
    assert_eq!((other.verdict, other.reason), (Verdict::Log, Reason::NotListed));
    assert_eq!(policy.address(to("9.9.9.9:443")).verdict, Verdict::Log);
    assert_eq!(policy.address(to("10.0.0.1:443")).verdict, Verdict::Deny);
    assert_eq!(policy.permitted(), ["0.0.0.0/0".parse().unwrap()]);
    // Who tightens it is heard.
    assert!(
        !policy
            .tightened(&list(&["a.example"]))
            .name(&name("b.example"), 443)
            .allows()
    );
}

#[test]
fn limits_come_with_their_rule() {
    let policy =
        file("allow = [\"a.example\"]\n[[rule]]\nto = [\"a.example\"]\nbytes_up = \"10M\"\nrate = \"1M\"");
    let decision = policy.name(&name("a.example"), 443);
    assert_eq!(decision.limits[0].limits.bytes_up, Some(10 << 20));
    assert_eq!(decision.limits[0].limits.rate, Some(1 << 20));
}

#[test]
fn presets_expand_and_an_operators_comes_first() {
    struct Mine;
    impl PresetSource for Mine {
        fn preset(&self, name: &str) -> Option<String> {
            let text = match name {
                "github" => "allow = [\"git.corp.example\"]",
                "all" => "allow = [\"preset:github\", \"preset:anthropic\"]",
                "loop" => "allow = [\"preset:loop2\"]",
                "loop2" => "allow = [\"preset:loop\"]",
                "broken" => "allow = [\"a b\"]",
                _ => return None,
            };
            Some(text.to_owned())
        }
    }
    let of = |preset: &str| Policy::allow(&[format!("preset:{preset}")], &Mine);
    let all = of("all").unwrap();
    assert!(all.name(&name("git.corp.example"), 443).allows());
    assert!(all.name(&name("api.anthropic.com"), 443).allows());
    assert!(!all.name(&name("github.com"), 443).allows());
    assert!(
        list(&["preset:github"])
            .name(&name("api.github.com"), 443)
            .allows()
    );
    assert!(matches!(of("loop"), Err(PolicyError::Cycle { .. })));
    assert!(
        of("nowhere")
            .unwrap_err()
            .to_string()
            .contains("anthropic, github")
    );
    let broken = of("broken").unwrap_err();
    assert!(matches!(broken, PolicyError::Preset { .. }), "{broken}");
}

#[test]
fn files_that_are_none_are_refused_with_the_line() {
    for (text, says) in [
        ("allwo = []", "allwo"),
        ("allow = [\"a\"]\nrate = 5", "line 2"),
        ("allow = [\"a b\"]", "no host name"),
        ("allow = [\"169.254.169.254\"]", "never reached"),
        ("internet = true\nallow = [\"a.example\"]", "says nothing"),
        ("internet = false\nallow = [\"a.example\"]", "air gap"),
        ("internet = true\ndeny = [\"9.9.9.9:53\"]", "leave the port out"),
        ("[[rule]]\nto = [\"a\"]\nbytes_up = \"x\"", "bytes_up"),
        ("[[rule]]\nto = [\"a\"]\nrate = \"0\"", "at least 1"),
    ] {
        let error = Policy::from_toml(text, &NoPresets).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn the_apis_fields() {
    let spec = |json: &str| {
        let spec: PolicySpec = serde_json::from_str(json).map_err(|e| e.to_string())?;
        Policy::compile(&spec, &NoPresets).map_err(|e| e.to_string())
    };
    let restricted =
        spec(r#"{"internet":true,"network":{"allow":["a.example"],"allowIPs":["9.9.9.9"]}}"#).unwrap();
    assert_eq!(restricted.mode(), Mode::Allow);
    assert!(restricted.name(&name("a.example"), 443).allows());
    assert!(restricted.address(to("9.9.9.9:443")).allows());
    assert_eq!(spec(r#"{"internet":true}"#).unwrap().mode(), Mode::Open);
    assert!(
        spec(r#"{"network":{"sniProxy":true,"sniProxyLogOnly":true}}"#)
            .unwrap()
            .log_only()
    );
    for (json, says) in [
        (r#"{"network":{"sniProxy":true}}"#, "needs allowDomains"),
        (r#"{"network":{"sniProxyLogOnly":true}}"#, "set sniProxy"),
        (r#"{"network":{"allowDomain":["a"]}}"#, "allowDomain"),
    ] {
        assert!(spec(json).unwrap_err().contains(says), "{json}");
    }
}

#[test]
fn metadata_and_flags() {
    for (text, mode) in [
        ("none", Mode::None),
        ("open", Mode::Open),
        ("allow:a.example, *.b.example:8443", Mode::Allow),
        ("allow:", Mode::Allow),
        ("preset:github", Mode::Allow),
        ("preset:github,a.example", Mode::Allow),
    ] {
        assert_eq!(Policy::from_metadata(text).unwrap().mode(), mode, "{text}");
    }
    for text in ["", "allo", "OPEN", "./policy.toml", "all", "preset:nowhere"] {
        assert!(Policy::from_metadata(text).is_err(), "{text}");
    }
    assert_eq!("p.toml".parse(), Ok(NetFlag::File("p.toml".into())));
    assert!(
        "deny"
            .parse::<NetFlag>()
            .unwrap_err()
            .to_string()
            .contains("policy file")
    );
}

#[test]
fn what_is_learnt_is_what_was_needed() {
    let line = |protocol, name: Option<&str>, to: Option<&str>, port, verdict| crate::AuditLine {
        time_ms: 0,
        sandbox: "sbx_1".into(),
        session: None,
        protocol,
        name: name.map(Into::into),
        to: to.map(|to| to.parse().unwrap()),
        dialled: None,
        port,
        verdict,
        reason: Reason::NotListed,
        rule: None,
        bytes_up: 1,
        bytes_down: 2,
        duration_ms: 3,
    };
    use crate::Protocol::*;
    let text = crate::learn(&[
        line(Dns, Some("asked.example"), None, 53, Verdict::Log),
        line(Tls, Some("a.example"), Some("9.9.9.9:443"), 443, Verdict::Log),
        line(Http, Some("a.example"), None, 80, Verdict::Log),
        line(Tcp, Some("db.example"), None, 5432, Verdict::Allow),
        line(Tcp, None, Some("9.9.9.9:22"), 22, Verdict::Log),
        line(Tls, Some("no.example"), None, 443, Verdict::Deny),
        line(Tls, Some("evil\"]\nallow=[\"x"), None, 443, Verdict::Log),
    ]);
    let policy = file(&text);
    assert!(policy.name(&name("a.example"), 443).allows() && policy.name(&name("a.example"), 80).allows());
    assert!(policy.name(&name("db.example"), 5432).allows());
    for n in ["asked.example", "no.example", "x"] {
        assert!(!policy.name(&name(n), 443).allows(), "{n}\n{text}");
    }
    assert!(!policy.address(to("9.9.9.9:22")).allows());
    assert!(
        text.contains("2 connections, 2 bytes out, 4 in") && text.contains("no.example (not-listed)"),
        "{text}"
    );
}

#[test]
fn ten_thousand_names_are_looked_up_not_searched() {
    let entries: Vec<String> = (0..10_000).map(|n| format!("h{n}.example.net")).collect();
    let policy = Policy::allow(&entries, &NoPresets).unwrap();
    for n in (0..10_000).step_by(7) {
        assert!(policy.name(&name(&format!("h{n}.example.net")), 443).allows());
    }
    let many: Vec<String> = (0..20_001).map(|n| format!("h{n}.example.net")).collect();
    assert!(matches!(
        Policy::allow(&many, &NoPresets),
        Err(PolicyError::TooMany { .. })
    ));
}

fn policies() -> impl Strategy<Value = Policy> {
    let entry = prop_oneof![
        "[ab]\\.(x|y)\\.z",
        "\\*\\.[xy]\\.z",
        "[ab]\\.[xy]\\.z:(443|22)",
        "(8|9|10)\\.0\\.0\\.0/8",
        "(8|9|10)\\.1\\.0\\.1:443",
    ];
    let lists = (
        prop::collection::vec(entry.clone(), 0..4),
        prop::collection::vec(entry, 0..3),
    );
    (0..4u8, lists).prop_map(|(kind, (allow, deny))| {
        let quote = |list: &[String]| {
            list.iter()
                .map(|e| format!("{e:?}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        let text = match kind {
            0 => "internet = false".to_owned(),
            1 => {
                let deny: Vec<String> = deny.into_iter().filter(|e| !e.ends_with(":443")).collect();
                format!("internet = true\ndeny = [{}]", quote(&deny))
            }
            2 => format!(
                "allow = [{}]\ndeny = [{}]\nlog_only = true",
                quote(&allow),
                quote(&deny)
            ),
            _ => format!("allow = [{}]\ndeny = [{}]", quote(&allow), quote(&deny)),
        };
        Policy::from_toml(&text, &NoPresets).unwrap()
    })
}

fn questions() -> impl Strategy<Value = (Name, SocketAddr, u16)> {
    (
        "[abc]\\.([abx]\\.)?[xyz]\\.z",
        prop::sample::select(vec![8u8, 9, 10, 11, 127]),
        0..2u8,
        prop::sample::select(vec![22u16, 80, 443]),
    )
        .prop_map(|(n, a, b, port)| (name(&n), SocketAddr::from(([a, b, 0, 1], port)), port))
}

proptest! {
    #[test]
    fn what_is_tightened_allows_what_both_allow((a, b) in (policies(), policies()), (n, addr, port) in questions()) {
        let both = a.tightened(&b);
        prop_assert_eq!(both.name(&n, port).allows(), a.name(&n, port).allows() && b.name(&n, port).allows());
        prop_assert_eq!(both.resolve(&n).allows(), a.resolve(&n).allows() && b.resolve(&n).allows());
        prop_assert_eq!(both.address(addr).allows(), a.address(addr).allows() && b.address(addr).allows());
        prop_assert_eq!(both.mode(), a.mode().min(b.mode()));
        let other = b.tightened(&a);
        prop_assert_eq!(both.name(&n, port).verdict, other.name(&n, port).verdict);
        prop_assert_eq!(a.tightened(&a).name(&n, port), a.name(&n, port));
    }

    #[test]
    fn what_the_proxy_reads_decides_the_same(policy in policies(), (n, addr, port) in questions()) {
        let read: Policy = serde_json::from_slice(&serde_json::to_vec(&policy).unwrap()).unwrap();
        prop_assert_eq!(read.name(&n, port), policy.name(&n, port));
        prop_assert_eq!(read.address(addr), policy.address(addr));
        prop_assert_eq!(read.may_lead_to(addr), policy.may_lead_to(addr));
        prop_assert_eq!(&read, &policy);
    }

    #[test]
    fn what_is_never_reached_is_not((a, b) in (policies(), policies()), port in 1..u16::MAX) {
        for policy in [&a, &b, &a.tightened(&b)] {
            for addr in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "224.0.0.1"] {
                let to = SocketAddr::new(addr.parse().unwrap(), port);
                prop_assert!(!policy.address(to).allows() && !policy.may_lead_to(to));
            }
        }
    }

    #[test]
    fn a_namespace_permits_what_the_policy_allows(a in policies(), b in policies(), (_, addr, _) in questions()) {
        let policy = a.tightened(&b);
        if policy.mode() == Mode::Allow && policy.address(addr).allows() {
            prop_assert!(policy.permitted().iter().any(|net| net.contains(&addr.ip())));
        }
    }
}
