//! Egress policies as an operator has them: a flag, a file, presets in the configuration folder; and what becomes of a
//! change.
//!
//! ```text
//!   <configuration folder>      OMNIRUN_CONFIG_DIR, else /etc/omnirun for root, else ~/.config/omnirun     [config]
//!     presets/NAME.toml         what preset:NAME stands for; one of the same name as ours comes first
//!     environments/ID.toml      the policy of a worker for this environment that was given none
//! ```
//!
//! [`PolicySource`] reads a policy and goes on watching the folders of what it is made of ([`watch`]). A change is
//! published through a channel, and whoever owns a VM applies it to what lives. A file that is broken or gone changes
//! nothing: what was in force stays so, and a warning says it. An editor that replaces a file leaves it missing for a
//! moment, and that must not cut every connection.

mod config;
mod error;
mod source;
mod watch;

pub use config::ConfigDir;
pub use error::PolicyFileError;
pub use source::{PolicySource, read};
