//! Which tool calls of a session are to run.
//!
//! ```text
//!   history ─┐                 ┌─ allowed ──> Run ──> (begin) ──> running ──> finished: answered, or open again
//!            ├─> route a call ─┼─ ask ──────> held ── verdict ──> Run | denied
//!   live   ──┘                 ├─ deny ─────> answered; never run, nothing posted (the server resolves it)
//!                              ├─ not ours ─> left alone; somebody else answers it
//!                              └─ its thread is over ─> dropped silently
//! ```
//!
//! A call is in hand while it is held, queued or running, so it cannot be queued twice; a call whose result could not
//! be posted is out of hand again and comes back with the next history, which asks only what is answered.

use crate::event::{Event, Permission, Stop, ToolUse};
use omnirun_ids::ApiId;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What the router says of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routed {
    /// To be queued.
    Run(ToolUse),
    /// Waits for a verdict.
    Held(ApiId),
    /// Will never run; nothing is posted.
    Denied(ApiId),
    /// Another client's tool.
    NotOwned(ApiId),
}

/// Why a queued call does not run after all, or a result is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It has its answer already.
    Answered,
    /// Its thread is over.
    DeadThread,
}

/// What is still to be done for a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Calls that wait for a verdict.
    pub held: usize,
    /// Calls that are queued or running.
    pub in_hand: usize,
}

impl Outstanding {
    /// Whether there is nothing.
    pub fn is_empty(self) -> bool {
        self.held == 0 && self.in_hand == 0
    }
}

/// A session's history while it is being read. Inputs of calls that turn out to be answered are not kept.
#[derive(Debug, Default)]
pub struct History {
    calls: Vec<ToolUse>,
    answered: HashSet<ApiId>,
    verdicts: HashMap<ApiId, bool>,
    dead: HashSet<String>,
    last: Option<Event>,
    over: bool,
}

impl History {
    /// Takes the next event, in the order of the list.
    pub fn add(&mut self, event: Event) {
        match &event {
            Event::ToolUse(call) if !self.answered.contains(&call.id) => self.calls.push(call.clone()),
            Event::Result { call } => {
                self.answered.insert(call.clone());
                self.calls.retain(|c| c.id != *call);
            }
            Event::Confirmation { call, allow } => {
                self.verdicts.entry(call.clone()).or_insert(*allow);
            }
            Event::ThreadTerminated { thread } => {
                self.dead.insert(thread.clone());
            }
            Event::Terminated | Event::Deleted => self.over = true,
            _ => {}
        }
        if !crate::idle::IdleClock::is_neutral(&event) {
            self.last = Some(match event {
                Event::Idle(stop) => Event::Idle(stop),
                _ => Event::Other,
            });
        }
    }

    /// Whether the session is terminated or deleted.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The last event that is not neutral to the idle clock, as far as the clock tells them apart.
    pub fn last(&self) -> Event {
        self.last.clone().unwrap_or(Event::Other)
    }

    /// Whether the turn had ended when the history was read.
    pub fn turn_ended(&self) -> bool {
        self.last == Some(Event::Idle(Stop::TurnEnded))
    }
}

/// Knows every call of a session.
#[derive(Debug)]
pub struct Router {
    owned: BTreeSet<String>,
    seen: HashSet<ApiId>,
    answered: HashSet<ApiId>,
    verdicts: HashMap<ApiId, bool>,
    held: Vec<ToolUse>,
    in_hand: HashSet<ApiId>,
    dead: HashSet<String>,
}

impl Router {
    /// A router for a worker that owns the tools of these names.
    pub fn new<'a>(owned: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            owned: owned.into_iter().map(str::to_owned).collect(),
            seen: HashSet::new(),
            answered: HashSet::new(),
            verdicts: HashMap::new(),
            held: Vec::new(),
            in_hand: HashSet::new(),
            dead: HashSet::new(),
        }
    }

    /// Takes a whole history and says what is to be done now.
    pub fn reconcile(&mut self, history: History) -> Vec<Routed> {
        for call in &history.answered {
            self.answer(call);
        }
        for (call, allow) in history.verdicts {
            self.verdicts.entry(call).or_insert(allow);
        }
        for thread in history.dead {
            self.end_thread(thread);
        }
        let mut routed = Vec::new();
        for call in history.calls {
            self.seen.insert(call.id.clone());
            routed.extend(self.route(call));
        }
        let held: Vec<ApiId> = self.held.iter().map(|c| c.id.clone()).collect();
        for id in held {
            routed.extend(self.apply_verdict(&id));
        }
        routed
    }

    /// Takes an event of the live stream and says what is to be done now.
    pub fn live(&mut self, event: Event) -> Option<Routed> {
        match event {
            Event::ToolUse(call) => {
                if self.seen.insert(call.id.clone()) {
                    self.route(call)
                } else {
                    None
                }
            }
            Event::Result { call } => {
                self.answer(&call);
                None
            }
            Event::Confirmation { call, allow } => {
                self.verdicts.entry(call.clone()).or_insert(allow);
                self.apply_verdict(&call)
            }
            Event::ThreadTerminated { thread } => {
                self.end_thread(thread);
                None
            }
            _ => None,
        }
    }

    /// Decides about one call.
    fn route(&mut self, call: ToolUse) -> Option<Routed> {
        let held = self.held.iter().any(|c| c.id == call.id);
        if self.answered.contains(&call.id) || self.in_hand.contains(&call.id) || held || self.is_dead(&call)
        {
            return None;
        }
        let verdict = self.verdicts.get(&call.id).copied();
        let run = match (call.permission, verdict) {
            (Permission::Deny, _) | (_, Some(false)) => false,
            (Permission::Allow, None) | (_, Some(true)) => true,
            (Permission::Ask, None) => {
                // A call of somebody else's tool is somebody else's to hold.
                if !self.owned.contains(&call.name) {
                    return Some(Routed::NotOwned(call.id));
                }
                let id = call.id.clone();
                self.held.push(call);
                return Some(Routed::Held(id));
            }
        };
        if !run {
            self.answered.insert(call.id.clone());
            return Some(Routed::Denied(call.id));
        }
        if !self.owned.contains(&call.name) {
            return Some(Routed::NotOwned(call.id));
        }
        self.in_hand.insert(call.id.clone());
        Some(Routed::Run(call))
    }

    /// Lets a held call go on if there is a verdict.
    fn apply_verdict(&mut self, id: &ApiId) -> Option<Routed> {
        if !self.verdicts.contains_key(id) {
            return None;
        }
        let at = self.held.iter().position(|c| c.id == *id)?;
        let call = self.held.remove(at);
        self.route(call)
    }

    fn answer(&mut self, call: &ApiId) {
        self.answered.insert(call.clone());
        self.held.retain(|c| c.id != *call);
    }

    fn end_thread(&mut self, thread: String) {
        self.held.retain(|c| c.thread.as_deref() != Some(thread.as_str()));
        self.dead.insert(thread);
    }

    fn is_dead(&self, call: &ToolUse) -> bool {
        call.thread.as_ref().is_some_and(|t| self.dead.contains(t))
    }

    /// Whether a call that was queued still needs to run, or its result still needs to be sent.
    pub fn still_due(&self, call: &ToolUse) -> Result<(), Skip> {
        if self.answered.contains(&call.id) {
            Err(Skip::Answered)
        } else if self.is_dead(call) {
            Err(Skip::DeadThread)
        } else {
            Ok(())
        }
    }

    /// Whether a call has its answer, as far as is known.
    pub fn is_answered(&self, call: &ApiId) -> bool {
        self.answered.contains(call)
    }

    /// A call that was to run is no longer in hand. Unless it is answered, the next history brings it back.
    pub fn finished(&mut self, call: &ApiId, answered: bool) {
        self.in_hand.remove(call);
        if answered {
            self.answered.insert(call.clone());
        }
    }

    /// What is still to be done.
    pub fn outstanding(&self) -> Outstanding {
        Outstanding {
            held: self.held.len(),
            in_hand: self.in_hand.len(),
        }
    }
}

#[cfg(test)]
mod tests;
