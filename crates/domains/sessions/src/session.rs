//! The hands of one session: its journal around its sandboxes.

use crate::{
    Answer, BoxError, CallOutcome, Hands, HandsError, Isolation, Release, ToolCall,
    factory::{Shared, failed},
    outcome,
    prepare::{PrepareError, Preparer, Ready, lap},
    run::{self, NoAnswer},
};
use async_trait::async_trait;
use omnirun_ids::{ApiId, Digest};
use omnirun_sandboxes::Egress;
use omnirun_store::sessions::{
    Admission, CallStart, Durability, Lease, SessionRow, StoredResult, admit, input_digest,
};
use omnirun_tool_schema::ToolInput;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

type Timings = Vec<(&'static str, Duration)>;

/// One session, open.
pub(crate) struct Session {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    preparer: Arc<Preparer>,
    isolation: Isolation,
    /// A sandbox that is the session's; in mode `call` from its claim to the end of its one call.
    sandbox: Option<Ready>,
    /// Whether a VM holds the shell's state in memory, or did: as recorded.
    live_shell: bool,
    /// What the model must be told with the next result.
    note: Option<String>,
    /// A call is running. Still set at the next call if that call's future was dropped.
    running: bool,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        lease: Lease,
        row: SessionRow,
        isolation: Isolation,
        egress: Option<Egress>,
        pool: crate::DynPool,
    ) -> Self {
        let lease = Arc::new(lease);
        let live_shell = row.live_shell;
        let preparer = Arc::new(Preparer {
            shared: shared.clone(),
            lease: lease.clone(),
            pool,
            row: Mutex::new(row),
            egress,
            seed: true,
            ending: Mutex::new(None),
        });
        Self {
            shared,
            lease,
            preparer,
            isolation,
            sandbox: None,
            note: None,
            live_shell,
            running: false,
        }
    }

    /// Makes `self.sandbox` one that is the session's and lives.
    async fn sandbox(&mut self, timings: &mut Timings) -> Result<(), PrepareError> {
        if self.running {
            // Nobody knows what the dropped call is doing in there.
            self.running = false;
            self.drop_sandbox().await;
        }
        if self.sandbox.as_ref().is_some_and(|r| !r.sandbox.is_alive()) {
            self.drop_sandbox().await;
        }
        if self.sandbox.is_some() {
            return Ok(());
        }
        let resumed = match self.isolation {
            Isolation::Session => self.preparer.resumed().await?,
            Isolation::Call => None,
        };
        let goes_on = resumed.is_some();
        let ready = match resumed {
            Some(ready) => ready,
            None => self.preparer.ready().await?,
        };
        timings.extend(ready.timings.iter().copied());
        self.sandbox = Some(ready);
        if self.live_shell && !goes_on {
            self.note = Some(outcome::RESTARTED.to_owned());
        }
        let lives = self.isolation == Isolation::Session;
        if lives != self.live_shell {
            self.shared.store.set_live_shell(&self.lease, lives)?;
            self.live_shell = lives;
        }
        Ok(())
    }

    async fn drop_sandbox(&mut self) {
        if let Some(ready) = self.sandbox.take() {
            self.preparer.end(ready.sandbox).await;
        }
    }

    /// Runs a checked call that the journal does not know.
    async fn run(
        &mut self,
        call: &ToolCall,
        digest: &Digest,
        input: &ToolInput,
        cancel: CancellationToken,
        timings: &mut Timings,
    ) -> Result<(StoredResult, Option<String>), HandsError> {
        let prepared = tokio::select! {
            biased;
            // Nothing has run: a clone that is being made is dropped, and with it its VM.
            () = cancel.cancelled() => return Err(HandsError::Cancelled),
            prepared = self.sandbox(timings) => prepared,
        };
        match prepared {
            Ok(()) => {}
            Err(PrepareError::Disk(source)) => {
                tracing::warn!(
                    error = &*source as &dyn std::error::Error,
                    "the session disk cannot be mounted"
                );
                return Ok((
                    self.refuse(call, digest, outcome::error(outcome::DISK_UNUSABLE))?,
                    None,
                ));
            }
            Err(error) => return Err(failed("make a sandbox ready for the session", error)),
        }
        let Some(ready) = &self.sandbox else {
            return Err(failed("make a sandbox ready for the session", "it is gone"));
        };
        let id = ready.sandbox.id().to_owned();

        let start = Instant::now();
        let admission = self
            .shared
            .store
            .start_call(&self.lease, &start_of(call, digest, &id))
            .map_err(|e| failed("record the call's start", e))?;
        if admission != Admission::Run {
            // Only this process writes this session's journal, and it has looked already.
            return Err(failed(
                "record the call's start",
                "the journal changed under the lease",
            ));
        }
        lap(timings, "start", start);

        let limit = run::limit(input, self.shared.config.call_limit);
        self.running = true;
        let answered = run::run(&*ready.sandbox, call, input, limit, self.isolation, cancel).await;
        let result = match answered {
            Ok(Answer { result, guest }) => {
                // From the request written to its reply read.
                timings.push(("guest", guest));
                let synced = result.synced || (self.isolation == Isolation::Session && !run::writes(input));
                outcome::of_tool(
                    result,
                    self.isolation,
                    synced,
                    self.note.take().into_iter().collect(),
                )
            }
            Err(no_answer) => {
                tracing::warn!(sandbox = id, reason = reason(&no_answer), "a call has no answer");
                self.drop_sandbox().await;
                outcome::error(no_answer.sentence())
            }
        };

        let start = Instant::now();
        let recorded = self.record(call, &result).await;
        lap(timings, "record", start);
        if self.isolation == Isolation::Call {
            // Also if the result could not be recorded: no second call runs in it.
            self.drop_sandbox().await;
        }
        recorded?;
        self.running = false;
        Ok((result, Some(id)))
    }

    /// Makes the result durable, and before it the files that it speaks of.
    async fn record(&self, call: &ToolCall, result: &StoredResult) -> Result<(), HandsError> {
        if self.shared.config.durability == Durability::Power {
            let (shared, lease) = (self.shared.clone(), self.lease.clone());
            let synced = tokio::task::spawn_blocking(move || shared.store.sync_disk(&lease)).await;
            let synced = synced.map_err(|e| HandsError::Unrecorded(e.into()))?;
            synced.map_err(|e| HandsError::Unrecorded(e.into()))?;
        }
        let recorded = self.shared.store.finish_call(&self.lease, &call.id, result);
        recorded.map_err(|e| HandsError::Unrecorded(e.into()))
    }

    /// Records the answer to a call whose tool never runs.
    fn refuse(
        &self,
        call: &ToolCall,
        digest: &Digest,
        result: StoredResult,
    ) -> Result<StoredResult, HandsError> {
        self.shared
            .store
            .refuse_call(&self.lease, &start_of(call, digest, ""), &result)
            .map_err(|e| failed("record the call's result", e))?;
        Ok(result)
    }

    /// Ends the VM and waits. Says what was removed.
    async fn end_all(&mut self) -> Vec<String> {
        self.drop_sandbox().await;
        match self.preparer.ending.lock().await.take() {
            Some(task) => task.await.unwrap_or_default(),
            None => Vec::new(),
        }
    }
}

/// How long a disk may take to confirm what was written since the last call.
const SYNC: Duration = Duration::from_secs(30);

#[async_trait]
impl Hands for Session {
    async fn call(&mut self, call: &ToolCall, cancel: CancellationToken) -> Result<CallOutcome, HandsError> {
        let arrived = Instant::now();
        let mut timings = Timings::with_capacity(8);
        let digest = input_digest(&call.name, &call.input.0);
        let found = self
            .shared
            .store
            .call(self.lease.hash(), &call.id)
            .map_err(|e| failed("read the call journal", e))?;
        let (result, sandbox) = match admit(found.as_ref(), &digest) {
            Admission::Stored(result) => (result, None),
            Admission::Answered => {
                return Err(HandsError::Answered {
                    call: call.id.to_string(),
                });
            }
            Admission::Differs => (outcome::error(outcome::DIFFERS), None),
            Admission::Interrupted => {
                let result = outcome::error(outcome::INTERRUPTED);
                self.shared
                    .store
                    .finish_call(&self.lease, &call.id, &result)
                    .map_err(|e| HandsError::Unrecorded(e.into()))?;
                (result, None)
            }
            Admission::Run => match omnirun_tool_schema::check(&call.name, call.input.0.as_bytes()) {
                Err(refused) => (
                    self.refuse(call, &digest, outcome::error(refused.to_string()))?,
                    None,
                ),
                Ok(input) => self.run(call, &digest, &input, cancel, &mut timings).await?,
            },
        };
        lap(&mut timings, "total", arrived);
        Ok(outcome::outcome(result, sandbox, timings))
    }

    async fn posted(&mut self, call: &ApiId) -> Result<(), HandsError> {
        self.shared
            .store
            .call_posted(&self.lease, call)
            .map_err(|e| failed("record that a result was posted", e))?;
        self.preparer.pool.refill();
        Ok(())
    }

    async fn close(mut self: Box<Self>, release: Release) -> Result<Vec<String>, HandsError> {
        if release == Release::Keep
            && let Some(ready) = self.sandbox.as_ref().filter(|_| !self.running)
        {
            // What background processes have written since the last call. A VM that does not answer is ended anyway.
            let synced = tokio::time::timeout(SYNC, ready.sandbox.sync()).await;
            if self.isolation == Isolation::Session
                && self.shared.config.keep_memory.0 > 0
                && matches!(synced, Ok(Ok(())))
                && let Some(ready) = self.sandbox.take()
            {
                self.preparer.suspend(ready.sandbox).await;
            }
        }
        let mut said = self.end_all().await;
        let Self {
            shared,
            lease,
            preparer,
            ..
        } = *self;
        drop(preparer);
        match release {
            // Another worker may be serving it already: nothing is written.
            Release::Lost => {}
            Release::Keep => {
                shared
                    .store
                    .touch(&lease, shared.config.keep)
                    .map_err(|e| failed("record the session's use", e))?;
            }
            Release::Remove => {
                let removed = tokio::task::spawn_blocking(move || match Arc::into_inner(lease) {
                    Some(lease) => Ok(shared.store.remove(lease)?),
                    // A result that was being written when its call was dropped.
                    None => Err(BoxError::from("its journal is still being written")),
                });
                let removed = removed.await.map_err(|e| failed("remove the session", e))?;
                said.extend(removed.map_err(|e| failed("remove the session", e))?);
            }
        }
        Ok(said)
    }
}

fn start_of<'a>(call: &'a ToolCall, digest: &'a Digest, sandbox: &'a str) -> CallStart<'a> {
    CallStart {
        id: &call.id,
        tool: &call.name,
        input_digest: digest,
        input_bytes: call.input.0.len() as u64,
        sandbox,
    }
}

/// For the log: what happened, without the guest's words.
fn reason(no_answer: &NoAnswer) -> &'static str {
    match no_answer {
        NoAnswer::Stuck(_) => "no answer in time",
        NoAnswer::CancelStuck => "no answer after the cancel",
        NoAnswer::Gone => "the VM ended",
        NoAnswer::Refused(_) => "the agent refused",
    }
}
