//! One tool call in a sandbox that is the session's, from the request to an answer or the reason why there is none.

use crate::{Answer, Isolation, SandboxFailure, SessionSandbox, ToolCall};
use omnirun_guest_proto::message::Tool;
use omnirun_tool_schema::ToolInput;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A tool's time limit when it names none.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// What the agent may take beyond the tool's limit: ending processes, saving the shell, syncing a full cache. After
/// that it is taken for dead.
const FINISH: Duration = Duration::from_secs(60);
/// What a cancelled call may take to come back with its partial output, saved and synced.
const CANCEL: Duration = Duration::from_secs(8);
/// A VM that exits just behind its last reply leaves that reply in the socket: so long it is still looked for.
const LAST_REPLY: Duration = Duration::from_millis(250);

/// Why there is no answer. The VM is of no more use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It never came.
    Stuck(Duration),
    /// It was cancelled, and nothing came then either.
    CancelStuck,
    /// The VM is gone.
    Gone,
    /// The agent said that it cannot.
    Refused(String),
}

impl NoAnswer {
    /// For the model.
    pub(crate) fn sentence(&self) -> String {
        let check = "The call may have partly run: check what it did before you repeat it.";
        match self {
            Self::Stuck(after) => format!(
                "The sandbox did not answer within {} s and was ended. {check}",
                after.as_secs()
            ),
            Self::CancelStuck => format!("The call was cancelled and its sandbox had to be ended. {check}"),
            Self::Gone => format!(
                "The sandbox ended while the call was running: its kernel crashed or ran out of memory. {check}"
            ),
            Self::Refused(message) => {
                let short: String = message.chars().take(500).collect();
                format!("The sandbox could not run the call: {short}. {check}")
            }
        }
    }
}

/// The time limit of a call.
pub(crate) fn limit(input: &ToolInput, most: Duration) -> Duration {
    let asked = match input {
        ToolInput::Bash(bash) => bash.timeout_ms.map(Duration::from_millis),
        _ => None,
    };
    asked.unwrap_or(DEFAULT_LIMIT).min(most)
}

/// Whether a tool can change files, so that they have to be on the disk before its call is answered.
pub(crate) fn writes(input: &ToolInput) -> bool {
    matches!(
        input,
        ToolInput::Bash(_) | ToolInput::Write(_) | ToolInput::Edit(_)
    )
}

/// Runs the tool, and has the files of one that [writes] on the disk. Dropping the future leaves the tool running: the VM
/// must be ended then.
pub(crate) async fn run(
    sandbox: &dyn SessionSandbox,
    call: &ToolCall,
    input: &ToolInput,
    limit: Duration,
    isolation: Isolation,
    cancel: CancellationToken,
) -> Result<Answer, NoAnswer> {
    let call_mode = isolation == Isolation::Call;
    let tool = Tool {
        name: call.name.clone(),
        input: call.input.0.clone().into_bytes(),
        saved_shell: call_mode,
        finish: call_mode,
        sync: writes(input),
        timeout_ms: limit.as_millis() as u64,
    };
    let answer = sandbox.tool(tool, cancel.clone());
    let exited = sandbox.exited();
    tokio::pin!(answer, exited);
    let bound = limit + FINISH;
    let deadline = tokio::time::sleep(bound);
    tokio::pin!(deadline);
    let mut cancelled = false;
    let mut gone = false;
    loop {
        // The answer first: one that is here counts, whatever else has happened since.
        tokio::select! {
            biased;
            answered = &mut answer => return match answered {
                Ok(answer) => Ok(answer),
                Err(SandboxFailure::Refused { message }) => Err(NoAnswer::Refused(message.0)),
                Err(SandboxFailure::Gone(_)) => Err(NoAnswer::Gone),
            },
            _ = &mut exited, if !gone => {
                gone = true;
                deadline.as_mut().reset(tokio::time::Instant::now() + LAST_REPLY);
            }
            () = cancel.cancelled(), if !cancelled && !gone => {
                cancelled = true;
                deadline.as_mut().reset(tokio::time::Instant::now() + CANCEL);
            }
            () = &mut deadline => return Err(match (gone, cancelled) {
                (true, _) => NoAnswer::Gone,
                (false, true) => NoAnswer::CancelStuck,
                (false, false) => NoAnswer::Stuck(bound),
            }),
        }
    }
}
