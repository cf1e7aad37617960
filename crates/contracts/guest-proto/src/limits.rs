//! Caps that both ends keep, each with its reason.

/// Longest payload of one frame. Small enough that a stream of output does not hold up a call's reply for long.
pub const MAX_FRAME_PAYLOAD: usize = 64 * 1024;
/// Longest request, all fragments together: a tool call's input of 10 MB, as JSON, has to fit.
pub const MAX_REQUEST: usize = 24 << 20;
/// Longest reply: a PDF of 20 MiB (the toolset's limit) as raw bytes, and its envelope.
pub const MAX_REPLY: usize = 24 << 20;
/// Bytes of data that one end may send on one call's channel before the other grants more.
pub const DATA_WINDOW: u32 = 256 * 1024;
/// Calls open at once on one connection.
pub const MAX_CALLS: usize = 64;
/// Bytes that an end discards while it looks for a preface: what the queues of a dropped connection can still hold.
pub const MAX_PREFACE_SKIP: usize = 4 << 20;
/// The saved state of a shell.
pub const MAX_SHELL_STATE: usize = 1 << 20;
/// Bytes of unfinished messages that one end keeps, all calls together.
pub const MAX_UNFINISHED: usize = 64 << 20;
/// Entries of all lists in one reply (a directory's entries, a result's blocks): what an agent sends, and some.
pub const MAX_REPEATED: usize = 20_000;
