//! The session object of `GET /v1/sessions/{id}`.

use super::Session;
use crate::shared::Shared;
use serde_json::{Value, json};

impl Session {
    /// The wire's object, with the scenario's fields laid over it.
    pub(crate) fn to_json(&self, shared: &Shared) -> Value {
        let tools = json!([{
            "type": "agent_toolset_20260401",
            "default_config": {"enabled": true, "permission_policy": {"type": "always_allow"}},
            "configs": [],
        }]);
        let age = shared.clock.now().saturating_sub(self.created).as_secs_f64();
        let mut object = json!({
            "type": "session", "id": self.id,
            "status": if self.archived.is_some() { "terminated" } else { self.status },
            "environment_id": self.environment, "title": self.title, "deployment_id": null,
            "metadata": self.metadata, "vault_ids": [],
            "created_at": shared.stamp(self.created), "updated_at": shared.stamp(self.last_stamp),
            "archived_at": self.archived.map(|t| shared.stamp(t)),
            "budget": null, "outcome_evaluations": [],
            "stats": {"active_seconds": age, "duration_seconds": age},
            "usage": {"input_tokens": 0, "output_tokens": 0},
            "resources": [],
            "agent": {
                "type": "agent", "id": self.agent, "version": 1, "name": self.name, "description": null,
                "system": null,
                "model": {"id": "claude-simulated", "effort": {"type": "high"}, "speed": "standard",
                          "inference_geo": null},
                "mcp_servers": [], "multiagent": null, "tools": tools, "skills": [],
            },
        });
        if let Some(map) = object.as_object_mut() {
            map.extend(self.overlay.clone());
        }
        object
    }
}
