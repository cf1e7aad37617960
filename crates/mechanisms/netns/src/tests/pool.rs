//! The pool.

use super::*;
use crate::NetError;

async fn until_ready(networks: &Networks, kind: Kind, count: usize) {
    let deadline = std::time::Instant::now() + LONG;
    while networks.ready(kind) != count {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_is_made_anew_and_nothing_is_handed_out_twice() {
    if !may() {
        return;
    }
    let host = Arc::new(net::in_new_namespace(net::namespace).unwrap());
    let networks = networks("pool", Some(host)).await;
    networks.keep(Kind::Restricted, 2);
    until_ready(&networks, Kind::Restricted, 2).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(networks.take(Kind::Restricted).await.unwrap());
    }
    until_ready(&networks, Kind::Restricted, 2).await;
    let mut ids: Vec<_> = taken.iter().map(Namespace::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    networks.shutdown().await.unwrap();
    assert_eq!(networks.ready(Kind::Restricted), 0);
    assert!(matches!(
        networks.take(Kind::Restricted).await,
        Err(NetError::ShutDown)
    ));
    networks.shutdown().await.unwrap();
}

#[tokio::test]
async fn names_that_cannot_be_used_are_refused() {
    if !may() {
        return;
    }
    let config = |tag: &str, rule: &str| NetworksConfig {
        tag: tag.to_owned(),
        special: vec![Special {
            name: rule.to_owned(),
            nets: Vec::new(),
            permittable: false,
        }],
        ready: Ready::default(),
        host: None,
    };
    for tag in ["", "a b", "a;b", "a-b", &"x".repeat(65)] {
        assert!(
            matches!(
                Networks::open(config(tag, "fine")).await,
                Err(NetError::BadTag(_))
            ),
            "{tag}"
        );
    }
    for rule in ["", "a b", "\"", "A", &"x".repeat(33)] {
        assert!(
            matches!(
                Networks::open(config("fine", rule)).await,
                Err(NetError::BadRuleName(_))
            ),
            "{rule}"
        );
    }
}

#[test]
fn this_host_is_checked() {
    let checks = crate::check();
    if may() {
        let of_the_kernel = checks
            .iter()
            .filter(|check| check.name != "a way out for open networks");
        let problems: Vec<_> = of_the_kernel.filter_map(|check| check.problem.clone()).collect();
        assert_eq!(problems, Vec::<String>::new());
        assert!(checks.len() >= 8);
    } else {
        assert!(checks.iter().any(|check| check.problem.is_some()));
    }
}
