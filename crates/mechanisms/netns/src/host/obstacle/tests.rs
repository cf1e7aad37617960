use omnirun_sys::host::net;

use super::*;

/// What is found in a namespace with these rules.
fn found(rules: &str) -> Option<(String, String)> {
    if crate::check::permitted().is_err() {
        eprintln!("nothing tested: this takes root");
        return None;
    }
    let nft = Nft::find().unwrap();
    net::in_new_namespace(|| {
        nft.run("test", rules)?;
        Ok::<_, NetError>(find(&nft.list("list the rules", &["list", "ruleset"])?))
    })
    .unwrap()
}

const FIREWALLD_TABLE: &str = "table inet firewalld {
    chain filter_FORWARD_ZONES { iifname eth0 counter return; }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        jump filter_FORWARD_ZONES
        ct state invalid drop
        reject with icmpx type admin-prohibited
    }
}";

#[test]
fn whose_chain_it_is_is_said_with_what_helps() {
    if crate::check::permitted().is_err() {
        return;
    }
    let (by, hint) = found(FIREWALLD_TABLE).unwrap();
    assert!(by.starts_with("firewalld"), "{by}");
    assert!(hint.contains("--add-interface=omr+"), "{hint}");
    let ufw = "table ip filter {
        chain ufw-user-forward { }
        chain FORWARD { type filter hook forward priority 0; policy drop; jump ufw-user-forward; }
    }";
    let (by, hint) = found(ufw).unwrap();
    assert!(by.starts_with("ufw"), "{by}");
    assert!(
        hint.starts_with("iptables -I ufw-user-forward -i omr+ -j ACCEPT"),
        "{hint}"
    );
    let (by, _) =
        found("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }")
            .unwrap();
    assert!(by.starts_with("iptables"), "{by}");
}

#[test]
fn chains_that_let_us_through_are_none() {
    for rules in [
        "",
        "table inet a { chain b { type filter hook forward priority 0; policy accept; }; }",
        "table inet a { chain b { type filter hook input priority 0; policy drop; }; }",
        // Of IPv6 there is nothing to forward.
        "table ip6 a { chain b { type filter hook forward priority 0; policy drop; }; }",
        "table inet a { chain b { type filter hook forward priority 0; policy drop; iifname omr* accept; }; }",
        "table inet a {
            chain c { iifname { omr*, eth0 } accept; }
            chain b { type filter hook forward priority 0; policy drop; jump c; }
        }",
        // What other owners drop is not for them.
        "table inet omnirun_x { chain b { type filter hook forward priority 0; policy drop; }; }",
        // It drops one thing.
        "table inet a { chain b { type filter hook forward priority 0; policy accept; ct state invalid drop; }; }",
    ] {
        assert_eq!(found(rules), None, "{rules}");
    }
    let admitted = FIREWALLD_TABLE.replace("iifname eth0 counter return", "iifname omr* accept");
    assert_eq!(found(&admitted), None);
}

#[test]
fn the_older_tables_are_read_as_text() {
    let listing = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n";
    let (by, hint) = legacy_obstacle("iptables-legacy", listing).unwrap();
    assert!(by.starts_with("Docker"), "{by}");
    assert!(
        hint.starts_with("iptables-legacy -I DOCKER-USER -i omr+ -j ACCEPT"),
        "{hint}"
    );
    let admitted = format!("{listing}-A DOCKER-USER -i omr+ -j ACCEPT\n");
    assert_eq!(legacy_obstacle("iptables-legacy", &admitted), None);
    assert_eq!(legacy_obstacle("iptables-legacy", "-P FORWARD ACCEPT\n"), None);
}
