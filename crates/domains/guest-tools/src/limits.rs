//! The toolset's limits, each with its reason.

use std::time::Duration;

/// Text that `read` returns and `edit` edits: published.
pub const MAX_FILE_BYTES: u64 = 262_144;
/// An image: 5 MiB once it is base64.
pub const MAX_IMAGE_BYTES: u64 = 3_932_160;
/// A PDF: published.
pub const MAX_PDF_BYTES: u64 = 20 << 20;
/// What an `edit` may make of a file: `replace_all` can turn a small file into terabytes.
pub const MAX_EDITED_BYTES: usize = 16 << 20;
/// Output of `grep`: published.
pub const MAX_GREP_BYTES: usize = 102_400;
/// Of one line in it. A minified file is one line.
pub const MAX_GREP_LINE: usize = 2000;
/// Paths that `glob` returns: published.
pub const MAX_GLOB_RESULTS: usize = 200;
/// Entries that a walk looks at: published. (In unit tests fewer: a busy disk takes a minute to make as many.)
pub const MAX_WALK_ENTRIES: usize = if cfg!(test) { 2000 } else { 50_000 };
/// A line that grep's searcher has to hold in memory.
pub const MAX_SEARCH_LINE: usize = 16 << 20;
/// Time of a whole call: below the official workers' limit of 120 s, so that the sentence arrives.
pub const FILE_TOOL_TIME: Duration = Duration::from_secs(100);
/// Time of a `glob` or `grep`: the official worker's.
pub const SEARCH_TIME: Duration = Duration::from_secs(30);
