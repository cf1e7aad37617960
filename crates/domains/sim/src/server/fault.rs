//! Which fault, if any, hits a request.

use super::{Endpoint, reply::Failure, route::Route};
use crate::{
    scenario::{Drop, Fault, RandomFaults, Scenario, StreamFault},
    shared::State,
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::json;
use std::{collections::BTreeMap, io, time::Duration};

/// What is to happen to one request.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// For the log.
    pub name: Option<String>,
    pub delay: Option<Duration>,
    pub drop: Option<Drop>,
    pub failure: Option<Failure>,
    pub truncate: Option<usize>,
    pub stream: Option<StreamFault>,
}

/// The scenario's faults and how far each has got.
#[derive(Debug)]
pub(crate) struct FaultPlan {
    /// With the number of matching requests seen.
    scripted: Vec<(Fault, u32)>,
    random: Option<RandomFaults>,
    /// Requests seen by endpoint and session: the random faults' index.
    seen: BTreeMap<(Endpoint, String), u64>,
    /// How often each kind hit.
    pub hits: BTreeMap<String, u32>,
}

impl FaultPlan {
    pub(crate) fn new(scenario: &Scenario) -> FaultPlan {
        FaultPlan {
            scripted: scenario.faults.iter().cloned().map(|f| (f, 0)).collect(),
            random: scenario.random.clone(),
            seen: BTreeMap::new(),
            hits: BTreeMap::new(),
        }
    }

    /// Adds one while running.
    pub(crate) fn add(&mut self, fault: Fault) {
        self.scripted.push((fault, 0));
    }
}

/// Decides, and moves the plan on.
pub(crate) fn decide(state: &mut State, route: &Route) -> Decision {
    let item = state.items.iter().position(|i| i.id == route.work);
    let subject = item.map_or(&route.id, |i| &state.items[i].subject);
    let session = state.sessions.get(subject).map(|s| s.name.clone());
    let plan = &mut state.faults;
    let mut decision = Decision::default();
    for (fault, seen) in &mut plan.scripted {
        let here = fault.endpoint.is_none_or(|e| e == route.endpoint)
            && (fault.session.is_none() || fault.session == session);
        if !here {
            continue;
        }
        *seen += 1;
        let times = fault.times.unwrap_or(fault.statuses.len().max(1) as u32);
        let Some(nth) = seen
            .checked_sub(fault.skip + 1)
            .filter(|n| times == 0 || *n < times)
        else {
            continue;
        };
        apply(fault, nth as usize, &mut decision);
        break;
    }
    if decision.name.is_none() {
        by_chance(
            plan,
            route.endpoint,
            session.as_deref().unwrap_or_default(),
            &mut decision,
        );
    }
    if let Some(name) = &decision.name {
        *plan
            .hits
            .entry(format!("{:?}: {name}", route.endpoint))
            .or_default() += 1;
    }
    if decision.name.as_deref() == Some("lose_lease")
        && let Some(item) = item
    {
        state.items[item].machine.requeue();
        state.items[item].lose();
    }
    decision
}

fn apply(fault: &Fault, nth: usize, decision: &mut Decision) {
    decision.delay = fault.delay;
    decision.drop = fault.drop;
    decision.truncate = fault.truncate;
    decision.stream = fault.stream.clone();
    if let Some(&status) = fault.statuses.get(nth % fault.statuses.len().max(1)) {
        let mut failure = Failure::new(status, "injected by the scenario");
        failure.headers = fault
            .headers
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if let Some(code) = &fault.error_code {
            failure = failure.details(json!({"error_code": code}));
        }
        decision.failure = Some(failure);
    }
    decision.name = Some(
        match (&decision.failure, fault.drop, fault.truncate, &fault.stream) {
            (Some(failure), ..) => format!("status {}", failure.status),
            (_, Some(drop), ..) => format!("drop {drop:?}").to_lowercase(),
            (_, _, Some(bytes), _) => format!("truncate {bytes}"),
            (.., Some(_)) => "stream".into(),
            _ => "delay".into(),
        },
    );
}

fn by_chance(plan: &mut FaultPlan, endpoint: Endpoint, session: &str, decision: &mut Decision) {
    let Some(random) = &plan.random else { return };
    let Some(rates) = random.rates.get(&endpoint) else {
        return;
    };
    let index = plan.seen.entry((endpoint, session.to_owned())).or_default();
    *index += 1;
    let mut dice = Dice(mix(random.seed, endpoint, session, *index));
    let mut roll = |rate: f64| dice.next() < rate;
    if roll(rates.delay) {
        decision.delay = Some(rates.delay_for);
        decision.name = Some("delay".into());
    }
    if roll(rates.status_500) {
        decision.failure = Some(Failure::new(500, "injected at random"));
        decision.name = Some("status 500".into());
    } else if roll(rates.status_429) {
        let failure = Failure::new(429, "injected at random");
        decision.failure = Some(failure.header("retry-after-ms", "100"));
        decision.name = Some("status 429".into());
    } else if roll(rates.drop_before) {
        decision.drop = Some(Drop::Before);
        decision.name = Some("drop before".into());
    } else if roll(rates.drop_after) {
        decision.drop = Some(Drop::After);
        decision.name = Some("drop after".into());
    } else if roll(rates.lose_lease) {
        decision.name = Some("lose_lease".into());
    } else if roll(rates.stream_close) {
        decision.stream = Some(StreamFault {
            close_after: Some(1 + dice.below(6)),
            ..StreamFault::default()
        });
        decision.name = Some("stream close".into());
    } else if roll(rates.stream_break) {
        decision.stream = Some(StreamFault {
            break_after: Some(dice.below(6)),
            ..StreamFault::default()
        });
        decision.name = Some("stream break".into());
    }
}

/// Random numbers whose only input is their seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, bound: u64) -> usize {
        (self.bits() % bound) as usize
    }
}

/// One number from everything that a request's fate depends on (FNV-1a).
fn mix(seed: u64, endpoint: Endpoint, session: &str, index: u64) -> u64 {
    let text = format!("{seed}/{endpoint:?}/{session}/{index}");
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Announces the whole body, sends a part of it and breaks the connection.
pub(crate) async fn truncate(response: Response<Body>, bytes: usize) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    // The bodies that can be cut are our own small ones.
    let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let part = whole.slice(..bytes.min(whole.len()));
    if let Ok(length) = HeaderValue::from_str(&whole.len().to_string()) {
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    // The pause lets the part be flushed before the error ends the connection.
    let pause = async {
        tokio::task::yield_now().await;
        Err(io::Error::other("cut by a fault"))
    };
    let cut = stream::iter([Ok::<Bytes, io::Error>(part)]).chain(stream::once(pause));
    Response::from_parts(parts, Body::from_stream(cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_depends_on_the_seed_and_the_request_alone() {
        let draw = |seed, index| Dice(mix(seed, Endpoint::Poll, "a", index)).next();
        assert_eq!(draw(1, 5), draw(1, 5));
        assert_ne!(draw(1, 5), draw(2, 5));
        let hits = (0..10_000).filter(|i| draw(3, *i) < 0.1).count();
        assert!((800..1200).contains(&hits), "{hits}");
    }
}
