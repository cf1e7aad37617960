//! What holds for any policy.

use super::*;
use proptest::prelude::*;

fn entry() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]\\.(x|y)\\.z",
        "\\*\\.[xy]\\.z",
        "[ab]\\.[xy]\\.z:(443|22)",
        "(8|9|10)\\.0\\.0\\.0/8",
        "(8|9|10)\\.1\\.0\\.1:443",
    ]
}

fn quote(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|entry| format!("{entry:?}")).collect();
    quoted.join(",")
}

fn policies() -> impl Strategy<Value = Policy> {
    let lists = (
        prop::collection::vec(entry(), 0..4),
        prop::collection::vec(entry(), 0..3),
    );
    (0..4u8, lists).prop_map(|(kind, (allow, deny))| {
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

    #[test]
    fn what_is_tightened_does_not_depend_on_the_order(
        (a, b, c) in (policies(), policies(), policies()),
        (n, addr, port) in questions(),
    ) {
        let (left, right) = (a.tightened(&b).tightened(&c), a.tightened(&b.tightened(&c)));
        let turned = c.tightened(&b).tightened(&a);
        prop_assert_eq!(left.name(&n, port).verdict, right.name(&n, port).verdict);
        prop_assert_eq!(left.name(&n, port).reason, turned.name(&n, port).reason);
        prop_assert_eq!(left.address(addr).reason, turned.address(addr).reason);
        prop_assert_eq!(left.may_lead_to(addr), turned.may_lead_to(addr));
        prop_assert_eq!(left.permitted(), turned.permitted());
        prop_assert_eq!(left.may_lead_to(addr), [&a, &b, &c].iter().all(|policy| policy.may_lead_to(addr)));
    }

    #[test]
    fn denied_wins_over_allowed_whatever_it_is(entries in prop::collection::vec(entry(), 0..5), (n, addr, port) in questions()) {
        let quoted = quote(&entries);
        let policy = file(&format!("allow = [{quoted}]\ndeny = [{quoted}]"));
        prop_assert!(!policy.name(&n, port).allows() && !policy.resolve(&n).allows());
        prop_assert!(!policy.address(addr).allows());
        let open: Vec<String> = entries.into_iter().filter(|e| !e.ends_with(":443")).collect();
        let open = file(&format!("internet = true\ndeny = [{}]", quote(&open)));
        let listed = file(&format!("allow = [{quoted}]"));
        if listed.name(&n, 80).allows() {
            prop_assert!(!open.name(&n, 80).allows() && !open.resolve(&n).allows() && open.proxies_web());
        }
    }

    #[test]
    fn an_empty_list_denies_everything(n in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}", address: [u8; 4], port: u16) {
        let addr = SocketAddr::from((address, port));
        for policy in [file(""), file("allow = []"), list(&[]), Policy::none()] {
            for policy in [policy.clone(), policy.tightened(&Policy::open()), Policy::open().tightened(&policy)] {
                prop_assert!(!policy.name(&name(&n), port).allows() && !policy.resolve(&name(&n)).allows());
                prop_assert!(!policy.address(addr).allows());
                prop_assert_eq!(policy.permitted(), []);
            }
        }
    }

    #[test]
    fn a_wildcard_is_all_below_and_not_the_apex(n in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}", below in "([a-z_]{1,4}\\.){1,3}", other in "[a-z]{1,3}") {
        let policy = list(&[&format!("*.{n}")]);
        prop_assert!(!policy.name(&name(&n), 443).allows() && !policy.resolve(&name(&n)).allows());
        let (inside, beside) = (name(&format!("{below}{n}")), name(&format!("{other}{n}")));
        prop_assert!(policy.name(&inside, 443).allows());
        prop_assert!(!policy.name(&beside, 443).allows(), "there is no dot between");
        let longer = format!("{n}.{other}");
        let is_below = longer.ends_with(&format!(".{n}"));
        prop_assert_eq!(policy.name(&name(&longer), 443).allows(), is_below);
    }

    #[test]
    fn no_name_is_resolved_that_nothing_can_be_connected_to(policy in policies(), (n, _, _) in questions()) {
        let resolved = policy.resolve(&n).allows();
        let ports = [22, 80, 443, 1, 65535];
        prop_assert_eq!(resolved, ports.iter().any(|port| policy.name(&n, *port).allows()));
    }

    #[test]
    fn reading_anything_ends(text in ".{0,60}", entry in "[a-z0-9.:*/\\[\\]-]{0,24}") {
        let _ = Policy::from_metadata(&text);
        let _ = Policy::from_metadata(&format!("allow:{entry},{text}"));
        let _ = Policy::from_toml(&text, &NoPresets);
        let _ = Policy::from_toml(&format!("allow = [{entry:?}]\n{text}"), &NoPresets);
        let _ = serde_json::from_str::<Policy>(&text);
    }

    /// The proxy reads what somebody wrote; somebody else's bytes are checked like any.
    #[test]
    fn what_is_read_is_checked(net in prop::sample::select(vec!["127.0.0.1/32", "169.254.0.0/16", "::ffff:127.0.0.1/128", "10.0.0.9/8"]), port: u16) {
        let json = format!(
            r#"[{{"mode":"allow","log_only":false,"deny":[],"allow":[{{"text":"x","entry":{{"target":{{"net":"{net}"}},"port":null}}}}]}}]"#
        );
        match serde_json::from_str::<Policy>(&json) {
            Ok(policy) => {
                prop_assert_eq!(net, "10.0.0.9/8");
                prop_assert!(policy.address(SocketAddr::from(([10, 1, 2, 3], port))).allows());
            }
            Err(error) => prop_assert!(error.to_string().contains("never reached"), "{}", error),
        }
    }
}
