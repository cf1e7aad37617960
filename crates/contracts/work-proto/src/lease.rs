//! The lease of a work item: what each heartbeat says, when the next one is due, and what an answer means.
//!
//! ```text
//!             200 active                       200 stopping | stopped | not extended
//!   Held ───────────────────> Held             Held ──> Stopping (told once; heartbeats go on)
//!   Held ── no answer, 408, 409, 429, 5xx ──> Held, same value again after one interval
//!   any  ── 412, or no success for a TTL ──> Lost      any other 4xx ──> Refused
//! ```
//!
//! A lease counts from the moment at which the successful heartbeat was *sent*: the server's clock for it can only
//! have started later.

use crate::work::{HeartbeatResponse, NO_HEARTBEAT, WorkState};
use std::time::{Duration, Instant};

/// The figures of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRules {
    /// How long a lease is assumed to hold before the first answer says so.
    pub assumed_ttl: Duration,
    /// The pause between beats before the first answer.
    pub first_interval: Duration,
    /// The shortest pause between beats.
    pub min_interval: Duration,
    /// The longest pause between beats.
    pub max_interval: Duration,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            assumed_ttl: Duration::from_secs(90),
            first_interval: Duration::from_secs(30),
            min_interval: Duration::from_secs(1),
            max_interval: Duration::from_secs(30),
        }
    }
}

/// What became of a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    /// 200.
    Answered(HeartbeatResponse),
    /// No answer, or one that trying again may change.
    Transient,
    /// 412.
    Precondition,
    /// Any other permanent 4xx.
    Refused,
}

/// How a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The server says so: the item was queued again, or another worker holds it.
    Moved,
    /// No heartbeat succeeded for a whole lease time, so the server must have queued it again.
    Assumed,
}

/// Why an item has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Another worker may be at it: write nothing more, stop nothing.
    Lost(Lost),
    /// Somebody asked for it: wind down, then confirm with a forced stop.
    Stopping,
    /// The server will not hear of the item (404 and the like): wind down; no heartbeat can help.
    Refused,
}

/// The lease of one item.
#[derive(Debug, Clone)]
pub struct Lease {
    rules: LeaseRules,
    expected: String,
    ttl: Duration,
    interval: Duration,
    fresh_since: Instant,
    next: Option<Instant>,
    ended: Option<LeaseEnd>,
    answered: bool,
}

impl Lease {
    /// The lease of an item that was claimed just now; its first heartbeat is due at once.
    pub fn new(rules: LeaseRules, now: Instant) -> Self {
        Self {
            rules,
            expected: NO_HEARTBEAT.to_owned(),
            ttl: rules.assumed_ttl,
            interval: rules.first_interval,
            fresh_since: now,
            next: Some(now),
            ended: None,
            answered: false,
        }
    }

    /// What the next heartbeat says that it expects.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// When the next heartbeat is due; nothing once no heartbeat can help.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// How long one heartbeat may take, inner retries included.
    pub fn beat_limit(&self) -> Duration {
        self.interval
    }

    /// When the lease is to be assumed lost unless a heartbeat succeeds before.
    pub fn lost_at(&self) -> Instant {
        self.fresh_since + self.ttl
    }

    /// The lease time, as last reported; nothing before the first answer.
    pub fn reported_ttl(&self) -> Option<Duration> {
        self.answered.then_some(self.ttl)
    }

    /// Why the item has to end, if it has to.
    pub fn ended(&self) -> Option<LeaseEnd> {
        self.ended
    }

    /// Takes the outcome of a heartbeat that was sent at `sent`. Says why the item has to end when that is news.
    pub fn on_beat(&mut self, sent: Instant, now: Instant, beat: Beat) -> Option<LeaseEnd> {
        if matches!(self.ended, Some(LeaseEnd::Lost(_) | LeaseEnd::Refused)) {
            return None;
        }
        match beat {
            Beat::Answered(answer) => {
                self.fresh_since = self.fresh_since.max(sent);
                self.answered = true;
                if !answer.last_heartbeat.is_empty() {
                    self.expected = answer.last_heartbeat;
                }
                if let Ok(secs @ 1..) = u64::try_from(answer.ttl_seconds) {
                    // A lease of more than a day is a mistake of the server's; the bound keeps sums of times in range.
                    self.ttl = Duration::from_secs(secs.min(86_400));
                    self.interval = (self.ttl / 2).clamp(self.rules.min_interval, self.rules.max_interval);
                }
                self.next = Some((sent + self.interval).max(now));
                let stop = matches!(answer.state, WorkState::Stopping | WorkState::Stopped)
                    || !answer.lease_extended;
                if stop { self.end(LeaseEnd::Stopping) } else { None }
            }
            Beat::Transient => {
                self.next = Some((sent + self.interval).max(now));
                self.on_time(now)
            }
            Beat::Precondition => self.end(LeaseEnd::Lost(Lost::Moved)),
            Beat::Refused => self.end(LeaseEnd::Refused),
        }
    }

    /// Looks at the clock: without a success for a whole lease time the lease is lost.
    pub fn on_time(&mut self, now: Instant) -> Option<LeaseEnd> {
        let over = matches!(self.ended, Some(LeaseEnd::Lost(_) | LeaseEnd::Refused));
        if !over && now >= self.lost_at() {
            self.end(LeaseEnd::Lost(Lost::Assumed))
        } else {
            None
        }
    }

    fn end(&mut self, end: LeaseEnd) -> Option<LeaseEnd> {
        if self.ended == Some(end) {
            return None;
        }
        if end != LeaseEnd::Stopping {
            self.next = None;
        }
        self.ended = Some(end);
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(value: &str, ttl: i64, state: WorkState) -> Beat {
        Beat::Answered(HeartbeatResponse {
            kind: "work_heartbeat".into(),
            last_heartbeat: value.into(),
            lease_extended: true,
            state,
            ttl_seconds: ttl,
        })
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn first_no_heartbeat_then_the_servers_own_words() {
        let t = Instant::now();
        let mut lease = Lease::new(LeaseRules::default(), t);
        assert_eq!(
            (lease.expected(), lease.next(), lease.beat_limit()),
            ("NO_HEARTBEAT", Some(t), secs(30))
        );
        assert_eq!(lease.lost_at(), t + secs(90));
        assert_eq!(
            lease.on_beat(
                t,
                t + secs(1),
                answer("2026-11-02T09:00:32.118204Z", 300, WorkState::Active)
            ),
            None
        );
        assert_eq!(lease.expected(), "2026-11-02T09:00:32.118204Z");
        assert_eq!(
            (lease.next(), lease.lost_at()),
            (Some(t + secs(30)), t + secs(300))
        );
        assert_eq!(lease.reported_ttl(), Some(secs(300)));
    }

    #[test]
    fn intervals_are_half_the_ttl_between_1_and_30_seconds() {
        let t = Instant::now();
        for (ttl, interval) in [(300, 30), (60, 30), (20, 10), (2, 1), (1, 1), (0, 30), (-5, 30)] {
            let mut lease = Lease::new(LeaseRules::default(), t);
            lease.on_beat(t, t, answer("v", ttl, WorkState::Active));
            assert_eq!(lease.beat_limit(), secs(interval), "{ttl}");
        }
    }

    #[test]
    fn a_transient_failure_is_tried_again_with_the_same_value_until_the_ttl_is_over() {
        let t = Instant::now();
        let mut lease = Lease::new(LeaseRules::default(), t);
        lease.on_beat(t, t, answer("v1", 40, WorkState::Active));
        for n in [20, 39] {
            assert_eq!(lease.on_beat(t + secs(n - 1), t + secs(n), Beat::Transient), None);
            assert_eq!((lease.expected(), lease.next()), ("v1", Some(t + secs(n + 19))));
        }
        assert_eq!(lease.on_time(t + secs(40)), Some(LeaseEnd::Lost(Lost::Assumed)));
        assert_eq!((lease.next(), lease.on_time(t + secs(41))), (None, None));
    }

    #[test]
    fn stopping_is_told_once_and_heartbeats_go_on() {
        let t = Instant::now();
        let mut lease = Lease::new(LeaseRules::default(), t);
        lease.on_beat(t, t, answer("v1", 10, WorkState::Active));
        assert_eq!(
            lease.on_beat(t + secs(5), t + secs(5), answer("", 0, WorkState::Stopping)),
            Some(LeaseEnd::Stopping)
        );
        assert_eq!((lease.expected(), lease.next()), ("v1", Some(t + secs(10))));
        assert_eq!(
            lease.on_beat(t + secs(10), t + secs(10), answer("v1", 10, WorkState::Stopped)),
            None
        );
        assert_eq!(
            lease.on_beat(t + secs(15), t + secs(15), Beat::Precondition),
            Some(LeaseEnd::Lost(Lost::Moved))
        );
        assert_eq!(lease.next(), None);
    }

    #[test]
    fn not_extended_means_stopping_and_a_refusal_ends_the_heartbeats() {
        let t = Instant::now();
        let mut lease = Lease::new(LeaseRules::default(), t);
        let Beat::Answered(mut beat) = answer("v", 10, WorkState::Active) else {
            unreachable!()
        };
        beat.lease_extended = false;
        assert_eq!(
            lease.on_beat(t, t, Beat::Answered(beat)),
            Some(LeaseEnd::Stopping)
        );
        assert_eq!(lease.on_beat(t, t, Beat::Refused), Some(LeaseEnd::Refused));
        assert_eq!((lease.next(), lease.on_time(t + secs(1000))), (None, None));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Answer { value: String, ttl: i64, stopping: bool },
        Transient,
        Precondition,
        Refused,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => ("[a-z0-9:.TZ-]{0,12}", -3i64..400, prop::bool::weighted(0.1))
                .prop_map(|(value, ttl, stopping)| Step::Answer { value, ttl, stopping }),
            4 => Just(Step::Transient),
            1 => Just(Step::Precondition),
            1 => Just(Step::Refused),
        ]
    }

    proptest! {
        /// Whatever a server answers, at whatever pace: the value sent is the last one it gave, pauses stay in bounds,
        /// a lease is never kept past its time, and its end is final and told once.
        #[test]
        fn the_rules_hold_for_any_server(steps in prop::collection::vec((step(), 0u64..40), 1..60)) {
            let rules = LeaseRules::default();
            let mut now = Instant::now();
            let mut lease = Lease::new(rules, now);
            let (mut expected, mut fresh, mut ttl) = (NO_HEARTBEAT.to_owned(), now, rules.assumed_ttl);
            let mut final_end = false;
            for (step, took) in steps {
                let Some(due) = lease.next() else {
                    prop_assert!(final_end);
                    prop_assert_eq!(lease.on_beat(now, now, Beat::Precondition), None);
                    break;
                };
                let sent = due.max(now);
                prop_assert!(due.saturating_duration_since(now) <= rules.max_interval);
                now = sent + Duration::from_millis(took * 250);
                prop_assert_eq!(lease.expected(), &expected);
                let told = match step.clone() {
                    Step::Answer { value, ttl: secs, stopping } => {
                        if !value.is_empty() { expected = value.clone(); }
                        if secs > 0 { ttl = Duration::from_secs(secs as u64); }
                        fresh = sent;
                        let state = if stopping { WorkState::Stopping } else { WorkState::Active };
                        lease.on_beat(sent, now, answer(&value, secs, state))
                    }
                    Step::Transient => lease.on_beat(sent, now, Beat::Transient),
                    Step::Precondition => lease.on_beat(sent, now, Beat::Precondition),
                    Step::Refused => lease.on_beat(sent, now, Beat::Refused),
                };
                match told {
                    Some(LeaseEnd::Lost(Lost::Moved)) => prop_assert!(matches!(step, Step::Precondition)),
                    Some(LeaseEnd::Lost(Lost::Assumed)) => prop_assert!(now >= fresh + ttl),
                    Some(LeaseEnd::Refused) => prop_assert!(matches!(step, Step::Refused)),
                    Some(LeaseEnd::Stopping) | None => {}
                }
                final_end |= matches!(told, Some(LeaseEnd::Lost(_) | LeaseEnd::Refused));
                prop_assert!(lease.beat_limit() >= rules.min_interval && lease.beat_limit() <= rules.max_interval);
                if !final_end {
                    prop_assert_eq!(lease.lost_at(), fresh + ttl);
                }
            }
        }
    }
}
