//! When a session has been idle for so long that its item is given up. The session itself stays; its next message
//! queues new work.

use crate::event::{Event, Stop};
use std::time::{Duration, Instant};

/// The idle clock of one session.
#[derive(Debug, Clone)]
pub struct IdleClock {
    max_idle: Option<Duration>,
    state: State,
    stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The turn goes on, or waits for somebody.
    Off,
    /// The turn is over; calls of it are still held or running.
    Deferred,
    /// The turn is over.
    Since(Instant),
}

impl IdleClock {
    /// A clock that gives up after `max_idle`, or never.
    pub fn new(max_idle: Option<Duration>) -> Self {
        Self {
            max_idle,
            state: State::Off,
            stale: false,
        }
    }

    /// Takes an event, from the stream or the last one of the history. `outstanding` says whether a call is held,
    /// queued or running.
    pub fn on_event(&mut self, now: Instant, event: &Event, outstanding: bool) {
        match event {
            Event::Idle(Stop::TurnEnded) if outstanding => self.state = State::Deferred,
            Event::Idle(Stop::TurnEnded) => self.state = State::Since(now),
            Event::Ping | Event::Confirmation { .. } => {}
            Event::ThreadTerminated { .. } if !self.stale => {}
            // The result of a call that outlived its turn (an interrupt) is what the grace waits for, not a new turn.
            Event::Result { .. } if self.state == State::Deferred => {}
            _ => self.state = State::Off,
        }
    }

    /// Whether an event leaves the clock as it is.
    pub fn is_neutral(event: &Event) -> bool {
        matches!(
            event,
            Event::Ping | Event::Confirmation { .. } | Event::ThreadTerminated { .. }
        )
    }

    /// A history is about to be looked at, or could not be read: what the clock knew may no longer hold.
    pub fn on_history(&mut self, read: bool) {
        self.stale = !read;
        if read {
            self.state = State::Off;
        }
    }

    /// No call is outstanding any more: a deferred grace starts now, in full.
    pub fn on_settled(&mut self, now: Instant) {
        if self.state == State::Deferred {
            self.state = State::Since(now);
        }
    }

    /// Whether the turn is over and nothing of it is left to do.
    pub fn at_rest(&self) -> bool {
        matches!(self.state, State::Since(_))
    }

    /// When to give up, if nothing happens until then.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.state, self.max_idle) {
            (State::Since(since), Some(max)) => since.checked_add(max),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: Duration = Duration::from_secs(60);

    fn clock() -> (IdleClock, Instant) {
        (IdleClock::new(Some(MAX)), Instant::now())
    }

    fn confirmation() -> Event {
        Event::Confirmation {
            call: "c".parse().unwrap(),
            allow: true,
        }
    }

    fn thread_end() -> Event {
        Event::ThreadTerminated { thread: "t".into() }
    }

    #[test]
    fn a_turn_that_ended_arms_it_and_any_event_disarms_it() {
        let (mut clock, t) = clock();
        clock.on_event(t, &Event::Idle(Stop::TurnEnded), false);
        assert_eq!(clock.deadline(), Some(t + MAX));
        for neutral in [Event::Ping, confirmation(), thread_end()] {
            clock.on_event(t + MAX / 2, &neutral, false);
            assert_eq!(clock.deadline(), Some(t + MAX));
        }
        clock.on_event(t, &Event::Other, false);
        assert_eq!(clock.deadline(), None);
        clock.on_event(t, &Event::Idle(Stop::RequiresAction), false);
        assert_eq!(clock.deadline(), None);
    }

    #[test]
    fn outstanding_calls_defer_it_and_the_last_one_starts_the_full_grace() {
        let (mut clock, t) = clock();
        clock.on_event(t, &Event::Idle(Stop::TurnEnded), true);
        assert_eq!(clock.deadline(), None);
        clock.on_settled(t + MAX * 2);
        assert_eq!(clock.deadline(), Some(t + MAX * 3));
        clock.on_settled(t + MAX * 4);
        assert_eq!(
            clock.deadline(),
            Some(t + MAX * 3),
            "settling again does not move it"
        );
    }

    #[test]
    fn after_a_failed_history_a_thread_end_disarms_it() {
        let (mut clock, t) = clock();
        clock.on_event(t, &Event::Idle(Stop::TurnEnded), false);
        clock.on_history(false);
        assert_eq!(clock.deadline(), Some(t + MAX));
        clock.on_event(t, &thread_end(), false);
        assert_eq!(clock.deadline(), None);
    }

    #[test]
    fn none_is_never() {
        let mut clock = IdleClock::new(None);
        clock.on_event(Instant::now(), &Event::Idle(Stop::TurnEnded), false);
        assert!(clock.at_rest());
        assert_eq!(clock.deadline(), None);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Idle(Stop::TurnEnded)),
            Just(Event::Idle(Stop::RequiresAction)),
            Just(Event::Other),
            Just(Event::Ping),
            Just(confirmation()),
            Just(thread_end()),
            Just(Event::Result {
                call: "c".parse().unwrap()
            }),
        ]
    }

    proptest! {
        /// The clock never runs unless the last event that counts ended a turn, and then never fires early.
        #[test]
        fn it_fires_only_after_a_whole_grace_of_rest(
            events in prop::collection::vec((event(), any::<bool>(), any::<bool>(), 0u64..50), 1..60)
        ) {
            let (mut clock, mut now) = clock();
            let mut last_counting = None;
            let mut rest_since = now;
            let mut deferred = false;
            for (event, outstanding, settle, pause) in events {
                now += Duration::from_secs(pause);
                clock.on_event(now, &event, outstanding);
                let awaited = deferred && matches!(event, Event::Result { .. });
                if !IdleClock::is_neutral(&event) && !awaited {
                    deferred = outstanding && event == Event::Idle(Stop::TurnEnded);
                    last_counting = Some(event.clone());
                    rest_since = now;
                }
                if settle {
                    clock.on_settled(now);
                    deferred = false;
                }
                if let Some(deadline) = clock.deadline() {
                    prop_assert_eq!(last_counting.clone(), Some(Event::Idle(Stop::TurnEnded)));
                    prop_assert!(deadline >= rest_since + MAX);
                }
            }
        }
    }
}
