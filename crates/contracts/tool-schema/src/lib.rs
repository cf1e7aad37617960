//! The six tools of `agent_toolset_20260401`: their names, their published input schemas, and the check of an input.
//!
//! ```text
//!   input bytes --check(name, bytes)--> ToolInput | InputError (one sentence that a model can act on)
//! ```
//!
//! Host and guest both check. The host refuses before a sandbox is spent on a call that cannot run; the guest checks
//! again because it does not rely on the host of another release. Nothing here does I/O.
//!
//! Where the published schema leaves room, the reading is that of the official Python worker: an optional field may be
//! `null` (as if absent), an integer may be written `3.0`, a field that the schema does not name is refused.

mod check;
mod error;
mod input;
mod published;

pub use check::{MAX_INPUT, check};
pub use error::InputError;
pub use input::{BashInput, EditInput, GlobInput, GrepInput, ReadInput, ToolInput, WriteInput};
pub use published::{Field, FieldKind, TOOLS, Tool};
