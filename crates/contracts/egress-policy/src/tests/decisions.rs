//! What is let through.

use super::*;

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
        spec(r#"{"internet":true,"network":{"allowDomains":[]}}"#),
        spec(r#"{"internet":true,"network":{"allowIPs":[]}}"#),
        serde_json::from_str("[]").unwrap(),
    ] {
        assert_ne!(policy.mode(), Mode::Open, "{policy:?}");
        assert!(!policy.resolve(&name("b.example")).allows());
        assert!(!policy.name(&name("b.example"), 443).allows());
        assert!(!policy.address(to("9.9.9.9:443")).allows());
        assert_eq!(policy.permitted(), []);
        assert!(policy.listed_names().is_empty());
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
    let permitted = policy.permitted();
    let is_permitted = |addr: &str| permitted.iter().any(|net| net.contains(&to(addr).ip()));
    for addr in ["1.0.0.0:1", "9.9.9.9:443", "223.255.255.255:1"] {
        assert!(is_permitted(addr), "{addr}");
    }
    for addr in [
        "10.0.0.1:443",
        "169.254.169.254:80",
        "168.63.129.16:80",
        "224.0.0.1:1",
    ] {
        assert!(!is_permitted(addr), "{addr}");
    }
    // Who tightens it is heard.
    assert!(
        !policy
            .tightened(&list(&["a.example"]))
            .name(&name("b.example"), 443)
            .allows()
    );
}

#[test]
fn the_bounds_of_a_rule_are_shared_by_all_it_is_about() {
    let policy = file(
        "allow = [\"a.example\", \"c.example\"]\n\
         [[rule]]\nto = [\"a.example\", \"*.b.example\"]\nbytes_up = \"10M\"\nrate = 1024\n\
         [[rule]]\nname = \"few\"\nto = [\"d.example\"]\nports = [22, 443]\nconnections = 2",
    );
    let limits = |n: &str, port| policy.name(&name(n), port).limits;
    let shared = limits("a.example", 443);
    assert_eq!(shared, limits("x.b.example", 80));
    assert_eq!(&*shared[0].rule, "a.example *.b.example");
    assert_eq!(shared[0].limits.bytes_up, Some(10 << 20));
    assert_eq!(shared[0].limits.rate, Some(1024));
    assert!(policy.name(&name("c.example"), 443).allows() && limits("c.example", 443).is_empty());
    assert_eq!(&*limits("d.example", 22)[0].rule, "few");
    let by = policy.name(&name("d.example"), 22).rule;
    assert_eq!(by.as_deref(), Some("d.example:22"));
    let of_v6 = file("[[rule]]\nto = [\"2600::/16\"]\nports = [22]");
    assert_eq!(
        of_v6.address(to("[2600::1]:22")).rule.as_deref(),
        Some("[2600::/16]:22")
    );
    assert!(!policy.name(&name("d.example"), 80).allows());
}

#[test]
fn bounds_that_are_tightened_are_the_tighter_ones() {
    let of = |bounds: &str| file(&format!("[[rule]]\nname = \"r\"\nto = [\"a.example\"]\n{bounds}"));
    let (a, b) = (
        of("bytes_up = 100\nrate = 7"),
        of("bytes_up = 200\nconnections = 3"),
    );
    for both in [a.tightened(&b), b.tightened(&a)] {
        let limits = both.name(&name("a.example"), 443).limits;
        assert_eq!(limits.len(), 1, "{limits:?}");
        let limits = limits[0].limits;
        assert_eq!(
            (limits.bytes_up, limits.rate, limits.connections),
            (Some(100), Some(7), Some(3))
        );
    }
    let other = file("[[rule]]\nname = \"s\"\nto = [\"a.example\"]\nrate = 1");
    assert_eq!(a.tightened(&other).name(&name("a.example"), 443).limits.len(), 2);
}

#[test]
fn the_most_particular_entry_lets_through() {
    let policy = file(
        "allow = [\"*.example.net\", \"10.0.0.0/8\"]\n\
         [[rule]]\nto = [\"*.big.example.net\", \"10.1.0.0/16\"]\nbytes_up = \"1M\"",
    );
    for (n, bounded) in [
        ("a.example.net", false),
        ("big.example.net", false),
        ("a.big.example.net", true),
    ] {
        assert_eq!(!policy.name(&name(n), 443).limits.is_empty(), bounded, "{n}");
    }
    for (addr, bounded) in [("10.0.0.1:1", false), ("10.1.0.1:1", true)] {
        assert_eq!(!policy.address(to(addr)).limits.is_empty(), bounded, "{addr}");
    }
}

#[test]
fn a_name_is_resolved_where_there_is_a_port_to_connect_to() {
    let policy = file(
        "allow = [\"a.example:443\", \"b.example\", \"c.example\"]\n\
         deny = [\"a.example:443\", \"b.example:80\", \"c.example:80\", \"c.example:443\"]",
    );
    for (n, resolved) in [("a.example", false), ("b.example", true), ("c.example", false)] {
        assert_eq!(policy.resolve(&name(n)).allows(), resolved, "{n}");
    }
    assert_eq!(policy.resolve(&name("a.example")).reason, Reason::Denied);
}

#[test]
fn private_addresses_are_permitted_as_they_are_listed() {
    let nets = |policy: &Policy| -> Vec<String> { policy.permitted().iter().map(IpNet::to_string).collect() };
    let wide = list(&["10.0.0.0/8", "9.0.0.0/8", "a.example"]);
    assert_eq!(nets(&wide), ["9.0.0.0/8", "10.0.0.0/8"]);
    assert_eq!(
        nets(&wide.tightened(&list(&["10.1.0.0/16", "11.0.0.0/8"]))),
        ["10.1.0.0/16"]
    );
    // What is public is the kernel's in mode open.
    assert_eq!(
        nets(&file("internet = true\nallow = [\"10.9.0.0/16\"]")),
        ["10.9.0.0/16"]
    );
    assert_eq!(nets(&wide.tightened(&Policy::open())), ["9.0.0.0/8"]);
    // Alibaba's metadata service is in the middle of it.
    let shared = list(&["100.64.0.0/10"]);
    assert!(shared.address(to("100.64.0.1:80")).allows());
    for addr in ["100.100.100.200", "169.254.169.254"] {
        let addr: std::net::IpAddr = addr.parse().unwrap();
        assert!(
            !shared.permitted().iter().any(|net| net.contains(&addr)),
            "{addr}"
        );
        assert!(!shared.address(SocketAddr::new(addr, 80)).allows());
    }
}

#[test]
fn a_name_does_not_lead_to_what_is_denied_on_its_port() {
    let policy = file("allow = [\"a.example\", \"10.0.0.0/8:443\"]\ndeny = [\"9.9.9.9:443\", \"8.8.8.8\"]");
    for (addr, leads) in [
        ("9.9.9.9:443", false),
        ("9.9.9.9:80", true),
        ("8.8.8.8:80", false),
        ("1.1.1.1:443", true),
        ("10.0.0.1:443", true),
        ("10.0.0.1:80", false),
        ("127.0.0.1:443", false),
        ("[::ffff:10.0.0.1]:443", true),
        ("[::ffff:127.0.0.1]:443", false),
    ] {
        assert_eq!(policy.may_lead_to(to(addr)), leads, "{addr}");
    }
    assert!(!Policy::none().may_lead_to(to("1.1.1.1:443")));
}

#[test]
fn who_lists_an_address_is_named_and_not_who_lets_everything_through() {
    let listing = list(&["9.9.9.9"]);
    for both in [
        listing.tightened(&Policy::open()),
        Policy::open().tightened(&listing),
    ] {
        let decision = both.address(to("9.9.9.9:443"));
        assert_eq!(
            (decision.reason, decision.rule.as_deref()),
            (Reason::Listed, Some("9.9.9.9"))
        );
    }
}

#[test]
fn ten_thousand_names_are_looked_up_not_searched() {
    let entries: Vec<String> = (0..10_000).map(|n| format!("h{n}.example.net")).collect();
    let policy = Policy::allow(&entries, &NoPresets).unwrap();
    for n in (0..10_000).step_by(7) {
        assert!(policy.name(&name(&format!("h{n}.example.net")), 443).allows());
    }
    let nets: Vec<String> = (0..10_000u32)
        .map(|n| format!("9.{}.{}.0/24", n / 256, n % 256))
        .collect();
    let policy = Policy::allow(&nets, &NoPresets).unwrap();
    for n in (0..10_000u32).step_by(7) {
        let addr = SocketAddr::from(([9, (n / 256) as u8, (n % 256) as u8, 1], 443));
        assert_eq!(
            policy.address(addr).rule.as_deref(),
            Some(nets[n as usize].as_str())
        );
    }
    let many: Vec<String> = (0..20_001).map(|n| format!("h{n}.example.net")).collect();
    assert!(matches!(
        Policy::allow(&many, &NoPresets),
        Err(PolicyError::TooMany { .. })
    ));
}
