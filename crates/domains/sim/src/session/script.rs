//! Runs a session's steps: one task per session, woken by changes of the state, never by a timer that looks around.

use super::{
    CallPhase, Posted, Session,
    emit::{confirmation, emit},
};
use crate::{
    scenario::{CallSpec, ConfirmWhen, Do, Kind, Meanwhile, Owner, SessionSpec, Step},
    shared::Shared,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Why a script ends before its last step.
enum Stop {
    /// The session was terminated or deleted.
    Closed,
    /// A failure that leaves nothing to go on with.
    Failed(String),
}

/// Creates a session of the scenario and runs it. The caller has counted it as running.
pub(crate) async fn run(shared: Arc<Shared>, spec: SessionSpec, id: String) {
    let script = Script {
        shared: &shared,
        spec: &spec,
        id: &id,
    };
    let stop = tokio::select! {
        // Cancel-safe: a script is abandoned only with the whole simulator.
        stop = script.steps() => stop.err(),
        () = shared.shutdown.cancelled() => Some(Stop::Failed("the simulator ended before the script".into())),
    };
    shared.update(|state| {
        state.running -= 1;
        if let Some(session) = state.sessions.get_mut(&id) {
            session.script_done = true;
            if let Some(Stop::Failed(why)) = stop {
                session.failures.push(why);
                // Nothing will come any more: let the worker go.
                session.terminate(&shared);
            }
        }
    });
}

struct Script<'a> {
    shared: &'a Arc<Shared>,
    spec: &'a SessionSpec,
    id: &'a str,
}

/// Something to do at a time while calls are open.
#[derive(Clone)]
enum Due {
    Confirm(usize),
    Answer(usize),
    Do(Do),
    /// From when a worker streams.
    WhenHeld(Duration, Do),
}

impl Script<'_> {
    async fn steps(&self) -> Result<(), Stop> {
        let mut in_turn = false;
        let mut skipping = false;
        for step in &self.spec.steps {
            if self.with(|s| s.is_closed()) {
                return Ok(());
            }
            if self.with(|s| std::mem::take(&mut s.interrupted)) {
                (skipping, in_turn) = (true, false);
            }
            if skipping
                && matches!(
                    step,
                    Step::Call(_) | Step::Calls(_) | Step::Say(_) | Step::Emit(_)
                )
            {
                continue;
            }
            match step {
                Step::User(text) => {
                    if in_turn {
                        self.with(|s| s.end_turn(self.shared));
                    }
                    (in_turn, skipping) = (true, false);
                    self.user(text);
                }
                Step::Say(text) => {
                    self.with(|s| {
                        let event =
                            json!({"type": "agent.message", "content": [{"type": "text", "text": text}]});
                        s.append(self.shared, event, None)
                    });
                }
                Step::Emit(event) => {
                    self.with(|s| s.append(self.shared, Value::Object(event.clone()), None));
                }
                Step::Wait(time) => tokio::time::sleep(self.shared.clock.scaled(*time)).await,
                Step::UntilReleased(bound) => {
                    if in_turn {
                        self.with(|s| s.end_turn(self.shared));
                        in_turn = false;
                    }
                    let released = self
                        .shared
                        .wait(|state| state.live_item(self.id).is_none().then_some(()));
                    tokio::time::timeout(bound.within, released).await.map_err(|_| {
                        Stop::Failed(format!("the item was not let go within {:?}", bound.within))
                    })?;
                }
                Step::Do(action) => self.act(action),
                Step::Call(_) | Step::Calls(_) => match self.round(step.calls(), step.meanwhile()).await {
                    Err(Stop::Closed) => return Ok(()),
                    other => other?,
                },
            }
        }
        if self.with(|s| std::mem::take(&mut s.interrupted)) {
            in_turn = false;
        }
        if in_turn && !self.with(|s| s.is_closed()) {
            self.with(|s| s.end_turn(self.shared));
        }
        Ok(())
    }

    /// Changes the session.
    fn with<T>(&self, change: impl FnOnce(&mut Session) -> T) -> T {
        self.shared.update(|state| change(state.session(self.id)))
    }

    fn user(&self, text: &str) {
        self.shared.update(|state| {
            let session = state.session(self.id);
            let event = json!({"type": "user.message", "content": [{"type": "text", "text": text}]});
            session.append(self.shared, event, None);
            session.go_running(self.shared);
            state.ensure_item(self.shared, self.id);
        });
    }

    fn act(&self, action: &Do) {
        self.shared.update(|state| {
            let now = self.shared.clock.now();
            let live = state.live_item(self.id);
            let session = state.session(self.id);
            match action {
                Do::Interrupt => {
                    session.interrupt(self.shared, json!({"type": "user.interrupt"}));
                }
                Do::Terminate => session.terminate(self.shared),
                Do::Delete => session.delete(self.shared),
                Do::Archive => {
                    session.archived = Some(now);
                    session.terminate(self.shared);
                }
                Do::DropStreams => session.stream_epoch += 1,
                Do::TerminateThread(name) => session.terminate_thread(self.shared, name),
                Do::Stop | Do::ForceStop => {
                    if let Some(item) = live {
                        // A live item cannot have stopped already.
                        let _ = state.items[item].machine.stop(now, *action == Do::ForceStop);
                    }
                }
                Do::LoseLease => {
                    if let Some(item) = live {
                        state.items[item].machine.requeue();
                        state.items[item].lose();
                    }
                }
            }
        });
    }

    /// One turn's calls: emit them, let things happen, wait until all are resolved, check.
    async fn round(&self, specs: &[CallSpec], meanwhile: &[Meanwhile]) -> Result<(), Stop> {
        tokio::time::sleep(self.shared.clock.scaled(self.shared.scenario.events.think)).await;
        let calls = self
            .with(|session| emit(self.shared, session, specs))
            .map_err(|error| {
                let source = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                Stop::Failed(format!("{error}: {source}"))
            })?;
        let start = Instant::now();
        let mut due = self.timetable(start, &calls, meanwhile);
        let within = specs.iter().filter_map(|s| s.within).min().map(|w| start + w);
        let mut idle_since = None;
        loop {
            let mut changed = self.shared.changed();
            changed.borrow_and_update();
            let (open, closed, held, live) = self.shared.read(|state| {
                let session = state.sessions.get(self.id);
                let open = session.is_some_and(|s| calls.iter().any(|&c| s.calls[c].is_open()));
                let held = session.is_some_and(|s| s.streams > 0)
                    && state
                        .live_item(self.id)
                        .is_some_and(|i| state.items[i].machine.is_held());
                (
                    open,
                    session.is_none_or(Session::is_closed),
                    held,
                    state.live_item(self.id).is_some(),
                )
            });
            if held {
                for (at, action) in &mut due {
                    if let Due::WhenHeld(after, inner) = action.clone() {
                        (*at, *action) = (Instant::now() + after, Due::Do(inner));
                    }
                }
                due.sort_by_key(|(at, _)| *at);
            }
            if !open || closed {
                break;
            }
            // An item that ended with calls open: somebody has to ask for another, as a user's next message would.
            let requeue = self
                .shared
                .scenario
                .queue
                .requeue_after
                .map(|w| self.shared.clock.scaled(w));
            idle_since = if live {
                None
            } else {
                idle_since.or(Some(Instant::now()))
            };
            let requeue_at = idle_since.zip(requeue).map(|(since, wait)| since + wait);
            let now = Instant::now();
            if requeue_at.is_some_and(|at| at <= now) {
                self.shared
                    .update(|state| state.ensure_item(self.shared, self.id));
                continue;
            }
            if within.is_some_and(|at| at <= now) {
                let open = self.with(|s| s.open_ids());
                return Err(Stop::Failed(format!("no result in time for {open:?}")));
            }
            if let Some(index) = due
                .iter()
                .position(|(at, what)| *at <= now && !matches!(what, Due::WhenHeld(..)))
            {
                let (_, what) = due.remove(index);
                self.fire(what);
                continue;
            }
            let next = due
                .iter()
                .filter(|(_, what)| !matches!(what, Due::WhenHeld(..)))
                .map(|(at, _)| *at)
                .chain(requeue_at)
                .chain(within)
                .min();
            tokio::select! {
                // Both arms only wake the loop, which looks at the state afresh.
                _ = changed.changed() => {}
                () = sleep_until(next) => {}
            }
        }
        self.check(&calls);
        if self.with(|s| s.is_closed()) {
            Err(Stop::Closed)
        } else {
            Ok(())
        }
    }

    fn timetable(&self, start: Instant, calls: &[usize], meanwhile: &[Meanwhile]) -> Vec<(Instant, Due)> {
        let scaled = |wait| self.shared.clock.scaled(wait);
        let mut due = Vec::new();
        self.with(|session| {
            for &index in calls {
                let spec = &session.calls[index].spec;
                if let Some(confirm) = spec.confirm.as_ref().filter(|c| c.when == ConfirmWhen::After) {
                    due.push((start + scaled(confirm.after), Due::Confirm(index)));
                }
                if spec.owner == Owner::Client {
                    due.push((start + scaled(spec.answer.after), Due::Answer(index)));
                }
            }
        });
        for event in meanwhile {
            let after = scaled(event.after);
            due.push(match event.held {
                true => (start, Due::WhenHeld(after, event.action.clone())),
                false => (start + after, Due::Do(event.action.clone())),
            });
        }
        due.sort_by_key(|(at, _)| *at);
        due
    }

    fn fire(&self, what: Due) {
        match what {
            Due::Do(action) | Due::WhenHeld(_, action) => self.act(&action),
            Due::Confirm(index) => self.with(|session| {
                if let Some(event) = confirmation(&session.calls[index]) {
                    session.confirm(self.shared, &event);
                }
            }),
            Due::Answer(index) => self.with(|session| {
                let call = &session.calls[index];
                let (id, answer) = (call.id.clone(), call.spec.answer.clone());
                let custom = call.spec.kind == Kind::Custom;
                let content = json!([{"type": "text", "text": answer.text}]);
                let event = match custom {
                    true => json!({"type": "user.custom_tool_result", "custom_tool_use_id": id,
                        "is_error": answer.is_error, "content": content}),
                    false => json!({"type": "user.tool_result", "tool_use_id": id,
                        "is_error": answer.is_error, "content": content}),
                };
                if let Posted::Refused(why) =
                    session.post_result(self.shared, &event, Owner::Client, &mut Vec::new())
                {
                    session
                        .failures
                        .push(format!("the other client's answer was refused: {why}"));
                }
            }),
        }
    }

    fn check(&self, calls: &[usize]) {
        self.with(|session| {
            for &index in calls {
                let call = &session.calls[index];
                let (name, seen, spec) = (call.name.clone(), call.seen.clone(), call.spec.clone());
                let verdict = match call.phase {
                    CallPhase::Abandoned(_) | CallPhase::ServerSide => Ok(()),
                    CallPhase::Denied if seen.is_none() => Ok(()),
                    _ => spec.expect.check(seen.as_ref(), &session.scope),
                };
                let captured = match seen {
                    Some(seen) => session.remember(&name, seen, &spec.capture),
                    None => Ok(()),
                };
                session.calls[index].checked = Some(verdict.and(captured));
            }
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
