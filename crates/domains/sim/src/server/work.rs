//! The work queue's endpoints.

use super::{
    Credential,
    entry::Call,
    reply::{Failure, Reply, no_content, ok},
};
use crate::{
    audit::{GRACE, Rule},
    scenario::{Secret, StopAnswer},
    shared::{Shared, State},
    work::{Claim, WorkItem, WorkKind, item::Beat},
};
use base64::Engine;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a poller counts as polling.
const POLLING_WINDOW: Duration = Duration::from_secs(30);
/// The server's default for `reclaim_older_than_ms`.
const RECLAIM: Duration = Duration::from_secs(5);

pub(crate) async fn poll(call: &Call<'_>) -> Reply {
    let number = |name: &str| match call.query(name) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Failure::new(400, format!("{name}: Input should be a valid integer"))),
    };
    let block = match number("block_ms")? {
        None => Duration::ZERO,
        Some(ms @ 1..=999) => Duration::from_millis(ms),
        Some(_) => return Err(Failure::new(400, "block_ms: must be from 1 to 999")),
    };
    let reclaim = number("reclaim_older_than_ms")?.map_or(RECLAIM, Duration::from_millis);
    let shared = call.shared;
    environment(call)?;
    let worker = call.worker.clone().unwrap_or_else(|| "anonymous".into());
    let deadline = shared.clock.now() + block;
    loop {
        let mut changed = shared.changed();
        changed.borrow_and_update();
        let now = shared.clock.now();
        let offered = shared.note(|state| {
            if let Some(environment) = state.environments.get_mut(&call.route.id) {
                environment.pollers.insert(worker.clone(), now);
            }
            hand_out(shared, state, &call.route.id, &worker, reclaim)
        });
        if let Some(item) = offered {
            shared.update(|_| ());
            return Ok(ok(&item));
        }
        if now >= deadline {
            return Ok(ok(&Value::Null));
        }
        let next = shared.read(|state| next_reclaim(state, &call.route.id, reclaim));
        let wake = next.map_or(deadline, |at| at.min(deadline));
        tokio::select! {
            // Both only wake the loop. If the client leaves, this future is dropped and nothing was handed out.
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(shared.clock.instant(wake)) => {}
            () = shared.shutdown.cancelled() => return Ok(ok(&Value::Null)),
        }
    }
}

fn next_reclaim(state: &State, environment: &str, reclaim: Duration) -> Option<Duration> {
    use crate::work::item::Phase;
    let pending = |item: &WorkItem| match item.machine.phase() {
        Phase::Queued { pending: Some(since) } => Some(*since + reclaim + Duration::from_millis(1)),
        _ => None,
    };
    state
        .items
        .iter()
        .filter(|i| i.environment == environment)
        .filter_map(pending)
        .min()
}

fn hand_out(
    shared: &Shared,
    state: &mut State,
    environment: &str,
    worker: &str,
    reclaim: Duration,
) -> Option<Value> {
    let now = shared.clock.now();
    state.expire(now);
    let index = state
        .items
        .iter_mut()
        .position(|item| item.environment == environment && item.machine.offer(now, reclaim))?;
    let token = format!("tok-{}", uuid::Uuid::new_v4().simple());
    let item = &mut state.items[index];
    item.lose();
    item.claims.push(Claim {
        worker: worker.to_owned(),
        ..Claim::default()
    });
    let claim = item.claims.len() - 1;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let secret = match shared.scenario.queue.secret {
        Secret::Token => {
            state.tokens.insert(token.clone(), (index, claim));
            Some(engine.encode(json!({"sessions_token": token, "ingress_token": "unused"}).to_string()))
        }
        Secret::None => None,
        Secret::Garbage => Some("%%% not base64 %%%".to_owned()),
    };
    Some(state.items[index].to_json(|t| shared.stamp(t), secret))
}

fn environment(call: &Call<'_>) -> Result<(), Failure> {
    let known = call.shared.read(|s| s.environments.contains_key(&call.route.id));
    if known {
        Ok(())
    } else {
        Err(Failure::not_found("environment"))
    }
}

/// The item of the path, with the claim that the caller speaks for.
fn with_item<T>(
    call: &Call<'_>,
    act: impl FnOnce(&mut State, usize, Option<usize>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let now = call.shared.clock.now();
    call.shared.update(|state| {
        state.expire(now);
        let (id, environment) = (&call.route.work, &call.route.id);
        let index = state
            .items
            .iter()
            .position(|i| &i.id == id && &i.environment == environment);
        let index = index.ok_or_else(|| Failure::not_found("work item"))?;
        let claim = match &call.credential {
            Credential::Session(token) => state.tokens.get(token).map(|(_, claim)| *claim),
            Credential::Environment(_) => state.items[index].claims.len().checked_sub(1),
            Credential::Organization => None,
        };
        act(state, index, claim)
    })
}

fn reply(call: &Call<'_>, item: &WorkItem) -> Value {
    item.to_json(|t| call.shared.stamp(t), None)
}

pub(crate) fn ack(call: &Call<'_>) -> Reply {
    let now = call.shared.clock.now();
    with_item(call, |state, index, claim| {
        let item = &mut state.items[index];
        item.machine
            .ack(now)
            .map_err(|why| Failure::new(409, why.to_string()))?;
        if let Some(claim) = claim {
            item.claims[claim].acked = true;
        }
        let body = reply(call, item);
        let held = state.held();
        if call.shared.scenario.max_claims.is_some_and(|max| held > max) {
            state.audit.add(
                now,
                Rule::TooManyClaims,
                &call.route.work,
                format!("{held} at once"),
            );
        }
        Ok(ok(&body))
    })
}

pub(crate) fn heartbeat(call: &Call<'_>) -> Reply {
    let shared = call.shared;
    let now = shared.clock.now();
    let ttl = shared.scenario.queue.ttl_seconds;
    with_item(call, |state, index, claim| {
        audit_lost(state, now, index, claim, Rule::HeartbeatAfterLostLease);
        let healthcheck = state.items[index].kind == WorkKind::Healthcheck;
        if healthcheck {
            state
                .audit
                .add(now, Rule::HealthcheckServed, &call.route.work, "heartbeat");
        }
        let item = &mut state.items[index];
        // A token of an earlier claim never extends the present one, whatever value it names.
        let stale = claim.is_some_and(|c| c + 1 != item.claims.len());
        let expected = if stale {
            Some("")
        } else {
            call.query("expected_last_heartbeat")
        };
        let previous = item.machine.stored().map(str::to_owned);
        // Two beats within a microsecond would share their stamp.
        let mut fresh = shared.stamp(now);
        if previous.as_deref() == Some(fresh.as_str()) {
            fresh = shared.stamp(now + Duration::from_micros(1));
        }
        let beat = item.machine.beat(now, expected, fresh);
        let last = item.machine.stored().unwrap_or_default().to_owned();
        match beat {
            Beat::Extended(value) => {
                if let Some(claim) = claim {
                    item.claims[claim].beats += 1;
                }
                let state = item.machine.phase().name();
                Ok(ok(
                    &json!({"type": "work_heartbeat", "last_heartbeat": value, "lease_extended": true,
                    "state": state, "ttl_seconds": ttl}),
                ))
            }
            Beat::Ending(state) => Ok(ok(&json!({"type": "work_heartbeat", "last_heartbeat": last,
                "lease_extended": false, "state": state, "ttl_seconds": ttl}))),
            Beat::Moved { state, stored } => {
                if let Some(claim) = claim {
                    let claim = &mut item.claims[claim];
                    claim.lost = true;
                    claim.told_lost.get_or_insert(now);
                }
                let details = json!({"error_code": "heartbeat_precondition_failed", "current_state": {
                    "state": state, "last_heartbeat": stored, "lease_extended": false, "ttl_seconds": ttl}});
                Err(Failure::new(412, "the lease moved").details(details))
            }
        }
    })
}

/// Notes a request that a holder must not make once it was told that its lease is lost.
fn audit_lost(state: &mut State, now: Duration, index: usize, claim: Option<usize>, rule: Rule) {
    let item = &state.items[index];
    let told = claim.and_then(|c| item.claims[c].told_lost);
    if told.is_some_and(|told| now > told + GRACE) {
        let (id, worker) = (
            item.id.clone(),
            claim.map(|c| item.claims[c].worker.clone()).unwrap_or_default(),
        );
        state.audit.add(now, rule, &id, worker);
    }
}

pub(crate) fn stop(call: &Call<'_>) -> Reply {
    let shared = call.shared;
    let now = shared.clock.now();
    let force = call.json()?["force"].as_bool().unwrap_or(false);
    with_item(call, |state, index, claim| {
        // After 412 any stop is wrong, but one sent at the same moment as the beat is not.
        audit_lost(state, now, index, claim, Rule::StopAfterLostLease);
        let item = &mut state.items[index];
        item.machine.stop(now, force).map_err(|why| {
            let failure = Failure::new(409, why.to_string());
            match shared.scenario.queue.stop_conflict_should_retry_header {
                true => failure.header("x-should-retry", "false"),
                false => failure,
            }
        })?;
        if let Some(claim) = claim.filter(|_| force) {
            item.claims[claim].force_stopped = true;
        }
        Ok(match shared.scenario.queue.stop_answer {
            StopAnswer::Object => ok(&reply(call, item)),
            StopAnswer::NoContent => no_content(),
        })
    })
}

pub(crate) fn stats(call: &Call<'_>) -> Reply {
    use crate::work::item::Phase;
    environment(call)?;
    let shared = call.shared;
    let now = shared.clock.now();
    Ok(shared.note(|state| {
        state.expire(now);
        let queued = |i: &&WorkItem| {
            i.environment == call.route.id && matches!(i.machine.phase(), Phase::Queued { .. })
        };
        let pending = |i: &&WorkItem| matches!(i.machine.phase(), Phase::Queued { pending: Some(_) });
        let all = state.items.iter().filter(queued).count();
        let pending = state.items.iter().filter(queued).filter(pending).count();
        let oldest = state.items.iter().filter(queued).map(|i| i.created).min();
        let polling = state.environments.get(&call.route.id).map_or(0, |e| {
            e.pollers
                .values()
                .filter(|&&t| now.saturating_sub(t) <= POLLING_WINDOW)
                .count()
        });
        ok(
            &json!({"type": "work_queue_stats", "depth": all - pending, "pending": pending,
            "oldest_queued_at": oldest.map(|t| shared.stamp(t)), "workers_polling": polling}),
        )
    }))
}

pub(crate) fn list(call: &Call<'_>) -> Reply {
    environment(call)?;
    let items: Vec<Value> = call.shared.read(|state| {
        let of = |i: &&WorkItem| i.environment == call.route.id;
        state.items.iter().filter(of).map(|i| reply(call, i)).collect()
    });
    super::events::page(call, items, 1000)
}

pub(crate) fn get(call: &Call<'_>) -> Reply {
    with_item(call, |state, index, _| Ok(ok(&reply(call, &state.items[index]))))
}

pub(crate) fn update(call: &Call<'_>) -> Reply {
    let body = call.json()?;
    let invalid = || {
        Failure::new(400, "metadata: must be an object of strings")
            .details(json!({"error_code": "invalid_metadata"}))
    };
    let patch = body["metadata"].as_object().ok_or_else(invalid)?;
    if patch.values().any(|v| !v.is_string() && !v.is_null()) {
        return Err(invalid());
    }
    with_item(call, |state, index, _| {
        let item = &mut state.items[index];
        for (key, value) in patch {
            match value {
                Value::Null => item.metadata.remove(key),
                value => item.metadata.insert(key.clone(), value.clone()),
            };
        }
        Ok(ok(&reply(call, item)))
    })
}
