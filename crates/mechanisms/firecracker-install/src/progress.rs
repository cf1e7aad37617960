//! How a setup tells how far it is. The library knows no terminal.

/// Hears of a setup's progress. Called often; it must not block.
pub trait Progress: Send + Sync {
    /// A step begins, in words. The earlier one is over.
    fn step(&self, what: &str);
    /// So many bytes of the step are done, of so many if that is known.
    fn bytes(&self, done: u64, total: Option<u64>);
}
