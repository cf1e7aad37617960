//! The subcommands, one per file.

pub mod bench;
pub mod clean;
pub mod doctor;
pub mod escape_test;
pub mod image;
pub mod policy;
pub mod run;
pub mod session;
pub mod setup;
pub mod sim;
pub mod spawn;
pub mod worker;
