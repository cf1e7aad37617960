//! The call journal: what happened to each tool call, by its tool use id.
//!
//! ```text
//!   (nothing) --start--> started --finish--> finished --posted--> posted
//!        |                  |                    |                  |
//!        Run           Interrupted        Stored result        Answered      what a call is told that finds it so
//! ```
//!
//! `start` is durable before the tool runs, `finish` before the result is returned. So a call that finds `started`
//! knows that an earlier run was cut off, and how far it came nobody can say: it is never run again.

use super::{
    Lease, SessionHash, Sessions,
    record::{BadText, parse},
};
use crate::{StoreError, now_ms};
use omnirun_ids::{ApiId, Digest};
use omnirun_redact::Guest;
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest as _, Sha256};

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    /// Its tool runs, or ran when the process died.
    Started,
    /// Its result is here.
    Finished,
    /// Its result has reached the API.
    Posted,
}

/// A result, as it is to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// Whether the model is to see an error.
    pub is_error: bool,
    /// The content blocks, as JSON.
    pub content: Guest<String>,
    /// Exit code, for `bash`.
    pub exit_code: Option<i32>,
}

/// What is known of a call that starts.
#[derive(Debug, Clone)]
pub struct CallStart<'a> {
    /// Tool use id.
    pub id: &'a ApiId,
    /// The tool's name.
    pub tool: &'a str,
    /// Digest of name and input: the same id with another input is another call.
    pub input_digest: &'a Digest,
    /// Bytes of the input.
    pub input_bytes: u64,
    /// The sandbox that runs it.
    pub sandbox: &'a str,
}

/// A call in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRow {
    /// Tool use id.
    pub id: ApiId,
    /// How far it has come.
    pub state: CallState,
    /// The tool's name.
    pub tool: String,
    /// Digest of name and input.
    pub input_digest: Digest,
    /// The sandbox that ran it.
    pub sandbox: Option<String>,
    /// When it started, ms since the epoch.
    pub started_ms: i64,
    /// When its result was there.
    pub finished_ms: Option<i64>,
    /// The result; its content is empty once it has been posted.
    pub result: Option<StoredResult>,
}

/// What is to be done with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Run it.
    Run,
    /// Do not run it: this is its result.
    Stored(StoredResult),
    /// It may have run partly. Never run it again.
    Interrupted,
    /// Its result has been posted and forgotten.
    Answered,
    /// The id has been used for another call.
    Differs,
}

/// The digest that a call's input has in the journal.
pub fn input_digest(tool: &str, input: &str) -> Digest {
    let mut hash = Sha256::new();
    hash.update((tool.len() as u64).to_le_bytes());
    hash.update(tool);
    hash.update(input);
    Digest::from(<[u8; 32]>::from(hash.finalize()))
}

/// Decides about a call from what the journal has of it.
pub fn admit(found: Option<&CallRow>, input_digest: &Digest) -> Admission {
    let Some(row) = found else { return Admission::Run };
    // A posted id is done with, whatever comes under it.
    if row.state == CallState::Posted {
        return Admission::Answered;
    }
    if row.input_digest != *input_digest {
        return Admission::Differs;
    }
    match &row.result {
        Some(result) => Admission::Stored(result.clone()),
        None => Admission::Interrupted,
    }
}

const COLUMNS: &str =
    "call, state, tool, input_digest, sandbox, started_ms, finished_ms, is_error, exit_code, content";

impl Sessions {
    /// A call, if the journal has it.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn call(&self, hash: &SessionHash, id: &ApiId) -> Result<Option<CallRow>, StoreError> {
        self.db.with("read the call journal", |c| call(c, hash, id))
    }

    /// The calls of a session, in the order of their start.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn calls(&self, hash: &SessionHash) -> Result<Vec<CallRow>, StoreError> {
        self.db.with("list the call journal", |c| {
            let sql = format!("SELECT {COLUMNS} FROM calls WHERE hash = ?1 ORDER BY started_ms, rowid");
            c.prepare(&sql)?.query_map([hash.as_str()], row)?.collect()
        })
    }

    /// How many calls a session has had.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn call_count(&self, hash: &SessionHash) -> Result<u64, StoreError> {
        self.db.with("count the call journal", |c| {
            c.query_row(
                "SELECT count(*) FROM calls WHERE hash = ?1",
                [hash.as_str()],
                |r| r.get::<_, i64>(0),
            )
            .map(i64::unsigned_abs)
        })
    }

    /// Records that a tool is about to run, and the session's use. Anything but [`Admission::Run`] has changed nothing.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn start_call(&self, lease: &Lease, start: &CallStart<'_>) -> Result<Admission, StoreError> {
        self.insert(lease, start, None)
    }

    /// Records the result of a call whose tool never ran: a refused input, say.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn refuse_call(
        &self,
        lease: &Lease,
        start: &CallStart<'_>,
        result: &StoredResult,
    ) -> Result<Admission, StoreError> {
        self.insert(lease, start, Some(result))
    }

    fn insert(
        &self,
        lease: &Lease,
        start: &CallStart<'_>,
        result: Option<&StoredResult>,
    ) -> Result<Admission, StoreError> {
        let hash = lease.hash();
        self.db.write("record a call's start", |tx| {
            let found = call(tx, hash, start.id)?;
            let admission = admit(found.as_ref(), start.input_digest);
            if admission != Admission::Run {
                return Ok(admission);
            }
            let now = now_ms();
            tx.prepare_cached(
                "INSERT INTO calls (hash, call, state, tool, input_digest, input_bytes, sandbox, started_ms, \
                 finished_ms, is_error, exit_code, output_bytes, content) \
                 VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)",
            )?
            .execute(params![
                hash.as_str(),
                start.id.as_str(),
                if result.is_some() { "finished" } else { "started" },
                start.tool,
                start.input_digest.as_str(),
                start.input_bytes as i64,
                (!start.sandbox.is_empty()).then_some(start.sandbox),
                now,
                result.map(|_| now),
                result.map(|r| r.is_error),
                result.and_then(|r| r.exit_code),
                result.map(|r| r.content.0.len() as i64),
                result.map(|r| r.content.0.as_str()),
            ])?;
            tx.prepare_cached("UPDATE sessions SET used_ms = ?2 WHERE hash = ?1")?
                .execute(params![hash.as_str(), now])?;
            Ok(Admission::Run)
        })
    }

    /// Records the result of a started call. A result that is there already stays: it may have been posted.
    ///
    /// # Errors
    /// [`StoreError::Db`], also if the call was never started.
    pub fn finish_call(&self, lease: &Lease, id: &ApiId, result: &StoredResult) -> Result<(), StoreError> {
        self.db.with("record a call's result", |c| {
            let changed = c
                .prepare_cached(
                    "UPDATE calls SET state = 'finished', finished_ms = ?3, is_error = ?4, exit_code = ?5, \
                     output_bytes = ?6, content = ?7 WHERE hash = ?1 AND call = ?2 AND state = 'started'",
                )?
                .execute(params![
                    lease.hash().as_str(),
                    id.as_str(),
                    now_ms(),
                    result.is_error,
                    result.exit_code,
                    result.content.0.len() as i64,
                    result.content.0,
                ])?;
            if changed == 1 {
                Ok(())
            } else {
                Err(rusqlite::Error::StatementChangedRows(changed))
            }
        })
    }

    /// The result of a call has reached the API: its content goes. Nothing happens if the journal does not have it.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn call_posted(&self, lease: &Lease, id: &ApiId) -> Result<(), StoreError> {
        self.db.with("record that a result was posted", |c| {
            c.prepare_cached(
                "UPDATE calls SET state = 'posted', posted_ms = ?3, content = NULL \
                 WHERE hash = ?1 AND call = ?2 AND state = 'finished'",
            )?
            .execute(params![lease.hash().as_str(), id.as_str(), now_ms()])
            .map(drop)
        })
    }
}

fn call(c: &Connection, hash: &SessionHash, id: &ApiId) -> rusqlite::Result<Option<CallRow>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM calls WHERE hash = ?1 AND call = ?2"
    ))?
    .query_row([hash.as_str(), id.as_str()], row)
    .optional()
}

fn row(r: &Row<'_>) -> rusqlite::Result<CallRow> {
    let text = |i| r.get::<_, String>(i);
    let state = match text(1)?.as_str() {
        "started" => CallState::Started,
        "finished" => CallState::Finished,
        "posted" => CallState::Posted,
        _ => return parse(1, Err(BadText)),
    };
    let result = match state {
        CallState::Started => None,
        CallState::Finished | CallState::Posted => Some(StoredResult {
            is_error: r.get(7)?,
            exit_code: r.get(8)?,
            content: Guest(r.get::<_, Option<String>>(9)?.unwrap_or_default()),
        }),
    };
    Ok(CallRow {
        id: parse(0, text(0)?.parse())?,
        state,
        tool: text(2)?,
        input_digest: parse(3, text(3)?.parse())?,
        sandbox: r.get(4)?,
        started_ms: r.get(5)?,
        finished_ms: r.get(6)?,
        result,
    })
}
