//! What workers must not do, noticed where it happens.

use serde::Serialize;
use std::time::Duration;

/// Requests that were on their way when their sender was told that the lease is lost are no violation.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// Most violations kept; the count goes on.
const MAX_KEPT: usize = 200;

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A stop of an item after 412.
    StopAfterLostLease,
    /// Another heartbeat after 412.
    HeartbeatAfterLostLease,
    /// A result after 412.
    PostAfterLostLease,
    /// A result for an `ask` call without an `allow`.
    ResultBeforeConfirmation,
    /// A result for a denied call.
    ResultForDenied,
    /// A worker's result for a call of another client.
    ResultForUnowned,
    /// A second result with other bytes.
    DifferentSecondResult,
    /// A result posted without holding a live item.
    ResultWithoutItem,
    /// A result for a call that does not exist.
    ResultForUnknownCall,
    /// A result of the other kind (`user.tool_result` for a custom call or the reverse).
    ResultOfWrongKind,
    /// A healthcheck that was treated as a session.
    HealthcheckServed,
    /// More items at once than the scenario allows.
    TooManyClaims,
    /// An organization's key used where only workers call.
    OrganizationKeyUsed,
}

/// One case of it.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// The session or item it concerns.
    pub subject: String,
    /// More.
    pub detail: String,
}

/// All cases.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub violations: Vec<Violation>,
    pub count: usize,
}

impl Audit {
    pub(crate) fn add(&mut self, at: Duration, rule: Rule, subject: &str, detail: impl Into<String>) {
        self.count += 1;
        if self.violations.len() < MAX_KEPT {
            let (subject, detail) = (subject.to_owned(), detail.into());
            self.violations.push(Violation {
                rule,
                at_ms: at.as_millis() as u64,
                subject,
                detail,
            });
        }
    }
}
