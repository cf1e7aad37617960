//! The subcommands, one per file.

pub mod run;
pub mod worker;
pub mod spawn;
pub mod session;
pub mod image;
pub mod doctor;
pub mod clean;
pub mod bench;
pub mod sim;
