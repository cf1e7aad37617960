//! Credentials, told apart by value: `Authorization: Bearer` or `x-api-key`.

use super::{Endpoint, reply::Failure, route::Route};
use crate::{audit::Rule, shared::Shared};
use axum::http::{HeaderMap, header};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// The organization.
    Organization,
    /// An environment's key: this environment's.
    Environment(String),
    /// An item's token.
    Session(String),
}

impl Credential {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Credential::Organization => "organization",
            Credential::Environment(_) => "environment",
            Credential::Session(_) => "sessions_token",
        }
    }
}

/// Reads and checks the credential of a request.
pub(crate) fn check(shared: &Shared, headers: &HeaderMap, route: &Route) -> Result<Credential, Failure> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let bearer = bearer.and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
    let key = headers.get("x-api-key").and_then(|v| v.to_str().ok());
    if bearer.is_some() && key.is_some() && route.endpoint == Endpoint::EventsStream {
        return Err(Failure::new(
            401,
            "send either Authorization or x-api-key, not both",
        ));
    }
    let Some(value) = bearer.or(key) else {
        return Err(Failure::new(401, "a credential is required"));
    };
    let credential = identify(shared, value).ok_or_else(|| Failure::new(401, "invalid credential"))?;
    if allowed(shared, &credential, route) {
        return Ok(credential);
    }
    if credential == Credential::Organization && matches!(route.endpoint, Endpoint::Poll | Endpoint::Ack) {
        let now = shared.clock.now();
        let detail = format!("{:?}", route.endpoint);
        shared.note(|s| s.audit.add(now, Rule::OrganizationKeyUsed, &route.id, detail));
    }
    let status = shared.scenario.keys.wrong_kind_status.unwrap_or(403);
    Err(Failure::new(
        status,
        format!(
            "this endpoint does not take a credential of kind {}",
            credential.name()
        ),
    ))
}

fn identify(shared: &Shared, value: &str) -> Option<Credential> {
    if value == shared.organization_key {
        return Some(Credential::Organization);
    }
    shared.read(|state| {
        if state.tokens.contains_key(value) {
            return Some(Credential::Session(value.to_owned()));
        }
        let environment = state.environments.values().find(|e| e.key == value)?;
        Some(Credential::Environment(environment.id.clone()))
    })
}

/// The table of the protocol reference, 1.1. What is unconfirmed there is refused here.
fn allowed(shared: &Shared, credential: &Credential, route: &Route) -> bool {
    use Endpoint::*;
    let of_environment = |key: &str| match route.endpoint {
        SessionGet | EventsList | EventsSend | EventsStream => {
            // An unknown session is a 404, not a 403.
            shared.read(|s| {
                s.sessions
                    .get(&route.id)
                    .is_none_or(|session| session.environment == key)
            })
        }
        _ => route.id == key || shared.read(|s| !s.environments.contains_key(&route.id)),
    };
    match credential {
        Credential::Organization => !matches!(route.endpoint, Poll | Ack | Heartbeat | WorkList),
        Credential::Environment(key) => match route.endpoint {
            Poll | Ack | Heartbeat | Stop | WorkStats | WorkList | SessionGet | EventsList | EventsSend
            | EventsStream => of_environment(key),
            _ => false,
        },
        Credential::Session(token) => shared.read(|state| {
            let Some((item, _)) = state.claim(token) else {
                return false;
            };
            match route.endpoint {
                Heartbeat | Stop => item.id == route.work && item.environment == route.id,
                SessionGet | EventsList | EventsSend | EventsStream => item.subject == route.id,
                _ => false,
            }
        }),
    }
}
