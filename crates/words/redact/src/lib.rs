//! Data that logs may not show, as types.
//!
//! [`Secret`] holds a credential: it cannot be printed at all, and is read only through [`Secret::expose`], so every
//! use can be found by searching for that word. [`Guest`] holds bytes or text that came from inside a microVM or from
//! an agent: it prints its length alone, so a log line cannot carry tool content by accident.

use std::fmt;

/// A credential. `Debug` and `Display` print `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a credential into custody.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The credential itself, for the one place that must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Data from a guest or an agent. `Debug` and `Display` print its size alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Guest<T>(pub T);

impl<T> Guest<T> {
    /// The data, for code that handles it as data.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: AsRef<[u8]>> fmt::Debug for Guest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} guest bytes]", self.0.as_ref().len())
    }
}

impl<T: AsRef<[u8]>> fmt::Display for Guest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_prints_what_it_holds() {
        let secret = Secret::new("sk-ant-oat01-x");
        let guest = Guest("rm -rf".to_owned());
        let shown = format!("{secret} {secret:?} {guest} {guest:?}");
        assert!(!shown.contains("sk-ant") && !shown.contains("rm"), "{shown}");
        assert!(shown.contains("[6 guest bytes]"));
    }
}
