//! Every pause between two tries, by the name of what is tried. `random` is a number in `[0, 1)` that the caller drew.

use std::time::{Duration, Instant};

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s.max(0.0))
}

/// How long a server may hold an empty poll.
pub const POLL_HOLD_MS: u32 = 999;
/// How often an idle worker says that it is idle.
pub const IDLE_LOG_EVERY: Duration = Duration::from_secs(300);

/// Pause after a poll that had nothing: 1 to 3 s.
pub fn empty_poll(random: f64) -> Duration {
    secs(1.0 + 2.0 * random)
}

/// Pause after the `n`-th transient failure in a row (from 1) of a poll or an acknowledgement: `min(60, 2^n)` s and up
/// to a second more.
pub fn queue_failure(n: u32, random: f64) -> Duration {
    secs(2f64.powi(n.min(6) as i32).min(60.0) + random)
}

/// Pause before the stream is opened again: 0.5 s, doubled each time, at most 10 s. An event resets it.
#[derive(Debug, Clone, Copy)]
pub struct StreamBackoff(Duration);

impl Default for StreamBackoff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl StreamBackoff {
    const FIRST: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(10);

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::MAX);
        pause
    }

    /// An event came.
    pub fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

/// Pause after the `n`-th try (from 1) to post a result: between half of `min(30, 2^(n-1))` s and all of it.
pub fn result_failure(n: u32, random: f64) -> Duration {
    let d = 2f64.powi(n.clamp(1, 6) as i32 - 1).min(30.0);
    secs(d / 2.0 + d / 2.0 * random)
}

/// The retry window of a result before any heartbeat told the lease time.
pub const RESULT_WINDOW: Duration = Duration::from_secs(300);

/// How often one request is tried below everything else: once, and twice again.
pub const REQUEST_TRIES: u32 = 3;

/// The pause before a request is sent again after its `try_no`-th try (from 1), or nothing if it is not to be.
///
/// `status` is nothing when no answer came.
pub fn request_failure(try_no: u32, status: Option<u16>, hint: &RetryHint, random: f64) -> Option<Duration> {
    if try_no >= REQUEST_TRIES {
        return None;
    }
    let retry = match (hint.should_retry, status) {
        (Some(said), _) => said,
        (None, None | Some(408 | 409 | 429 | 500..)) => true,
        (None, Some(_)) => false,
    };
    if !retry {
        return None;
    }
    let own = secs((0.5 * 2f64.powi(try_no as i32 - 1)).min(8.0) * (1.0 - 0.25 * random));
    // A server that asks for more than a minute is not obeyed here: the layers above have longer pauses of their own.
    Some(
        hint.after
            .filter(|d| !d.is_zero() && *d <= Duration::from_secs(60))
            .unwrap_or(own),
    )
}

/// What an answer's headers say about trying again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryHint {
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
    /// `retry-after-ms`, else `retry-after`.
    pub after: Option<Duration>,
}

impl RetryHint {
    /// Reads the headers. A `retry-after` that is a date is the caller's to turn into seconds.
    pub fn new(should_retry: Option<&str>, retry_after_ms: Option<&str>, retry_after: Option<&str>) -> Self {
        let number = |text: Option<&str>, unit: f64| {
            let n: f64 = text?.trim().parse().ok()?;
            (n.is_finite() && (0.0..1e9).contains(&n)).then(|| secs(n * unit))
        };
        Self {
            should_retry: match should_retry.map(str::trim) {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            },
            after: number(retry_after_ms, 0.001).or_else(|| number(retry_after, 1.0)),
        }
    }
}

/// Signals that arrive within this time of the first count as one: at a terminal, Ctrl-C reaches a script both as
/// SIGINT from the terminal and as SIGTERM through `ant`.
pub const SIGNALS_ARE_ONE: Duration = Duration::from_secs(1);

/// Counts signals: the first asks, a later one insists.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signals {
    first: Option<Instant>,
}

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalMeans {
    /// Wind down.
    Drain,
    /// The same request again, by another way.
    Same,
    /// Stop now.
    Now,
}

impl Signals {
    /// Takes a signal.
    pub fn on_signal(&mut self, now: Instant) -> SignalMeans {
        match self.first {
            None => {
                self.first = Some(now);
                SignalMeans::Drain
            }
            Some(first) if now.saturating_duration_since(first) < SIGNALS_ARE_ONE => SignalMeans::Same,
            Some(_) => SignalMeans::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NO_HINT: RetryHint = RetryHint {
        should_retry: None,
        after: None,
    };

    #[test]
    fn the_protocols_figures() {
        assert_eq!((empty_poll(0.0), empty_poll(0.5)), (secs(1.0), secs(2.0)));
        let first: Vec<u64> = (1..9).map(|n| queue_failure(n, 0.0).as_secs()).collect();
        assert_eq!(first, [2, 4, 8, 16, 32, 60, 60, 60]);
        let results: Vec<f64> = (1..8).map(|n| result_failure(n, 0.0).as_secs_f64()).collect();
        assert_eq!(results, [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]);
        let mut stream = StreamBackoff::default();
        let pauses: Vec<f64> = (0..7).map(|_| stream.pause().as_secs_f64()).collect();
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        stream.reset();
        assert_eq!(stream.pause(), secs(0.5));
    }

    #[test]
    fn a_request_is_tried_three_times_unless_the_server_says_otherwise() {
        for status in [None, Some(408), Some(409), Some(429), Some(500), Some(529)] {
            assert_eq!(
                request_failure(1, status, &NO_HINT, 0.0),
                Some(secs(0.5)),
                "{status:?}"
            );
            assert_eq!(request_failure(2, status, &NO_HINT, 0.0), Some(secs(1.0)));
            assert_eq!(request_failure(3, status, &NO_HINT, 0.0), None);
        }
        for status in [400, 401, 404, 412] {
            assert_eq!(request_failure(1, Some(status), &NO_HINT, 0.0), None);
        }
        let no = RetryHint::new(Some("false"), None, None);
        let yes = RetryHint::new(Some("true"), Some("250"), Some("9"));
        assert_eq!(request_failure(1, Some(409), &no, 0.0), None);
        assert_eq!(
            request_failure(1, Some(400), &yes, 0.0),
            Some(Duration::from_millis(250))
        );
        let after = RetryHint::new(None, Some("soon"), Some("2"));
        assert_eq!(request_failure(1, Some(429), &after, 0.0), Some(secs(2.0)));
        for silly in ["-1", "NaN", "inf", "1e300", "3600"] {
            let hint = RetryHint::new(None, None, Some(silly));
            assert_eq!(
                request_failure(1, Some(429), &hint, 0.0),
                Some(secs(0.5)),
                "{silly}"
            );
        }
    }

    #[test]
    fn signals_within_a_second_are_one() {
        let t = Instant::now();
        let mut signals = Signals::default();
        assert_eq!(signals.on_signal(t), SignalMeans::Drain);
        assert_eq!(
            signals.on_signal(t + Duration::from_millis(999)),
            SignalMeans::Same
        );
        assert_eq!(
            signals.on_signal(t + Duration::from_millis(1000)),
            SignalMeans::Now
        );
    }

    proptest! {
        #[test]
        fn pauses_are_bounded(n in 0u32..u32::MAX, random in 0.0f64..1.0) {
            prop_assert!(queue_failure(n, random) <= secs(61.0));
            prop_assert!(result_failure(n, random) <= secs(30.0) && result_failure(n, random) >= secs(0.5));
            prop_assert!((secs(1.0)..secs(3.0)).contains(&empty_poll(random)));
            if let Some(p) = request_failure(n.max(1), None, &NO_HINT, random) {
                prop_assert!(p >= secs(0.375) && p <= secs(1.0));
            }
        }
    }
}
