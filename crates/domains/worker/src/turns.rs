//! The turns of a session: its calls one after the other, each run and its result posted, with an eye on the desk.

use crate::{
    desk::{Attention, Desk, Doing, Queued, until},
    item::{End, Item},
    observe::{CallFate, WorkerEvent},
    post::{self, Posted},
};
use omnirun_ids::ApiId;
use omnirun_redact::Guest;
use omnirun_sessions::{CallOutcome, Hands, HandsError, ToolCall};
use omnirun_work_client::SentEvent;
use omnirun_work_proto::{ToolUse, result_event};
use std::pin::pin;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

impl Item<'_> {
    /// One call after the other, until the item has to end.
    pub(crate) async fn turns(&self, desk: &mut Desk, session: &ApiId, hands: &mut dyn Hands) -> End {
        loop {
            if let Some(end) = desk.over() {
                return end;
            }
            if let Some(winding) = desk.winding() {
                let go_on = winding.rules.serve_on && !desk.at_rest() && Instant::now() < winding.tool_until;
                if !go_on {
                    return winding.end;
                }
            }
            if let Some(queued) = desk.next() {
                if let Some(end) = self.call(desk, session, hands, queued).await {
                    return end;
                }
                continue;
            }
            match desk.attend(Doing::Nothing).await {
                Attention::Nothing | Attention::ToolTime => {}
                Attention::End(end) => return end,
                Attention::Idle => return End::Idle,
            }
        }
    }

    /// Runs a call and posts its result. Says why the item has to end at once, if it has to.
    async fn call(
        &self,
        desk: &mut Desk,
        session: &ApiId,
        hands: &mut dyn Hands,
        queued: Queued,
    ) -> Option<End> {
        let Queued { call, received } = queued;
        let observer = &self.config.observer;
        observer.event(&WorkerEvent::CallStarted {
            session,
            call: &call.id,
            tool: &call.name,
        });
        let asked = ToolCall {
            id: call.id.clone(),
            name: call.name.clone(),
            input: call.input.clone(),
        };
        let begun = Instant::now();
        let ran = self.run(desk, hands, &asked).await;
        let took = begun.elapsed();
        let until_post = received.elapsed();
        let (outcome, fate, end) = match ran {
            Err(end) => (None, CallFate::Ended, end),
            Ok(outcome) => match desk.over() {
                Some(end) => (Some(outcome), CallFate::Ended, Some(end)),
                None => {
                    let (fate, end) = match desk.router.still_due(&call) {
                        Ok(()) => {
                            let event =
                                result_event(&call.id, call.kind, outcome.is_error, outcome.content_json());
                            self.post(desk, session, &call, &SentEvent::new(&event)).await
                        }
                        Err(_) => (CallFate::NotDue, None),
                    };
                    (Some(outcome), fate, end)
                }
            },
        };
        let answered = matches!(fate, CallFate::Posted | CallFate::NotDue);
        if answered && let Err(error) = hands.posted(&call.id).await {
            tracing::warn!(session = %session, call = %call.id, error = &error as &dyn std::error::Error, "cannot record that a result was posted");
        }
        desk.finished(&call.id, answered);
        let nothing = CallOutcome {
            is_error: true,
            content: Guest(String::new()),
            sandbox: None,
            exit_code: None,
            timings: Vec::new(),
        };
        let outcome = outcome.unwrap_or(nothing);
        tracing::info!(
            session = %session, call = %call.id, tool = call.name, sandbox = outcome.sandbox,
            ms = took.as_millis() as u64, exit = outcome.exit_code, error = outcome.is_error, ?fate, "call"
        );
        observer.event(&WorkerEvent::CallFinished {
            session,
            call: &call.id,
            tool: &call.name,
            sandbox: outcome.sandbox.as_deref(),
            exit_code: outcome.exit_code,
            is_error: outcome.is_error,
            took,
            until_post,
            timings: &outcome.timings,
            fate,
        });
        end
    }

    /// Runs the tool while attending to the desk. No outcome: the item ends (with the reason), or there is nothing to
    /// post (without one).
    async fn run(
        &self,
        desk: &mut Desk,
        hands: &mut dyn Hands,
        asked: &ToolCall,
    ) -> Result<CallOutcome, Option<End>> {
        let cancel = CancellationToken::new();
        let mut running = pin!(hands.call(asked, cancel.clone()));
        let mut give_up = None::<Instant>;
        let answer = loop {
            let doing = if give_up.is_some() {
                Doing::Finishing
            } else {
                Doing::Tool
            };
            // An outcome that is there counts, before anything that came at the same time: it is durable already.
            let attention = tokio::select! {
                biased;
                answer = &mut running => break answer,
                () = until(give_up) => {
                    tracing::error!(call = %asked.id, "a cancelled call does not end; its sandbox is killed");
                    return Err(desk.winding().map(|w| w.end));
                }
                attention = desk.attend(doing) => attention,
            };
            match attention {
                // Dropping the future and closing the hands is what kills at once.
                Attention::End(end) => return Err(Some(end)),
                Attention::ToolTime => {
                    tracing::info!(call = %asked.id, "cancelling the running call");
                    cancel.cancel();
                    give_up = Some(Instant::now() + self.config.timing.cancel);
                }
                Attention::Nothing | Attention::Idle => {}
            }
        };
        match answer {
            Ok(outcome) => Ok(outcome),
            Err(HandsError::Cancelled) => Err(None),
            Err(HandsError::Answered { .. }) => {
                tracing::info!(call = %asked.id, "the journal says that this call has been answered");
                desk.finished(&asked.id, true);
                Err(None)
            }
            Err(error) => {
                tracing::error!(call = %asked.id, error = &error as &dyn std::error::Error, "a call could not be run");
                Ok(failure(&error))
            }
        }
    }

    /// Posts a result while attending to the desk.
    async fn post(
        &self,
        desk: &mut Desk,
        session: &ApiId,
        call: &ToolUse,
        event: &SentEvent,
    ) -> (CallFate, Option<End>) {
        let lease = desk.lease.clone();
        let mut posting = pin!(post::post(
            self.config,
            session,
            &self.bearer,
            &call.id,
            event,
            &lease
        ));
        let mut bound = None::<Instant>;
        loop {
            if bound.is_none() {
                bound = desk.winding().map(|w| Instant::now() + w.rules.post);
            }
            // Dropping the post leaves its fate unknown, which the next history settles.
            let attention = tokio::select! {
                biased;
                posted = &mut posting => {
                    let fate = match posted {
                        Posted::Yes => CallFate::Posted,
                        Posted::Refused => CallFate::Refused,
                        Posted::GaveUp => CallFate::Unposted,
                    };
                    return (fate, None);
                }
                () = until(bound) => return (CallFate::Unposted, None),
                attention = desk.attend(Doing::Finishing) => attention,
            };
            if let Attention::End(end) = attention {
                return (CallFate::Ended, Some(end));
            }
            // Our own result came back on the stream, though its post has not been answered.
            if desk.router.still_due(call).is_err() {
                return (CallFate::Posted, None);
            }
        }
    }
}

/// What the model is told when OmniRun itself has failed. The cause is for the host's log alone.
fn failure(error: &HandsError) -> CallOutcome {
    let text = match error {
        HandsError::Unrecorded(_) => format!(
            "The sandbox host has failed after this call ran ({error}). The call may have partly run: check what it did \
             before you repeat it."
        ),
        _ => format!(
            "The sandbox host could not run this call ({error}). Nothing is known to have run. It may work if you try \
             again; if it does not, this host needs its operator."
        ),
    };
    CallOutcome {
        is_error: true,
        content: Guest(serde_json::json!([{ "type": "text", "text": text }]).to_string()),
        sandbox: None,
        exit_code: None,
        timings: Vec::new(),
    }
}
