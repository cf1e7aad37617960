//! The host's end of the channel to a guest agent.
//!
//! ```text
//!   GuestClient (cheap clones) --+-- Shared: mutex over HostEnd and what callers wait for        [shared]
//!   Call, ExecHandle, ...     ---+        |  wakes
//!                                     connection task: owns the stream, reads, writes            [connection]
//! ```
//!
//! A caller writes its request's frames into the shared state at once and wakes the connection task, which writes all that
//! has gathered: requests made one after the other without waiting go out in one write.
//!
//! The guest is hostile. What it can make us keep is bounded: a window of bytes for each channel of an open call, and
//! the caps of `omnirun_guest_proto::limits` on messages; whatever breaks the protocol ends the connection, and every
//! caller gets [`ClientError::Protocol`]. Nothing here waits for the guest with a bound of its own except
//! [`GuestClient::connect`]: put `tokio::time::timeout` around a call; dropping it cancels it in the guest.

mod call;
mod client;
mod connection;
mod error;
mod exec;
mod files;
mod shared;

pub use client::{GuestClient, ToolHandle};
pub use error::{ClientError, ProtocolError};
pub use exec::{ExecEvent, ExecHandle, ExecInput};
pub use files::FileStream;
pub use omnirun_guest_proto::message;
