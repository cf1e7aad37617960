//! What sessions look like in words.

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use omnirun_ids::ByteSize;
use omnirun_store::{
    now_ms,
    sessions::{CallRow, CallState, SessionRow, SessionState, Sessions, allocated},
};
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};

/// `session ls`.
pub fn list(sessions: &Sessions, json: bool) -> anyhow::Result<ExitCode> {
    let rows = sessions.list()?;
    if json {
        let all = rows
            .iter()
            .map(|row| facts(sessions, row))
            .collect::<anyhow::Result<Vec<_>>>()?;
        out!("{}", Value::from(all));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        say!("no sessions are kept on this host");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&[
        "SESSION",
        "ENVIRONMENT",
        "TEMPLATE",
        "SIZE",
        "CALLS",
        "LAST USE",
        "STATE",
    ]);
    for row in &rows {
        table.add_row([
            row.key.session.to_string(),
            row.key.environment.to_string(),
            row.template.to_string(),
            ByteSize(allocated(&sessions.folder(&row.hash)) + sessions.memory_bytes(&row.hash)).to_string(),
            sessions.call_count(&row.hash)?.to_string(),
            ago(row.used_ms),
            state(sessions, row)?,
        ]);
    }
    out!("{}", table.trim_fmt());
    Ok(ExitCode::SUCCESS)
}

/// `session show`.
pub fn one(sessions: &Sessions, row: &SessionRow, json: bool) -> anyhow::Result<ExitCode> {
    let calls = sessions.calls(&row.hash)?;
    if json {
        let mut facts = facts(sessions, row)?;
        facts["calls"] = calls.iter().map(call_facts).collect();
        out!("{facts:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let folder = sessions.folder(&row.hash);
    let lines = [
        ("session", row.key.session.to_string()),
        ("key", row.hash.to_string()),
        ("environment", row.key.environment.to_string()),
        ("origin", row.key.origin.clone()),
        ("state", state(sessions, row)?),
        (
            "template",
            format!("{} (base {})", row.template, row.base.short()),
        ),
        ("user", row.user.clone()),
        (
            "disk",
            format!(
                "{} of {} used, {}",
                ByteSize(allocated(&folder)),
                ByteSize(row.disk_bytes),
                folder.display()
            ),
        ),
        (
            "memory",
            match row.memory {
                Some(_) => format!(
                    "{} kept for the next work item",
                    ByteSize(sessions.memory_bytes(&row.hash))
                ),
                None => "not kept".to_owned(),
            },
        ),
        ("created", time(row.created_ms)),
        (
            "last use",
            format!("{} ({})", time(row.used_ms), ago(row.used_ms)),
        ),
        ("kept until", time(row.expires_ms())),
    ];
    for (name, value) in lines {
        out!("{name:<12} {value}");
    }
    if calls.is_empty() {
        out!("\nno calls yet");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["CALL", "TOOL", "STATE", "EXIT", "SANDBOX", "STARTED", "TOOK"]);
    for call in &calls {
        table.add_row([
            call.id.to_string(),
            crate::output::printable(&call.tool),
            word(call).to_owned(),
            call.result
                .as_ref()
                .and_then(|r| r.exit_code)
                .map_or_else(String::new, |code| code.to_string()),
            call.sandbox.clone().unwrap_or_default(),
            time(call.started_ms),
            call.finished_ms
                .map_or_else(String::new, |end| format!("{} ms", end - call.started_ms)),
        ]);
    }
    out!("\n{}", table.trim_fmt());
    Ok(ExitCode::SUCCESS)
}

fn facts(sessions: &Sessions, row: &SessionRow) -> anyhow::Result<Value> {
    let holder = sessions.holder(&row.hash)?;
    Ok(json!({
        "session": row.key.session, "key": row.hash.as_str(), "environment": row.key.environment,
        "origin": row.key.origin, "template": row.template, "base": row.base, "user": row.user,
        "state": row.state.as_str(), "held_by": holder, "disk_bytes": row.disk_bytes,
        "allocated_bytes": allocated(&sessions.folder(&row.hash)), "call_count": sessions.call_count(&row.hash)?,
        "memory_bytes": row.memory.as_ref().map(|_| sessions.memory_bytes(&row.hash)),
        "seed": row.seed.as_str(), "created": time(row.created_ms), "last_use": time(row.used_ms),
        "kept_until": time(row.expires_ms()),
    }))
}

fn call_facts(call: &CallRow) -> Value {
    json!({
        "id": call.id, "tool": call.tool, "state": word(call), "sandbox": call.sandbox,
        "is_error": call.result.as_ref().map(|r| r.is_error),
        "exit_code": call.result.as_ref().and_then(|r| r.exit_code),
        "started": time(call.started_ms), "finished": call.finished_ms.map(time),
        "milliseconds": call.finished_ms.map(|end| end - call.started_ms),
    })
}

fn word(call: &CallRow) -> &'static str {
    match call.state {
        CallState::Started => "started",
        CallState::Finished => "finished",
        CallState::Posted => "posted",
    }
}

fn state(sessions: &Sessions, row: &SessionRow) -> anyhow::Result<String> {
    Ok(match (row.state, sessions.holder(&row.hash)?) {
        (_, Some(holder)) => format!("in use (pid {})", holder.pid),
        (SessionState::Ready, None) if row.memory.is_some() => "idle, memory kept".to_owned(),
        (SessionState::Ready, None) => "idle".to_owned(),
        // The next sweep removes both.
        (SessionState::New, None) => "half-made".to_owned(),
        (SessionState::Removing, None) => "half-removed".to_owned(),
    })
}

pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

fn time(ms: i64) -> String {
    // A time that no calendar has is one that never comes.
    Timestamp::from_millisecond(ms).map_or_else(
        |_| "never".to_owned(),
        |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

fn ago(ms: i64) -> String {
    let seconds = u64::try_from((now_ms() - ms) / 1000).unwrap_or(0);
    let rounded = match seconds {
        0..60 => seconds,
        60..3600 => seconds / 60 * 60,
        3600..86_400 => seconds / 3600 * 3600,
        _ => seconds / 86_400 * 86_400,
    };
    format!("{} ago", humantime::format_duration(Duration::from_secs(rounded)))
}
