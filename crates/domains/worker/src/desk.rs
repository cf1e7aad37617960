//! Everything that an item's task attends to beside the call that it runs: the lease, the signals, the events.
//!
//! [`Desk::attend`] waits for one thing, takes it in, and says what follows. It only waits at its single `select!`, so
//! whoever polls it beside a running call may drop it at any time.

use crate::{
    config::{ItemConfig, WindDown},
    feed::{Fed, Feed},
    heartbeat::LeaseView,
    item::End,
    shutdown::Shutdown,
};
use omnirun_ids::ApiId;
use omnirun_work_proto::{Event, IdleClock, LeaseEnd, Routed, Router, ToolUse};
use std::{collections::VecDeque, future::pending, sync::Arc};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Calls that may wait; beyond that the stream is not read on. By number, as the official workers, and by size.
const MAX_QUEUED: usize = 100;
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// A call that waits for its turn.
pub(crate) struct Queued {
    pub(crate) call: ToolUse,
    /// When its event came.
    pub(crate) received: Instant,
}

/// An item that winds down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Winding {
    pub(crate) end: End,
    pub(crate) rules: WindDown,
    /// When the running tool is cancelled.
    pub(crate) tool_until: Instant,
}

/// What follows from what was attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Go on.
    Nothing,
    /// The item is over, now, whatever runs.
    End(End),
    /// The running tool has had its time.
    ToolTime,
    /// The session has been idle for long enough.
    Idle,
}

/// What the item's task does while it attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing: it waits for something to do.
    Nothing,
    /// A tool runs, and may be cancelled.
    Tool,
    /// A tool that was cancelled comes to its end, or a result is being posted.
    Finishing,
}

/// The state of one session's serving.
pub(crate) struct Desk {
    session: ApiId,
    config: Arc<ItemConfig>,
    pub(crate) router: Router,
    clock: IdleClock,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    feed: Feed,
    feed_ended: bool,
    pub(crate) lease: watch::Receiver<LeaseView>,
    lease_ended: bool,
    shutdown: Shutdown,
    winding: Option<Winding>,
}

impl Desk {
    pub(crate) fn new(
        config: Arc<ItemConfig>,
        session: ApiId,
        feed: Feed,
        lease: watch::Receiver<LeaseView>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            session,
            router: Router::new(config.hands.tools().iter().copied()),
            clock: IdleClock::new(config.max_idle),
            config,
            queue: VecDeque::new(),
            queued_bytes: 0,
            feed,
            feed_ended: false,
            lease,
            lease_ended: false,
            shutdown,
            winding: None,
        }
    }

    /// Why the item has to end at once, if it has to, without waiting for anything.
    pub(crate) fn over(&mut self) -> Option<End> {
        if self.shutdown.stopping_hard().is_cancelled() {
            return Some(End::HardStop);
        }
        let ended = self.lease.borrow().ended;
        self.on_lease(ended)
    }

    /// How the item winds down, if it does.
    pub(crate) fn winding(&self) -> Option<Winding> {
        self.winding
    }

    /// Whether nothing is left to do for the session's turn.
    pub(crate) fn at_rest(&self) -> bool {
        self.clock.at_rest() && self.router.outstanding().is_empty()
    }

    /// The next call that still needs to run.
    pub(crate) fn next(&mut self) -> Option<Queued> {
        while let Some(queued) = self.queue.pop_front() {
            self.queued_bytes -= queued.call.input.0.len();
            match self.router.still_due(&queued.call) {
                Ok(()) => return Some(queued),
                Err(reason) => {
                    tracing::debug!(session = %self.session, call = %queued.call.id, ?reason, "a queued call is not due any more");
                    self.finished(&queued.call.id, false);
                }
            }
        }
        None
    }

    /// A call is out of hand.
    pub(crate) fn finished(&mut self, call: &ApiId, answered: bool) {
        self.router.finished(call, answered);
        if self.router.outstanding().is_empty() {
            self.clock.on_settled(Instant::now().into_std());
        }
    }

    /// Waits for one thing and takes it in.
    pub(crate) async fn attend(&mut self, doing: Doing) -> Attention {
        let room = self.queue.len() < MAX_QUEUED && self.queued_bytes < MAX_QUEUED_BYTES;
        let idle = self
            .clock
            .deadline()
            .filter(|_| doing == Doing::Nothing)
            .map(Instant::from_std);
        let tool_until = self
            .winding
            .filter(|_| doing != Doing::Finishing)
            .map(|w| w.tool_until);
        let wound = self.winding.is_some();
        // Every arm waits for something that stays there until it is taken: tokens, a watch, a channel, the clock.
        // What ends the item comes before what goes on with it.
        tokio::select! {
            biased;
            () = self.shutdown.stopping_hard().cancelled() => Attention::End(End::HardStop),
            changed = self.lease.changed(), if !self.lease_ended => {
                // The heartbeat ends when no heartbeat can help; its last word is in the view.
                self.lease_ended = changed.is_err();
                let ended = self.lease.borrow_and_update().ended;
                self.on_lease(ended).map_or(Attention::Nothing, Attention::End)
            }
            () = self.shutdown.winding_down().cancelled(), if !wound => {
                self.wind(End::Drained, self.config.wind_down);
                Attention::Nothing
            }
            () = until(tool_until) => Attention::ToolTime,
            fed = self.feed.fed.recv(), if room && !self.feed_ended => self.on_fed(fed),
            () = until(idle) => Attention::Idle,
        }
    }

    fn on_lease(&mut self, ended: Option<LeaseEnd>) -> Option<End> {
        match ended? {
            LeaseEnd::Lost(lost) => return Some(End::Lost(lost)),
            LeaseEnd::Stopping => self.wind(End::Stopping, self.config.timing.stopping),
            LeaseEnd::Refused => self.wind(End::HeartbeatRefused, self.config.timing.stopping),
        }
        None
    }

    /// Winds down, or more strictly than before.
    fn wind(&mut self, end: End, rules: WindDown) {
        let tool_until = Instant::now() + rules.tool;
        match &mut self.winding {
            Some(before) if !before.rules.serve_on || rules.serve_on => {}
            Some(before) => {
                *before = Winding {
                    end,
                    rules,
                    tool_until: tool_until.min(before.tool_until),
                }
            }
            None => {
                self.winding = Some(Winding {
                    end,
                    rules,
                    tool_until,
                })
            }
        }
    }

    fn on_fed(&mut self, fed: Option<Fed>) -> Attention {
        let now = Instant::now();
        match fed {
            Some(Fed::History(history)) => {
                if history.is_over() {
                    return Attention::End(End::SessionOver);
                }
                self.clock.on_history(true);
                let last = history.last();
                for routed in self.router.reconcile(history) {
                    self.take(routed, now);
                }
                let outstanding = !self.router.outstanding().is_empty();
                self.clock.on_event(now.into_std(), &last, outstanding);
            }
            Some(Fed::NoHistory) => self.clock.on_history(false),
            Some(Fed::Event(Event::Terminated | Event::Deleted, _)) => {
                return Attention::End(End::SessionOver);
            }
            Some(Fed::Event(event, received)) => {
                let was_outstanding = !self.router.outstanding().is_empty();
                // The echo of our own result tells nothing new. After an interrupt it may be the last event of a turn
                // that has ended already.
                let echo = matches!(&event, Event::Result { call } if self.router.is_answered(call));
                let clock_event = event_for_clock(&event);
                if let Some(routed) = self.router.live(event) {
                    self.take(routed, received);
                }
                let outstanding = !self.router.outstanding().is_empty();
                if !echo {
                    self.clock.on_event(now.into_std(), &clock_event, outstanding);
                }
                if was_outstanding && !outstanding {
                    self.clock.on_settled(now.into_std());
                }
            }
            Some(Fed::Refused(error)) => {
                tracing::error!(session = %self.session, error = &error as &dyn std::error::Error, "the event stream is refused");
                self.feed_ended = true;
                return Attention::End(End::StreamRefused);
            }
            // The feed says what is wrong before it ends; an end without a word is a bug, and must not hang the item.
            None => {
                self.feed_ended = true;
                return Attention::End(End::Failed);
            }
        }
        Attention::Nothing
    }

    fn take(&mut self, routed: Routed, received: Instant) {
        match routed {
            Routed::Run(call) => {
                self.queued_bytes += call.input.0.len();
                self.queue.push_back(Queued { call, received });
            }
            Routed::Held(call) => {
                tracing::info!(session = %self.session, call = %call, "a call waits for its confirmation")
            }
            Routed::Denied(call) => {
                tracing::info!(session = %self.session, call = %call, "a call is denied and will not run")
            }
            Routed::NotOwned(call) => {
                tracing::info!(session = %self.session, call = %call, "a call of a tool that is not ours is left to its owner");
            }
        }
    }
}

/// Sleeps until then, or for ever.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// The event without its weight.
fn event_for_clock(event: &Event) -> Event {
    match event {
        Event::ToolUse(_) => Event::Other,
        other => other.clone(),
    }
}
