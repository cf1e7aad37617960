//! Parsers of text: lines of a VMM, the network's JSON and events, and files of the data folder.

use crate::choice;
use omnirun_images::{Manifest, Recipe};
use omnirun_redact::Secret;
use omnirun_tool_schema::{TOOLS, ToolInput};
use omnirun_work_client::{Frame, SseParser};
use omnirun_work_proto::{
    ErrorBody, Event, HeartbeatResponse, History, Permission, Routed, Router, Session, WorkItem,
    item_credential, mend_surrogates, result_event,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Lines of QEMU's control protocol: the same messages however they are cut.
pub fn qmp(data: &[u8]) {
    let (step, data) = choice(data);
    let whole = omnirun_vmm::qemu::fuzz_qmp(data, data.len());
    assert_eq!(omnirun_vmm::qemu::fuzz_qmp(data, step), whole);
}

/// Server-sent events: the same frames however they are cut, and none over the limit.
pub fn sse(data: &[u8]) {
    const LIMIT: usize = 200;
    let (step, data) = choice(data);
    let read = |step: usize| -> Vec<Frame> {
        let mut parser = SseParser::new(LIMIT);
        let mut frames = Vec::new();
        for piece in data.chunks(step.max(1)) {
            parser.push(piece);
            frames.extend(std::iter::from_fn(|| parser.next()));
        }
        frames
    };
    let whole = read(data.len());
    assert_eq!(read(step), whole);
    for frame in whole {
        if let Frame::Event { name, data } = frame {
            // A byte that is no UTF-8 becomes a character of three.
            assert!(!data.is_empty() && data.len() <= 3 * LIMIT);
            assert!(name.is_none_or(|name| name.len() <= 3 * LIMIT));
        }
    }
}

/// All that the work queue and a session's endpoints answer.
pub fn work_proto(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mended = mend_surrogates(&text);
    assert_eq!(mend_surrogates(&mended), mended);
    if let Ok(item) = serde_json::from_str::<WorkItem>(&text) {
        let key = Secret::new("key".to_owned());
        let credential = item_credential(item.secret.as_ref(), Some(&key)).unwrap();
        assert!(!credential.bearer.is_empty());
        let again = serde_json::to_string(&item).unwrap();
        assert_eq!(serde_json::from_str::<WorkItem>(&again).unwrap(), item);
        if let Some(session) = item.session() {
            assert!(!session.as_str().contains(['/', '?', '#']) && session.as_str() != "..");
        }
    }
    if let Ok(beat) = serde_json::from_str::<HeartbeatResponse>(&text) {
        let again = serde_json::to_string(&beat).unwrap();
        assert_eq!(serde_json::from_str::<HeartbeatResponse>(&again).unwrap(), beat);
    }
    let _ = serde_json::from_str::<ErrorBody>(&text);
    if let Ok(session) = serde_json::from_str::<Session>(&text) {
        assert!(session.memory_stores() <= session.resources.len());
    }
    // A line each: a session's history, and then the same as a live stream.
    let events = || text.lines().filter_map(|line| Event::parse(line).ok());
    let mut history = History::default();
    events().for_each(|e| history.add(e));
    let mut router = Router::new(TOOLS.iter().map(|t| t.name));
    let mut routed = router.reconcile(history);
    routed.extend(events().filter_map(|e| router.live(e)));
    let mut run = BTreeSet::new();
    for routed in routed {
        if let Routed::Run(call) = routed {
            assert!(run.insert(call.id.clone()), "a call is to run twice");
            assert!(call.permission != Permission::Deny && TOOLS.iter().any(|t| t.name == call.name));
            let content = serde_json::Value::String(call.input.0.clone());
            let event = result_event(&call.id, call.kind, false, content);
            assert!(
                event["content"]
                    .as_array()
                    .is_some_and(|blocks| !blocks.is_empty())
            );
            router.finished(&call.id, true);
        }
    }
    assert_eq!(router.outstanding().in_hand, 0);
    // All of it again, as after a reconnect: what has its answer does not run once more.
    let mut history = History::default();
    events().for_each(|e| history.add(e));
    for routed in router.reconcile(history) {
        if let Routed::Run(call) = routed {
            assert!(run.insert(call.id.clone()), "a call is to run again");
        }
    }
}

/// Inputs of the six tools. What a model got wrong is told in a sentence, not in pages.
pub fn tool_schema(data: &[u8]) {
    let (tool, input) = choice(data);
    let name = TOOLS.get(tool).map_or("no_such_tool", |t| t.name);
    match omnirun_tool_schema::check(name, input) {
        Ok(input) => {
            assert_eq!(input.tool(), name);
            // What the system takes as a string ends at a NUL.
            let (given, needed) = match &input {
                ToolInput::Bash(i) => (i.command.as_deref(), i.restart.then_some("restart")),
                ToolInput::Read(i) => (Some(&*i.file_path), None),
                ToolInput::Write(i) => (Some(&*i.file_path), None),
                ToolInput::Edit(i) => (Some(&*i.file_path), Some(&*i.old_string)),
                ToolInput::Glob(i) => (i.path.as_deref(), Some(&*i.pattern)),
                ToolInput::Grep(i) => (i.path.as_deref(), Some(&*i.pattern)),
            };
            assert!(!given.is_some_and(|text| text.contains('\0')));
            assert!(given.or(needed).is_some() && needed != Some(""));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                (1..=4096).contains(&text.len()) && !text.contains(char::is_control),
                "{text}"
            );
        }
    }
}

/// Recipes, manifests and `template.conf`: what a recipe says arrives in the guest.
pub fn images(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let name: omnirun_ids::TemplateName = "default".parse().unwrap();
    if let Ok(recipe) = Recipe::parse(name.clone(), &text, Path::new("recipe.toml")) {
        assert!(recipe.template.workdir.starts_with('/'));
        assert!(
            recipe
                .packages
                .iter()
                .all(|p| !p.starts_with('-') && !p.contains(char::is_whitespace))
        );
        let template = recipe.template;
        let (user, workdir, capabilities, env) =
            omnirun_guest_agent::fuzz_template(&omnirun_images::fuzz_template_conf(&template));
        assert_eq!((user, workdir), (template.user, template.workdir));
        assert_eq!(capabilities, template.keep_capabilities);
        assert_eq!(env.into_iter().collect::<BTreeMap<_, _>>(), template.env);
    }
    if let Ok(manifest) = Manifest::parse(&name, data, Path::new("manifest.json")) {
        for (_, blob) in manifest.blobs() {
            assert!(blob.digest.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }
    let (user, workdir, ..) = omnirun_guest_agent::fuzz_template(&text);
    assert!(workdir.starts_with('/') && !user.is_empty());
}

/// A kernel: what comes out is an ELF file, the same each time, however small the input and large its claims.
pub fn bzimage(data: &[u8]) {
    const LARGEST: usize = 256 << 20;
    if let Ok(kernel) = omnirun_images::fuzz_bzimage(data) {
        assert!(kernel.starts_with(b"\x7fELF") && kernel.len() <= LARGEST);
        assert_eq!(omnirun_images::fuzz_bzimage(data), Ok(kernel));
    }
}
