//! How a build tells how far it is. The library knows no terminal.

/// Hears of a build's progress. Called from the build's own task, often; it must not block.
pub trait Progress: Send + Sync {
    /// A step begins, in words: "downloading the kernel". The earlier one is over.
    fn step(&self, what: &str);
    /// So many bytes of the step are done, of so many if that is known.
    fn bytes(&self, done: u64, total: Option<u64>);
    /// Something a person should know and that is not a step.
    fn note(&self, text: &str);
}

/// Hears and says nothing.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _what: &str) {}
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    fn note(&self, _text: &str) {}
}
