use super::*;
use crate::TOOLS;
use proptest::prelude::*;
use serde_json::json;

fn refusal(name: &str, input: &str) -> String {
    check(name, input.as_bytes()).unwrap_err().to_string()
}

#[test]
fn every_refusal_is_a_sentence_that_says_what_to_do() {
    for (name, input, sentence) in [
        (
            "bash",
            r#"{"cmd":"ls"}"#,
            "bash: unknown field 'cmd'; expected command, restart, timeout_ms",
        ),
        ("bash", "{}", "bash: command is required"),
        ("bash", r#"{"restart":false}"#, "bash: command is required"),
        (
            "bash",
            r#"{"command":["ls"]}"#,
            "bash: command must be a string, not an array",
        ),
        (
            "bash",
            r#"{"command":"a\u0000b"}"#,
            "bash: command must not contain a NUL character",
        ),
        (
            "bash",
            r#"{"command":"x","timeout_ms":-1}"#,
            "bash: timeout_ms must be 0 (the default) or a positive number of milliseconds",
        ),
        (
            "bash",
            r#"{"command":"x","timeout_ms":"5"}"#,
            "bash: timeout_ms must be an integer, not a string",
        ),
        (
            "bash",
            r#"{"command":"x","timeout_ms":1.5}"#,
            "bash: timeout_ms must be an integer, not a number with a fraction",
        ),
        ("read", r#"{}"#, "read: file_path is required"),
        ("read", r#"{"file_path":""}"#, "read: file_path is required"),
        (
            "read",
            r#"{"file_path":"a","view_range":[1]}"#,
            "read: view_range must be [start_line, end_line]",
        ),
        (
            "read",
            r#"{"file_path":"a","view_range":["1","2"]}"#,
            "read: view_range must be [start_line, end_line], not a string",
        ),
        ("write", r#"{"file_path":"a"}"#, "write: content is required"),
        (
            "write",
            r#"{"file_path":"a","content":null}"#,
            "write: content is required",
        ),
        (
            "write",
            r#"{"file_path":7,"content":""}"#,
            "write: file_path must be a string, not a number",
        ),
        (
            "edit",
            r#"{"file_path":"a","old_string":"","new_string":"b"}"#,
            "edit: old_string is required",
        ),
        (
            "edit",
            r#"{"file_path":"a","old_string":"x","new_string":"b","replace_all":"yes"}"#,
            "edit: replace_all must be true or false, not a string",
        ),
        ("glob", r#"{"pattern":""}"#, "glob: pattern is required"),
        ("grep", r#"{"path":"x"}"#, "grep: pattern is required"),
        (
            "grep",
            "",
            "grep: the input is missing; expected a JSON object with pattern, path",
        ),
        (
            "grep",
            "null",
            "grep: the input is missing; expected a JSON object with pattern, path",
        ),
        (
            "grep",
            "[]",
            "grep: the input is an array; expected a JSON object with pattern, path",
        ),
        (
            "grep",
            "{\"pattern\":",
            "grep: the input is not valid JSON (line 1, column 11); expected an object with pattern, path",
        ),
        (
            "web_search",
            "{}",
            "unknown tool 'web_search'; the tools are bash, read, write, edit, glob, grep",
        ),
    ] {
        assert_eq!(refusal(name, input), sentence, "{name} {input}");
    }
}

#[test]
fn optional_fields_may_be_null_and_integers_may_be_written_as_floats() {
    let input = check("bash", br#"{"command":"ls","restart":null,"timeout_ms":5000.0}"#).unwrap();
    let expected = BashInput {
        command: Some("ls".into()),
        restart: false,
        timeout_ms: Some(5000),
    };
    assert_eq!(input, ToolInput::Bash(expected));
    let input = check("bash", br#"{"restart":true,"timeout_ms":0}"#).unwrap();
    assert_eq!(
        input,
        ToolInput::Bash(BashInput {
            command: None,
            restart: true,
            timeout_ms: None
        })
    );
    let input = check(
        "read",
        br#"{"file_path":"a","view_range":[3,18446744073709551615]}"#,
    )
    .unwrap();
    let expected = ReadInput {
        file_path: "a".into(),
        view_range: Some((3, i64::MAX)),
    };
    assert_eq!(input, ToolInput::Read(expected));
    let input = check("read", br#"{"file_path":"a","view_range":[]}"#).unwrap();
    assert_eq!(
        input,
        ToolInput::Read(ReadInput {
            file_path: "a".into(),
            view_range: None
        })
    );
}

#[test]
fn bytes_that_are_not_text_are_refused_where_they_are() {
    let error = check("grep", b"{\"pattern\":\"\xff\"}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "grep: the input is not valid UTF-8 (at byte 12)"
    );
}

#[test]
fn a_lone_surrogate_is_not_json() {
    assert!(refusal("grep", r#"{"pattern":"\ud800"}"#).contains("not valid JSON"));
}

#[test]
fn ten_megabytes_pass_and_absurd_sizes_do_not() {
    let content = "\n".repeat(10_000_000);
    let input = serde_json::to_vec(&json!({"file_path": "a", "content": content})).unwrap();
    match check("write", &input).unwrap() {
        ToolInput::Write(write) => assert_eq!(write.content.len(), 10_000_000),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        check("write", &vec![b' '; MAX_INPUT + 1]),
        Err(InputError::TooLong { .. })
    ));
}

#[test]
fn deep_nesting_is_refused_without_a_crash() {
    let input = format!("{{\"pattern\":{}", "[".repeat(1_000_000));
    assert!(refusal("grep", &input).contains("not valid JSON"));
}

#[test]
fn messages_stay_short_and_debug_shows_nothing_of_the_agents_text() {
    let field = "secret".repeat(10_000);
    let error = check("bash", json!({ field: 1 }).to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
    assert!(!format!("{error:?}").contains("secret"));
    let input = check("bash", br#"{"command":"secret"}"#).unwrap();
    assert!(!format!("{input:?}").contains("secret"));
}

#[test]
fn the_published_schemas_name_what_is_required_and_close_the_object() {
    let schema = Tool::find("edit").unwrap().input_schema();
    assert_eq!(
        schema["required"],
        json!(["file_path", "old_string", "new_string"])
    );
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(
        Tool::find("read").unwrap().input_schema()["properties"]["view_range"]["items"]["type"],
        "integer"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_answered(name in "bash|read|write|edit|glob|grep|x", input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&name, &input).map_err(|error| error.to_string());
    }

    #[test]
    fn any_object_of_known_fields_passes_or_names_one_of_them(index in 0..TOOLS.len(), values in proptest::collection::vec(any_json(), 4)) {
        let tool = &TOOLS[index];
        let object: Map<String, Value> =
            tool.fields.iter().zip(values).map(|(field, value)| (field.name.to_owned(), value)).collect();
        if let Err(error) = check(tool.name, &serde_json::to_vec(&object).unwrap()) {
            let sentence = error.to_string();
            prop_assert!(tool.fields.iter().any(|field| sentence.contains(field.name)), "{}", sentence);
        }
    }

    #[test]
    fn a_truncated_input_is_never_taken_for_another(content in "[a-z\"\\\\\n]{0,40}", cut in 0usize..100) {
        let whole = serde_json::to_vec(&json!({"file_path": "p", "content": content})).unwrap();
        if cut < whole.len() {
            prop_assert!(check("write", &whole[..cut]).is_err());
        }
    }
}
