//! What is left when an owner dies.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::{
    lab::{Lab, ip},
    *,
};
use crate::{host::table, sweep};

/// Says to the child what to do: the host's namespace, and a tag.
const ORDERS: &str = "OMNIRUN_NETNS_TEST_OWNER";

/// The child: an owner with namespaces of both kinds, which says their numbers and waits to be killed.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let (host, tag) = orders.split_once(' ').unwrap();
    let host = Arc::new(std::fs::File::open(host).unwrap().into());
    let config = NetworksConfig {
        tag: tag.to_owned(),
        special: special(),
        ready: Ready {
            restricted: 1,
            open: 1,
        },
        host: Some(host),
    };
    let networks = Networks::open(config).await.unwrap();
    let taken = [
        networks.take(Kind::Restricted).await.unwrap(),
        networks.take(Kind::Open).await.unwrap(),
    ];
    println!("\nOWNER {} {}", taken[0].id(), taken[1].id());
    std::future::pending::<()>().await;
}

/// Starts an owner of the lab's host.
fn start(lab: &Lab, tag: &str, said: Stdio) -> Child {
    let host = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&lab.host)
    );
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::orphans::an_owner", "--nocapture"])
        .env(ORDERS, format!("{host} {tag}"))
        .stdout(said)
        .spawn()
        .unwrap()
}

/// One that is up; returns it with the numbers of its namespaces.
fn owner(lab: &Lab, tag: &str) -> (Child, Vec<String>) {
    let mut child = start(lab, tag, Stdio::piped());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find(|line| line.starts_with("OWNER "))
        .unwrap();
    (child, line.split(' ').skip(1).map(str::to_owned).collect())
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Numbers of all network namespaces that a process is in or has open.
fn held() -> Vec<String> {
    let mut held = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let mut links = vec![process.path().join("ns/net")];
        for folder in ["fd", "task"] {
            let entries = std::fs::read_dir(process.path().join(folder))
                .into_iter()
                .flatten()
                .flatten();
            links.extend(entries.map(|entry| match folder {
                "fd" => entry.path(),
                _ => entry.path().join("ns/net"),
            }));
        }
        let targets = links.into_iter().filter_map(|link| std::fs::read_link(link).ok());
        held.extend(targets.filter_map(|target| {
            target
                .to_str()?
                .strip_prefix("net:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        }));
    }
    held
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_killed_owner_only_what_a_sweep_finds_is_left() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let (dead, live) = (tag("dead"), tag("live"));
    let (child, namespaces) = owner(&lab, &dead);
    let (other, others) = owner(&lab, &live);
    assert!(
        namespaces
            .iter()
            .chain(&others)
            .all(|number| held().contains(number))
    );
    assert!(lab.links().len() >= 2);
    kill(child);
    // The kernel takes its links away by itself, and the namespaces with them.
    until("its namespaces are still held", || {
        !namespaces.iter().any(|number| held().contains(number))
    });
    let left = |tag: &str| lab.aliases().iter().filter(|alias| alias.ends_with(tag)).count();
    until("its links are still there", || left(&dead) == 0);
    assert!(left(&live) >= 1);
    assert_eq!(lab.tables(), [table::name(&dead), table::name(&live)]);

    let alive = {
        let live = live.clone();
        move |tag: &str| tag == live
    };
    let host = Some(lab.host.clone());
    assert_eq!(sweep(host.clone(), alive.clone()).await.unwrap(), [dead.as_str()]);
    assert_eq!(lab.tables(), [table::name(&live)]);
    // The other one still needs it.
    assert!(lab.forwarding("uplink"));
    assert_eq!(sweep(host.clone(), alive).await.unwrap(), Vec::<String>::new());
    kill(other);
    assert_eq!(sweep(host, |_| false).await.unwrap(), [live]);
    assert!(!lab.forwarding("uplink"));
    assert_eq!(lab.tables(), Vec::<String>::new());
    until("a link is still there", || lab.links().is_empty());
}

/// A VMM may outlive its owner, and must not be on the network once the table is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_the_links_before_the_table() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let (child, namespaces) = owner(&lab, &tag("held"));
    // Held like a VMM would.
    let number = &namespaces[1];
    let path = std::fs::read_dir(format!("/proc/{}/fd", child.id()))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| std::fs::read_link(path).is_ok_and(|to| to.to_str() == Some(&format!("net:[{number}]"))))
        .unwrap();
    let vmm = std::fs::File::open(path).unwrap();
    kill(child);
    until("only the held one's is left", || lab.links().len() == 1);
    assert_eq!(sweep(Some(lab.host.clone()), |_| false).await.unwrap().len(), 1);
    assert_eq!(lab.links(), Vec::<String>::new());
    drop(vmm);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_of_the_same_name_replaces_the_table() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let tag = tag("same");
    let (child, _) = owner(&lab, &tag);
    kill(child);
    // What the first one switched on is still known to be to switch off, also when it is not needed any more.
    ip(&lab.host, &["route replace default via 203.0.114.1"]);
    let (child, _) = owner(&lab, &tag);
    assert_eq!(lab.tables(), [table::name(&tag)]);
    assert!(lab.forwarding("uplink") && lab.forwarding("spare"));
    kill(child);
    sweep(Some(lab.host.clone()), |_| false).await.unwrap();
    assert!(!lab.forwarding("uplink") && !lab.forwarding("spare"));
}

/// Wherever the owner dies in the course of its beginning and its work.
#[tokio::test(flavor = "multi_thread")]
async fn death_at_any_time_leaves_nothing_that_is_not_found() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    for step in 0..20 {
        let mut child = start(&lab, &tag("any"), Stdio::null());
        // An owner is up after some 100 ms.
        let time = Duration::from_millis(step * 6);
        let early = tokio::time::timeout(time, std::future::pending::<()>()).await;
        assert!(early.is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        sweep(Some(lab.host.clone()), |_| false).await.unwrap();
        assert_eq!(lab.tables(), Vec::<String>::new());
        assert!(!lab.forwarding("uplink"), "killed after {time:?}");
    }
    until("a link is still there", || lab.links().is_empty());
    ip(&lab.host, &["link show uplink"]);
}
