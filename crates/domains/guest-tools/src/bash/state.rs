//! The state of a shell between two commands: the working directory, variables, functions, aliases, options, umask.
//!
//! Not carried: descriptors, jobs, traps, positional parameters, readonly attributes, the shell's own variables.
//!
//! The shell prints its state as sections between NUL bytes, which no shell value can hold (`__omnirun_save` in the
//! driver). [`read`] checks that print and turns it into two scripts: one that runs before our functions are defined,
//! one after. All of it is the sandbox's own data, run in the sandbox's own shell; what matters here is that it is
//! bounded, and that damaged state is noticed.

mod print;

pub(super) use print::read;

use omnirun_guest_proto::limits::MAX_SHELL_STATE;
use rustix::io::Errno;

/// Longest print that is read. Larger variables than a state can hold have to be seen to be left out by name.
pub(super) const MAX_RAW: usize = 16 << 20;

/// Most variables of a print. A state can hold fewer: each takes a dozen bytes.
pub(super) const MAX_VARIABLES: usize = 100_000;

const HEADER: &[u8] = b"omnirun-shell 1\n";

/// Saved state: an opaque blob of at most [`MAX_SHELL_STATE`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ShellState(Vec<u8>);

impl std::fmt::Debug for ShellState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShellState({} bytes)", self.0.len())
    }
}

impl ShellState {
    /// Takes a stored blob. None if it is not one, is too long, or has another version.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let scripts = bytes.strip_prefix(HEADER)?;
        let separators = scripts.iter().filter(|byte| **byte == 0).count();
        (bytes.len() <= MAX_SHELL_STATE && separators == 1).then_some(Self(bytes))
    }

    /// The blob, to be stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What runs before our functions are defined, and what runs after.
    pub(super) fn scripts(&self) -> (&[u8], &[u8]) {
        let scripts = self.0.strip_prefix(HEADER).unwrap_or_default();
        let middle = scripts
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(scripts.len());
        (&scripts[..middle], scripts.get(middle + 1..).unwrap_or_default())
    }
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateAfter {
    /// Its state.
    Saved {
        /// The state.
        state: ShellState,
        /// What did not fit: names of variables, or `functions` or `aliases`.
        dropped: Vec<String>,
    },
    /// The shell ended without printing its state: it was killed, or replaced by `exec`.
    Lost,
    /// It printed more than is read.
    TooLarge,
}

/// A word that no earlier command knows.
pub(super) fn nonce() -> Result<String, Errno> {
    let mut bytes = [0u8; 12];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Quotes bytes for the shell.
pub(super) fn quote(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(bytes.len() + 2);
    quoted.push(b'\'');
    for &byte in bytes {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
