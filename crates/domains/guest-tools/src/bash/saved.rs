//! The shell of isolation mode `call`: one per command, with saved state.

use super::{
    Launch, ShellConfig, ShellState, StateAfter,
    fds::SharedFile,
    launch::{BOOT_LINE, SAVED_LINE, prepare},
    state,
};
use rustix::io::Errno;

/// A command in a shell of its own.
#[derive(Debug)]
pub struct SavedCall {
    state: SharedFile,
    config: ShellConfig,
    nonce: String,
}

impl SavedCall {
    /// Prepares a shell that restores the state (none: a new one), runs the command, prints its state and exits with
    /// the command's exit code.
    pub fn launch(
        config: &ShellConfig,
        state: Option<&ShellState>,
        command: &str,
    ) -> Result<(Launch, Self), Errno> {
        let script = SharedFile::new("omnirun-script")?;
        script.fill(&[BOOT_LINE.as_bytes(), SAVED_LINE.as_bytes()])?;
        let parts = prepare(config, state, script.share()?)?;
        let nonce = state::nonce()?;
        parts
            .command
            .fill(&[nonce.as_bytes(), b"\n", command.as_bytes()])?;
        Ok((
            parts.launch,
            Self {
                state: parts.state,
                config: config.clone(),
                nonce,
            },
        ))
    }

    /// What the command left as state: call it when the shell has exited by itself. After a kill there is nothing to
    /// take, and the state from before stays.
    pub fn take_state(&self) -> Result<StateAfter, Errno> {
        Ok(state::read(&self.state.written()?, &self.nonce, &self.config))
    }
}
