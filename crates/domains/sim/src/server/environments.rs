//! Environments.

use super::{
    entry::Call,
    reply::{Failure, Reply, ok},
};
use crate::work::Environment;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn object(call: &Call<'_>, environment: &Environment) -> Value {
    environment.to_json(|t| call.shared.stamp(t))
}

fn invalid(message: &str) -> Failure {
    Failure::new(400, message)
}

/// The configuration of a request, which can only be self-hosted here.
fn check_config(body: &Value) -> Result<(), Failure> {
    match body.get("config").map(|c| &c["type"]) {
        None => Ok(()),
        Some(kind) if kind == "self_hosted" => Ok(()),
        Some(_) => Err(invalid("config: only self_hosted environments exist here")
            .details(json!({"error_code": "invalid_config_type_change"}))),
    }
}

pub(crate) fn create(call: &Call<'_>) -> Reply {
    let body = call.json()?;
    let name = body["name"]
        .as_str()
        .filter(|n| !n.is_empty())
        .ok_or_else(|| invalid("name: Field required"))?;
    check_config(&body)?;
    let shared = call.shared;
    shared.update(|state| {
        if state
            .environments
            .values()
            .any(|e| e.name == name && e.archived.is_none())
        {
            return Err(Failure::new(409, format!("an environment named {name:?} exists")));
        }
        let number = state.next_id();
        let environment = Environment {
            id: format!("env_{}_{number}", shared.tag),
            key: format!("sk-ant-oat01-{}", uuid::Uuid::new_v4().simple()),
            name: name.to_owned(),
            description: body["description"].as_str().map(str::to_owned),
            metadata: body["metadata"].as_object().cloned().unwrap_or_default(),
            created: shared.clock.now(),
            updated: shared.clock.now(),
            archived: None,
            pollers: BTreeMap::new(),
        };
        let reply = ok(&object(call, &environment));
        state.environments.insert(environment.id.clone(), environment);
        Ok(reply)
    })
}

pub(crate) fn list(call: &Call<'_>) -> Reply {
    let archived = call.query("include_archived") == Some("true");
    let all = call.shared.read(|state| {
        let shown = |e: &&Environment| archived || e.archived.is_none();
        state
            .environments
            .values()
            .filter(shown)
            .map(|e| object(call, e))
            .collect()
    });
    super::events::page(call, all, 100)
}

fn change(call: &Call<'_>, act: impl FnOnce(&mut Environment) -> Result<(), Failure>) -> Reply {
    call.shared.update(|state| {
        let found = state.environments.get_mut(&call.route.id);
        let environment = found.ok_or_else(|| Failure::not_found("environment"))?;
        act(environment)?;
        Ok(ok(&object(call, environment)))
    })
}

pub(crate) fn get(call: &Call<'_>) -> Reply {
    change(call, |_| Ok(()))
}

pub(crate) fn update(call: &Call<'_>) -> Reply {
    let body = call.json()?;
    check_config(&body)?;
    let now = call.shared.clock.now();
    change(call, |environment| {
        if environment.archived.is_some() {
            return Err(
                invalid("the environment is archived").details(json!({"error_code": "environment_archived"}))
            );
        }
        if let Some(name) = body["name"].as_str() {
            environment.name = name.to_owned();
        }
        if let Some(description) = body.get("description") {
            environment.description = description.as_str().map(str::to_owned);
        }
        for (key, value) in body["metadata"].as_object().into_iter().flatten() {
            match value {
                Value::Null => environment.metadata.remove(key),
                value => environment.metadata.insert(key.clone(), value.clone()),
            };
        }
        environment.updated = now;
        Ok(())
    })
}

pub(crate) fn archive(call: &Call<'_>) -> Reply {
    let now = call.shared.clock.now();
    change(call, |environment| {
        environment.archived.get_or_insert(now);
        Ok(())
    })
}

pub(crate) fn delete(call: &Call<'_>) -> Reply {
    call.shared.update(|state| {
        let found = state.environments.remove(&call.route.id);
        let environment = found.ok_or_else(|| Failure::not_found("environment"))?;
        Ok(ok(&json!({"type": "environment_deleted", "id": environment.id})))
    })
}
