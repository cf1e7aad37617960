//! The published schemas, as data.

use serde_json::{Value, json};

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Text.
    String,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// Two whole numbers: first and last line.
    LineRange,
}

impl FieldKind {
    /// How a message names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Boolean => "true or false",
            Self::Integer => "an integer",
            Self::LineRange => "[start_line, end_line]",
        }
    }

    fn schema(self) -> Value {
        match self {
            Self::String => json!({"type": "string"}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Integer => json!({"type": "integer"}),
            Self::LineRange => json!({"type": "array", "items": {"type": "integer"}}),
        }
    }
}

/// One field of a tool's input.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it must be there.
    pub required: bool,
}

/// A tool and its input.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// The fields of its input, in the published order.
    pub fields: &'static [Field],
}

const fn required(name: &'static str, kind: FieldKind) -> Field {
    Field {
        name,
        kind,
        required: true,
    }
}

const fn optional(name: &'static str, kind: FieldKind) -> Field {
    Field {
        name,
        kind,
        required: false,
    }
}

/// The six tools that run in a sandbox. (The toolset's other two, `web_search` and `web_fetch`, run at Anthropic's.)
pub const TOOLS: &[Tool] = &[
    Tool {
        name: "bash",
        fields: &[
            optional("command", FieldKind::String),
            optional("restart", FieldKind::Boolean),
            optional("timeout_ms", FieldKind::Integer),
        ],
    },
    Tool {
        name: "read",
        fields: &[
            required("file_path", FieldKind::String),
            optional("view_range", FieldKind::LineRange),
        ],
    },
    Tool {
        name: "write",
        fields: &[
            required("file_path", FieldKind::String),
            required("content", FieldKind::String),
        ],
    },
    Tool {
        name: "edit",
        fields: &[
            required("file_path", FieldKind::String),
            required("old_string", FieldKind::String),
            required("new_string", FieldKind::String),
            optional("replace_all", FieldKind::Boolean),
        ],
    },
    Tool {
        name: "glob",
        fields: &[
            required("pattern", FieldKind::String),
            optional("path", FieldKind::String),
        ],
    },
    Tool {
        name: "grep",
        fields: &[
            required("pattern", FieldKind::String),
            optional("path", FieldKind::String),
        ],
    },
];

impl Tool {
    /// The tool of that name.
    pub fn find(name: &str) -> Option<&'static Tool> {
        TOOLS.iter().find(|tool| tool.name == name)
    }

    /// The input's JSON schema.
    pub fn input_schema(&self) -> Value {
        let properties: serde_json::Map<String, Value> = self
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), field.kind.schema()))
            .collect();
        let required: Vec<&str> = self
            .fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name)
            .collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }
}
