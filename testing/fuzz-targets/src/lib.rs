//! What reads bytes that a guest, a VMM or the network wrote, as functions of those bytes that panic when something is
//! wrong: the bodies of the fuzz targets.
//!
//! ```text
//!   wire     frames, prefaces, messages, both ends of a connection        guest and host
//!   client   the whole client against a guest of arbitrary bytes          guest
//!   parsers  QMP lines, server-sent events, the work queue's JSON,        VMM, network, files
//!            tools' inputs, recipes, manifests, template.conf, kernels
//!   tar      unpacking on the host                                        guest
//!   tools    the file tools                                               the model, guest
//!   guest    what shells and consoles print, tools' results, passwd       guest
//!   egress   ClientHellos, heads of HTTP requests, DNS queries              guest
//!   seeds    well-formed samples, to start from
//! ```
//!
//! `testing/fuzz` runs them under libFuzzer (nightly); `tests/replay.rs` here replays its corpus on stable. Beside "does
//! not panic", each asserts what holds for any bytes: that cutting a stream elsewhere changes nothing, that memory stays
//! bounded, that what was read can be written and read again, that nothing outside a folder changes.

#![allow(clippy::unwrap_used)] // A panic is how a target reports.

mod client;
mod egress;
mod guest;
mod parsers;
pub mod seeds;
mod tar;
mod tools;
mod wire;

pub use client::guest_client;
pub use egress::{client_hello, dns_query, http_head};
pub use guest::{console, output, passwd, shell_state, tool_result};
pub use parsers::{bzimage, images, qmp, sse, tool_schema, work_proto};
pub use tar::unpack;
pub use tools::file_tools;
pub use wire::{frames, guest_end, host_end, messages, preface};

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpus folders.
pub const TARGETS: [(&str, Target); 22] = [
    ("bzimage", bzimage),
    ("client_hello", client_hello),
    ("console", console),
    ("dns_query", dns_query),
    ("file_tools", file_tools),
    ("frames", frames),
    ("guest_client", guest_client),
    ("guest_end", guest_end),
    ("host_end", host_end),
    ("http_head", http_head),
    ("images", images),
    ("messages", messages),
    ("output", output),
    ("passwd", passwd),
    ("preface", preface),
    ("qmp", qmp),
    ("shell_state", shell_state),
    ("sse", sse),
    ("tool_result", tool_result),
    ("tool_schema", tool_schema),
    ("unpack", unpack),
    ("work_proto", work_proto),
];

/// The first byte chooses (how a stream is cut, which parser is meant); the rest is the input.
fn choice(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (usize::from(*first), rest),
        None => (0, data),
    }
}
