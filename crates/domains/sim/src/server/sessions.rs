//! Creating, reading and ending sessions.

use super::{
    entry::Call,
    reply::{Failure, Reply, ok},
};
use crate::{
    session::{Session, script},
    work::WorkKind,
};
use serde_json::{Value, json};

/// Limits of the published API.
const MAX_INITIAL: usize = 50;
const MAX_METADATA: usize = 16;

pub(crate) fn get(call: &Call<'_>) -> Reply {
    let now = call.shared.clock.now();
    call.shared.note(|state| {
        let healthcheck = state
            .items
            .iter()
            .any(|i| i.subject == call.route.id && i.kind == WorkKind::Healthcheck);
        if healthcheck {
            let rule = crate::audit::Rule::HealthcheckServed;
            state.audit.add(now, rule, &call.route.id, "session get");
        }
        let session = state.sessions.get(&call.route.id).filter(|s| !s.deleted);
        session
            .map(|s| ok(&s.to_json(call.shared)))
            .ok_or_else(|| Failure::not_found("session"))
    })
}

/// A session made through the API. Its agent's name picks a script, if the scenario has one of that name.
pub(crate) fn create(call: &Call<'_>) -> Reply {
    let body = call.json()?;
    let agent = body["agent"].as_str().or(body["agent"]["id"].as_str());
    let agent = agent
        .ok_or_else(|| Failure::new(400, "agent: Field required"))?
        .to_owned();
    let environment = body["environment_id"]
        .as_str()
        .ok_or_else(|| Failure::new(400, "environment_id: Field required"))?;
    if let Some(resource) = body["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["type"] != "memory_store")
    {
        let kind = &resource["type"];
        let message =
            format!("resources: {kind} is not supported on the self-hosted environment {environment}");
        return Err(Failure::new(400, message));
    }
    let initial = body["initial_events"].as_array().cloned().unwrap_or_default();
    let metadata = body["metadata"].as_object().cloned().unwrap_or_default();
    if initial.len() > MAX_INITIAL || metadata.len() > MAX_METADATA {
        return Err(Failure::new(400, "too many initial_events or metadata entries"));
    }
    let shared = call.shared;
    let script = shared
        .scenario
        .sessions
        .iter()
        .find(|s| s.on_create && s.name == agent)
        .cloned();
    let (object, id) = shared.update(|state| {
        if state
            .environments
            .get(environment)
            .is_none_or(|e| e.archived.is_some())
        {
            return Err(Failure::not_found("environment"));
        }
        let number = state.next_id();
        let name = format!("api{number}");
        let id = format!("sesn_{}_{name}", shared.tag);
        let mut session = Session::new(id.clone(), name, environment.to_owned(), shared.clock.now());
        session.agent = agent;
        session.title = body["title"].as_str().map(str::to_owned);
        session.metadata = metadata;
        session.scripted = script.is_some();
        if let Some(resources) = body.get("resources") {
            session.overlay.insert("resources".into(), resources.clone());
        }
        let mut message = false;
        for event in &initial {
            message |= event["type"] == "user.message";
            session.append(shared, event.clone(), None);
        }
        if message {
            super::events::answer(call, &mut session);
        }
        state.sessions.insert(id.clone(), session);
        state.queue(shared, environment, WorkKind::Session, &id);
        if script.is_some() {
            state.running += 1;
        }
        Ok((state.sessions[&id].to_json(shared), id))
    })?;
    if let Some(spec) = script {
        tokio::spawn(script::run(shared.clone(), spec, id));
    }
    Ok(ok(&object))
}

pub(crate) fn archive(call: &Call<'_>) -> Reply {
    let now = call.shared.clock.now();
    call.shared.update(|state| {
        let session = state
            .sessions
            .get_mut(&call.route.id)
            .ok_or_else(|| Failure::not_found("session"))?;
        session.archived.get_or_insert(now);
        session.terminate(call.shared);
        Ok(ok(&session.to_json(call.shared)))
    })
}

pub(crate) fn delete(call: &Call<'_>) -> Reply {
    call.shared.update(|state| {
        let session = state
            .sessions
            .get_mut(&call.route.id)
            .ok_or_else(|| Failure::not_found("session"))?;
        session.delete(call.shared);
        let body: Value = json!({"type": "session_deleted", "id": session.id});
        Ok(ok(&body))
    })
}
