//! What a guest says on the wire about where it wants to go, read without I/O and without trust: the first bytes of a
//! TLS stream, an HTTP request's target, a DNS query; and the DNS answers that it is given.
//!
//! ```text
//!   hello   bytes of a TCP stream      -> NeedMore | Bad(why) | Found(server name, ECH, ALPN)
//!   http    a request's head           -> host, port, form; or why it is refused
//!   dns     a datagram or a TCP frame  -> one question; and answers to it
//! ```
//!
//! Each parser accepts less than the protocol's own peers do. Where two programs might read the same bytes differently
//! (the proxy here, the server there), the bytes are refused: what passes has one reading. Nothing here decides whether a
//! name is allowed (`omnirun-egress-policy` does), and nothing here dials.
//!
//! | bypass | stop |
//! | -- | -- |
//! | no server name, or an address in its place | [`hello`]: `name` is `None`, or `Bad`; [`http`]: a host that is an address is told apart from a name |
//! | encrypted ClientHello | [`hello`]: `ech` says that the name is only the outer one; [`dns`]: HTTPS and SVCB records have an answer without records |
//! | DNS tunnels | [`dns`]: only what [`dns::Kind`] names is ever answered, [`dns::Query::tunnel`] has the caps on lengths |
//! | parsers that differ | every length checked against what holds it, nothing left over, nothing twice; names are [`Name`]s |
//! | CONNECT, absolute URIs, smuggling | [`http`]: all places that name a host must agree; framing that has two readings is refused |

mod cursor;
pub mod dns;
pub mod hello;
mod host;
pub mod http;

pub use host::Host;
pub use omnirun_egress_policy::{BadName, Name};
