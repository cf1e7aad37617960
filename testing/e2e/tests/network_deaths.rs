//! Sessions with networks in a host of the test's own, whose internet records all that reaches it: while the worker, the
//! proxy and VMs are killed at random, nothing gets out that may not, and nothing is left.

use omnirun_e2e::{
    journal::Journal,
    leftovers::{leftovers, vmms},
    omnirun_in, private_data,
    processes::{all, children, kill, lives},
    run,
    stage::{Sim, Worker},
    text, wait_until,
};
use omnirun_escape_test::{
    lab::{HOST_IP, HOST_PORTS, Lab, ROUTER_IP, enter, zone},
    nonce::Nonce,
};
use omnirun_store::sessions::CallState;
use serde_json::{Value, json};
use std::{fs, process::Command, time::Duration};

const BOUND: Duration = Duration::from_secs(180);
/// On the proxy's command line.
const PROXY: &str = "egress-proxy";
/// A public address that no list has.
const PUBLIC: &str = "9.9.9.9";
const METADATA: &str = "169.254.169.254";

/// An address or name, a port, and what is said there.
struct Way {
    host: String,
    port: u16,
    nonce: Nonce,
    may: bool,
}

/// A session that tries ways in each of its calls.
struct Plan {
    asks: Option<&'static str>,
    ways: Vec<Way>,
}

impl Plan {
    /// Only a listed name is open to it.
    fn listed(asks: &'static str) -> Self {
        let listed = (zone::LISTED.0, 80);
        let not = [
            (PUBLIC, 80),
            (PUBLIC, 8000),
            (zone::UNLISTED.0, 80),
            (METADATA, 80),
        ];
        Self::new(Some(asks), listed, &not)
    }

    /// All that is public is.
    fn open() -> Self {
        let (router, host) = (ROUTER_IP.to_string(), HOST_IP.to_string());
        let not = [
            (METADATA, 80),
            (router.as_str(), 80),
            (host.as_str(), HOST_PORTS[0]),
        ];
        Self::new(None, (PUBLIC, 8000), &not)
    }

    fn new(asks: Option<&'static str>, may: (&str, u16), not: &[(&str, u16)]) -> Self {
        let way = |(host, port): (&str, u16), may| Way {
            host: host.to_owned(),
            port,
            nonce: Nonce::random(),
            may,
        };
        let not = not.iter().map(|to| way(*to, false));
        Self {
            asks,
            ways: not.chain([way(may, true)]).collect(),
        }
    }

    /// In a scenario.
    fn session(&self, name: &str, calls: usize) -> Value {
        let mut script = String::from(
            "try() { timeout 2 bash -c \"exec 3<>/dev/tcp/$1/$2 && printf 'GET /$3 HTTP/1.1\\r\\nHost: $1\\r\\n\\r\\n' \
             >&3 && head -n 1 <&3\" 2>/dev/null; }\n",
        );
        for Way {
            host, port, nonce, ..
        } in &self.ways
        {
            script += &format!("try {host} {port} {}\n", nonce.hex());
        }
        script += "true";
        let steps = (0..calls).map(|n| {
            let input = json!({"command": script});
            json!({"call": {"name": format!("c{n}"), "tool": "bash", "input": input, "expect": {"any": true}}})
        });
        let steps: Vec<Value> = std::iter::once(json!({"user": "Go."})).chain(steps).collect();
        match self.asks {
            Some(asks) => json!({"name": name, "metadata": {"omnirun.network": asks}, "steps": steps}),
            None => json!({"name": name, "steps": steps}),
        }
    }
}

fn scenario(tag: &str, plans: &[Plan], calls: usize) -> String {
    let sessions = plans.iter().enumerate();
    let sessions: Vec<Value> = sessions
        .map(|(n, plan)| plan.session(&format!("s{n}"), calls))
        .collect();
    json!({"name": tag, "id_tag": tag, "queue": {"ttl_seconds": 4}, "sessions": sessions}).to_string()
}

/// Nothing has arrived that may not, and of what may, something has for each plan that is asked about.
fn assert_arrived(lab: &Lab, plans: &[Plan], all_of: impl Fn(usize) -> bool) {
    let ways = || {
        let plans = plans.iter().enumerate();
        plans.flat_map(|(n, plan)| plan.ways.iter().map(move |way| (n, way)))
    };
    let seen = lab.records().seen();
    for (attempt, (n, way)) in ways().enumerate() {
        let came = seen.iter().any(|record| record.attempt == attempt);
        let Way { host, port, may, .. } = way;
        assert!(*may || !came, "s{n} reached {host}:{port}");
        assert!(came || !*may || !all_of(n), "s{n} did not reach {host}:{port}");
    }
}

fn look_for(lab: &Lab, plans: &[Plan]) {
    let nonces = plans
        .iter()
        .flat_map(|plan| plan.ways.iter().map(|way| way.nonce));
    lab.records().look_for(&nonces.collect::<Vec<_>>());
}

/// Links, tables of rules, sockets and processes of the lab's host. Not all sockets: what waits for its time to be over
/// belongs to nobody.
fn of_the_host() -> Vec<String> {
    let program = |line: &str| {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        let out = command.args(words).output().expect(line);
        assert!(out.status.success(), "{line}: {}", text(&out.stderr));
        text(&out.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found = program("ip -oneline -brief link");
    for line in &mut found {
        // What else there is says how the link is.
        *line = line.split_whitespace().next().unwrap_or_default().to_owned();
    }
    found.extend(program("nft list tables"));
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "packet"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next(), fields.nth(1));
            // `TIME_WAIT` is 6 and `LISTEN` is 10 in include/net/tcp_states.h.
            if state != Some("06") {
                found.push(format!("{table}: {local:?} {state:?}"));
            }
        }
    }
    let ours = fs::read_link("/proc/thread-self/ns/net").expect("our namespace");
    for pid in all() {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        if namespace.as_ref() == Some(&ours) && lives(pid, PROXY) {
            found.push(format!("proxy {pid}"));
        }
    }
    found.sort();
    found
}

#[test]
fn random_deaths_leave_nothing_and_open_no_path() {
    enter::test("random_deaths_leave_nothing_and_open_no_path", random_deaths);
}

async fn random_deaths(lab: Lab) {
    let soak = std::env::var_os("OMNIRUN_SOAK").is_some();
    let (sessions, calls, kills) = if soak { (50, 4, 40) } else { (4, 2, 3) };
    let seed = std::env::var("OMNIRUN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("OMNIRUN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let before = of_the_host();
    let plans: Vec<Plan> = (0..sessions)
        .map(|n| match n % 2 {
            0 => Plan::listed("allow:listed.example"),
            _ => Plan::open(),
        })
        .collect();
    look_for(&lab, &plans);
    let private = private_data();
    let data = private.path();
    let stage = tempfile::tempdir().expect("a folder");
    let mut sim = Sim::start(stage.path(), &scenario("e2edeaths", &plans, calls));
    let args = ["--net", "open", "--max-idle", "1s", "--max-sessions", "4"];
    let mut worker = Worker::start(data, &sim, &args);
    let journal = Journal::open(data);
    let total = sessions * calls;
    let posted = || -> usize {
        (0..sessions)
            .map(|s| journal.at_least(&format!("s{s}"), CallState::Posted))
            .sum()
    };
    for n in 1..=kills {
        let wanted = total * n / (kills + 2);
        wait_until(&format!("{wanted} of {total} calls"), 10 * BOUND, || {
            posted() >= wanted || sim.is_over() || !worker.lives()
        });
        // The first three are one of each, whatever the chances.
        match if n <= 3 { n } else { random.usize(1..=3) } {
            1 => {
                let proxies = children(worker.pid(), PROXY);
                worker.kill();
                for pid in proxies {
                    wait_until("the proxy's end", BOUND, || !lives(pid, PROXY));
                }
                worker = Worker::start(data, &sim, &args);
            }
            2 => {
                wait_until("a proxy", BOUND, || {
                    let proxies = children(worker.pid(), PROXY);
                    proxies.iter().for_each(|pid| kill(*pid));
                    !proxies.is_empty() || sim.is_over()
                });
            }
            _ => {
                wait_until("a VM", BOUND, || {
                    let found = vmms(data);
                    let one = random.choice(&found);
                    one.iter().for_each(|(pid, _)| kill(*pid));
                    one.is_some() || sim.is_over()
                });
            }
        }
    }
    let report = sim.wait(&mut worker, 10 * BOUND);
    report.assert_ended(&worker);
    assert_arrived(&lab, &plans, |_| true);
    worker.kill();
    let (code, _, err) = run(&mut omnirun_in(data, ["clean"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(leftovers(data), Vec::<String>::new(), "{}", worker.log());
    assert_eq!(of_the_host(), before, "{}", worker.log());
}

#[test]
fn a_session_that_asks_for_more_gets_what_the_operator_allows() {
    enter::test(
        "a_session_that_asks_for_more_gets_what_the_operator_allows",
        asks_for_more,
    );
}

async fn asks_for_more(lab: Lab) {
    let plans = [
        Plan::listed("open"),
        Plan::listed("allow:listed.example,unlisted.example,169.254.0.0/16"),
        Plan::listed("allow:*.example"),
    ];
    look_for(&lab, &plans);
    let private = private_data();
    let stage = tempfile::tempdir().expect("a folder");
    let sim = Sim::start(stage.path(), &scenario("e2emore", &plans, 1));
    let mut worker = Worker::start(
        private.path(),
        &sim,
        &["--net", "allow:listed.example", "--max-idle", "1s"],
    );
    let report = sim.wait(&mut worker, BOUND);
    report.assert_ok(&worker);
    // The second asks in words that are no policy, since nobody reaches such addresses: it has no network.
    assert_arrived(&lab, &plans, |n| n != 1);
    assert!(worker.stop(BOUND).success(), "{}", worker.log());
}
