//! Building tool results.

use omnirun_guest_proto::message::{Block, BlockKind, Media, ToolResult};

/// A success with one text block.
pub(crate) fn text(text: impl Into<String>) -> ToolResult {
    ToolResult {
        content: vec![Block {
            kind: Some(BlockKind::Text(text.into())),
        }],
        ..ToolResult::default()
    }
}

/// A text that stands for itself when it is empty.
pub(crate) fn text_or_no_output(content: String) -> ToolResult {
    text(if content.is_empty() {
        "(no output)".to_owned()
    } else {
        content
    })
}

/// An error that the model is to see.
pub(crate) fn error(message: impl Into<String>) -> ToolResult {
    ToolResult {
        is_error: true,
        ..text(message)
    }
}

/// An image.
pub(crate) fn image(media_type: &str, data: Vec<u8>) -> ToolResult {
    block(BlockKind::Image(Media {
        media_type: media_type.to_owned(),
        data,
    }))
}

/// A document.
pub(crate) fn document(media_type: &str, data: Vec<u8>) -> ToolResult {
    block(BlockKind::Document(Media {
        media_type: media_type.to_owned(),
        data,
    }))
}

fn block(kind: BlockKind) -> ToolResult {
    ToolResult {
        content: vec![Block { kind: Some(kind) }],
        ..ToolResult::default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The text of a result's only block.
    pub(crate) fn text_of(result: &ToolResult) -> String {
        match result.content.as_slice() {
            [
                Block {
                    kind: Some(BlockKind::Text(text)),
                },
            ] => text.clone(),
            other => panic!("not one text block: {other:?}"),
        }
    }
}
