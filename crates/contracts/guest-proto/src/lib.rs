//! What host and guest say to each other.
//!
//! One byte stream per VM (virtio-serial under QEMU, vsock under Firecracker) carries many calls at once:
//!
//! ```text
//!   preface   magic, nonce, version offer -> magic, the nonce again, version      [preface]
//!   frames    length, call, kind, channel, payload                                [frame]
//!   calls     Request -> (Data, Credit, Eof, Cancel)* -> Reply                     [message]
//!
//!   state of a connection, as each end sees it, without I/O                        [host], [guest]
//! ```
//!
//! The host opens every call and numbers it; the guest never opens one. A call carries one [`message::Request`], any
//! number of data frames in both directions under a credit window of its own, and ends with one
//! [`message::Reply`]. Either end may drop the stream at any time: calls end with it, the next connection begins with
//! a new preface.
//!
//! The two ends do not ship together: a snapshot that was made by an older release holds that release's agent. Hence
//! the version offer, and hence protobuf messages, whose unknown fields are skipped.
//!
//! **Why not gRPC.** Under emulation every code page that a fresh clone touches is translated anew. An HTTP/2 server
//! makes the first reply of a clone cost 76-107 ms where a plain one takes 10-19; a sandbox's first answer may cost
//! 15 % more than the bare minimum, so the frames are ours and the messages stay protobuf.
//!
//! Everything here is pure: bytes in, values out, no I/O, no clock. All of it reads bytes from a hostile guest, so each
//! length is capped before anything is allocated for it ([`limits`]).

mod amount;
mod calls;
pub mod frame;
pub mod guest;
pub mod host;
pub mod limits;
pub mod message;
pub mod preface;

pub use prost::Message;
