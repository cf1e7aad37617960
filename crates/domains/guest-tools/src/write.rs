//! `write`: a file's whole content.

use crate::{Root, answer, error::ToolError, replace};
use omnirun_guest_proto::message::ToolResult;
use omnirun_tool_schema::WriteInput;

const TOOL: &str = "write";

pub(crate) fn run(root: &Root, input: &WriteInput) -> Result<ToolResult, ToolError> {
    let given = input.file_path.as_str();
    let path = root.resolve_for_writing(TOOL, given)?;
    replace::replace(root, &path, input.content.as_bytes(), None)
        .map_err(|error| error.for_model(TOOL, given))?;
    Ok(answer::text(format!(
        "wrote {} bytes to {given}",
        input.content.len()
    )))
}
