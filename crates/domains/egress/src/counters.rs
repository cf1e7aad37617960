//! What is counted for each guest.

use serde::{Deserialize, Serialize};

/// Numbers of one attachment, since it was attached (or the child started again).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Connections now.
    pub open: u64,
    /// Connections and requests that were let through.
    pub passed: u64,
    /// Connections, requests and queries that were refused.
    pub refused: u64,
    /// Those that were allowed and failed: not resolved, not reached.
    pub failed: u64,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
    /// DNS queries.
    pub queries: u64,
    /// DNS queries that were dropped since there were too many.
    pub queries_dropped: u64,
}
