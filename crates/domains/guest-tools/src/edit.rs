//! `edit`: replaces an exact piece of text.

use crate::{
    Root, answer,
    error::ToolError,
    limits::{MAX_EDITED_BYTES, MAX_FILE_BYTES},
    replace,
};
use omnirun_guest_proto::message::ToolResult;
use omnirun_tool_schema::EditInput;
use std::{fs::File, io::Read};

const TOOL: &str = "edit";

pub(crate) fn run(root: &Root, input: &EditInput) -> Result<ToolResult, ToolError> {
    let given = input.file_path.as_str();
    let path = root.resolve_for_writing(TOOL, given)?;
    let opened = root
        .regular(&path)
        .map_err(|error| ToolError::system(TOOL, given, error))?;
    let (fd, stat) = opened.ok_or_else(|| ToolError::path(TOOL, given, "not a regular file"))?;
    let mut bytes = Vec::new();
    File::from(fd)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            ToolError::system(
                TOOL,
                given,
                rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
            )
        })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let size = stat.st_size.unsigned_abs().max(bytes.len() as u64);
        let reason = format!(
            "file is {size} bytes, more than the limit of {MAX_FILE_BYTES}; edit it with bash (sed, python3)"
        );
        return Err(ToolError::path(TOOL, given, reason));
    }
    let text = String::from_utf8(bytes).map_err(|_| ToolError::path(TOOL, given, "not UTF-8 text"))?;
    let (edited, count) = replaced(&text, input)?;
    replace::replace(root, &path, edited.as_bytes(), Some(&stat))
        .map_err(|error| error.for_model(TOOL, given))?;
    Ok(answer::text(format!("edited {given} ({count} replacement(s))")))
}

/// The new text, and how many pieces were replaced.
fn replaced(text: &str, input: &EditInput) -> Result<(String, usize), ToolError> {
    let EditInput {
        file_path: given,
        old_string: old,
        new_string: new,
        replace_all,
    } = input;
    let found = text.matches(old.as_str()).count();
    if found == 0 {
        let mut message = format!("edit: old_string not found in {given}");
        if text.contains("\r\n") && !old.contains('\r') && text.replace("\r\n", "\n").contains(old.as_str()) {
            message.push_str(" (the file has CRLF line ends: write \\r\\n in old_string)");
        }
        return Err(ToolError::message(message));
    }
    if found > 1 && !replace_all {
        return Err(ToolError::message(format!(
            "edit: old_string appears {found} times in {given} (must be unique)"
        )));
    }
    let size = (text.len() - found * old.len()).saturating_add(found.saturating_mul(new.len()));
    if size > MAX_EDITED_BYTES.max(text.len()) {
        let reason = format!("the result would be {size} bytes, more than the limit of {MAX_EDITED_BYTES}");
        return Err(ToolError::path(TOOL, given, reason));
    }
    Ok((text.replace(old.as_str(), new), found))
}
