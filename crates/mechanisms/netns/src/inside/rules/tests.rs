use super::*;
use crate::testing::golden;

fn special() -> Vec<Special> {
    let special = |name: &str, permittable, nets: &[&str]| Special {
        permittable,
        name: name.to_owned(),
        nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
    };
    vec![
        special("loopback", false, &["127.0.0.0/8"]),
        special(
            "private",
            true,
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
        ),
        special("none", false, &[]),
    ]
}

#[test]
fn the_rules_are_those_that_were_looked_at() {
    golden(
        "src/inside/rules/golden/restricted.nft",
        &rules(Kind::Restricted, &special()),
    );
    golden("src/inside/rules/golden/open.nft", &rules(Kind::Open, &special()));
}

#[test]
fn links_are_called_in_the_files_what_they_are_called_elsewhere() {
    assert_eq!(
        (omnirun_guest_net::TAP, omnirun_guest_net::UPLINK, TABLE),
        ("tap0", "up0", "omnirun")
    );
}

/// What can be reached is told by its name, so no two rules of one kind have the same.
#[test]
fn every_rule_that_judges_counts_and_has_a_name_of_its_own() {
    for kind in [Kind::Restricted, Kind::Open] {
        let text = rules(kind, &special());
        let mut names = Vec::new();
        for line in text.lines().map(str::trim) {
            let judges = [" drop", " accept", " reject", " redirect", " masquerade"]
                .iter()
                .any(|verdict| line.contains(verdict));
            if !judges || line.starts_with('#') || line.starts_with("type ") || line.ends_with('{') {
                continue;
            }
            let (rule, name) = line
                .split_once(" comment \"")
                .unwrap_or_else(|| panic!("no name: {line}"));
            assert!(rule.contains("counter "), "{line}");
            names.push(name.trim_end_matches('"'));
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(count > 30, "{count}");
    }
}

#[test]
fn nothing_that_arrives_leaves_or_passes_is_accepted_by_a_policy() {
    for kind in [Kind::Restricted, Kind::Open] {
        for hook in ["hook input", "hook forward", "hook output"] {
            let text = rules(kind, &special());
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(hook)).collect();
            assert!(!lines.is_empty());
            assert!(
                lines.iter().all(|line| line.ends_with("policy drop;")),
                "{lines:?}"
            );
        }
    }
}
