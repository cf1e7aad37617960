//! Bounds: of bytes, of bytes a second, of things at once, of things a second.

use omnirun_egress_policy::{Limits, RuleLimits};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Tokens that come back with time. Taking may leave it in debt, which is waited for before the next taking.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u64, most: u64) -> Self {
        let (per_second, most) = (per_second.max(1) as f64, most.max(1) as f64);
        Self {
            per_second,
            most,
            left: most,
            at: Instant::now(),
        }
    }

    fn fill(&mut self) {
        let now = Instant::now();
        let back = (now - self.at).as_secs_f64() * self.per_second;
        self.left = self.most.min(self.left + back);
        self.at = now;
    }

    /// Takes one, if there is one.
    pub(super) fn take_one(&mut self) -> bool {
        self.fill();
        let there = self.left >= 1.0;
        if there {
            self.left -= 1.0;
        }
        there
    }

    /// How long until there is one.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        self.fill();
        (self.left < 1.0).then(|| Duration::from_secs_f64((1.0 - self.left) / self.per_second))
    }

    fn take(&mut self, count: u64) {
        self.left -= count as f64;
    }

    fn left(&mut self) -> u64 {
        self.fill();
        self.left.max(0.0) as u64
    }
}

/// Waits for a token.
pub(super) async fn one(bucket: &Mutex<Bucket>) {
    loop {
        let wait = {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            match bucket.take_one() {
                true => return,
                false => bucket.wait(),
            }
        };
        // Several may wait for the same token; whoever is late waits again.
        sleep(wait.unwrap_or_default().max(Duration::from_millis(1))).await;
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
}

/// What one entry of a guest's policy has used. It lives as long as the guest is attached, so that neither a new
/// connection nor a changed policy gives the same bytes out twice.
#[derive(Debug)]
pub(super) struct Meter(Mutex<Used>);

#[derive(Debug)]
struct Used {
    limits: Limits,
    bytes: [u64; 2],
    rate: Option<[Bucket; 2]>,
    connections: u32,
}

/// A second's worth in a tenth of it, but so much that one packet is not cut into many.
fn burst(rate: u64) -> u64 {
    (rate / 10).max(16 << 10)
}

impl Meter {
    fn new(limits: Limits) -> Self {
        let meter = Self(Mutex::new(Used {
            limits: Limits::default(),
            bytes: [0; 2],
            rate: None,
            connections: 0,
        }));
        meter.set(limits);
        meter
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, limits: Limits) {
        let mut used = self.used();
        if used.limits.rate != limits.rate {
            used.rate = limits
                .rate
                .map(|rate| [(); 2].map(|()| Bucket::new(rate, burst(rate))));
        }
        used.limits = limits;
    }

    /// How many bytes may go now; or how long to wait; nothing if there are none left.
    fn ask(&self, way: Way, most: u64) -> Option<Result<u64, Duration>> {
        let mut used = self.used();
        let in_all = match way {
            Way::Up => used.limits.bytes_up,
            Way::Down => used.limits.bytes_down,
        };
        let left = in_all.map_or(most, |in_all| in_all.saturating_sub(used.bytes[way as usize]));
        if left == 0 {
            return None;
        }
        let most = most.min(left);
        let Some(rate) = &mut used.rate else {
            return Some(Ok(most));
        };
        let bucket = &mut rate[way as usize];
        match bucket.wait() {
            Some(wait) => Some(Err(wait)),
            None => Some(Ok(most.min(bucket.left().max(1)))),
        }
    }

    /// How many bytes are left in all.
    fn left(&self, way: Way) -> Option<u64> {
        let used = self.used();
        let in_all = match way {
            Way::Up => used.limits.bytes_up,
            Way::Down => used.limits.bytes_down,
        };
        in_all.map(|in_all| in_all.saturating_sub(used.bytes[way as usize]))
    }

    fn spend(&self, way: Way, bytes: u64) {
        let mut used = self.used();
        let spent = &mut used.bytes[way as usize];
        *spent = spent.saturating_add(bytes);
        if let Some(rate) = &mut used.rate {
            rate[way as usize].take(bytes);
        }
    }
}

/// A connection's share in a meter: one of its connections at once.
#[derive(Debug)]
struct Share(Arc<Meter>);

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.0.used();
        used.connections = used.connections.saturating_sub(1);
    }
}

/// The meters that a connection runs by: those of the entries that let it through.
#[derive(Debug, Default)]
pub(super) struct Shares(Vec<Share>);

/// No bytes are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent;

impl Shares {
    /// How many bytes may go now; or how long to wait.
    pub(super) fn ask(&self, way: Way, most: u64) -> Result<Result<u64, Duration>, Spent> {
        let mut now = most;
        for share in &self.0 {
            match share.0.ask(way, now) {
                None => return Err(Spent),
                Some(Err(wait)) => return Ok(Err(wait)),
                Some(Ok(may)) => now = may,
            }
        }
        Ok(Ok(now))
    }

    /// How many bytes are left in all; nothing if that is not bounded.
    pub(super) fn left(&self, way: Way) -> Option<u64> {
        self.0.iter().filter_map(|share| share.0.left(way)).min()
    }

    /// They have gone.
    pub(super) fn spend(&self, way: Way, bytes: u64) {
        for share in &self.0 {
            share.0.spend(way, bytes);
        }
    }
}

/// The meters of a guest, by entry.
#[derive(Debug, Default)]
pub(super) struct Meters(BTreeMap<Arc<str>, Arc<Meter>>);

impl Meters {
    /// Shares in all of these, or nothing where one has no connection left. `anyway`: for a connection that is there
    /// already.
    pub(super) fn shares(&mut self, limits: &[RuleLimits], anyway: bool) -> Option<Shares> {
        let mut shares = Vec::with_capacity(limits.len());
        for RuleLimits { rule, limits } in limits {
            let meter = self
                .0
                .entry(Arc::clone(rule))
                .or_insert_with(|| Arc::new(Meter::new(*limits)));
            meter.set(*limits);
            let mut used = meter.used();
            if !anyway && limits.connections.is_some_and(|most| used.connections >= most) {
                return None;
            }
            used.connections += 1;
            drop(used);
            shares.push(Share(Arc::clone(meter)));
        }
        Some(Shares(shares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limits: Limits) -> [RuleLimits; 1] {
        let rule = "a.example".into();
        [RuleLimits { rule, limits }]
    }

    #[test]
    fn bytes_and_connections_are_shared_by_all_of_an_entry() {
        let mut meters = Meters::default();
        let bounded = limits(Limits {
            bytes_up: Some(100),
            connections: Some(2),
            ..Limits::default()
        });
        let first = meters.shares(&bounded, false).unwrap();
        let second = meters.shares(&bounded, false).unwrap();
        assert!(meters.shares(&bounded, false).is_none());
        assert!(meters.shares(&bounded, true).is_some());
        assert_eq!(first.ask(Way::Up, 1000), Ok(Ok(100)));
        first.spend(Way::Up, 60);
        assert_eq!(second.ask(Way::Up, 1000), Ok(Ok(40)));
        assert_eq!(second.ask(Way::Down, 1000), Ok(Ok(1000)));
        second.spend(Way::Up, 40);
        drop((first, second));
        let third = meters.shares(&bounded, false).unwrap();
        assert_eq!(third.ask(Way::Up, 1), Err(Spent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_over_time() {
        let mut meters = Meters::default();
        let bounded = limits(Limits {
            rate: Some(100_000),
            ..Limits::default()
        });
        let shares = meters.shares(&bounded, false).unwrap();
        let begun = Instant::now();
        let mut moved = 0;
        while moved < 1_000_000 {
            match shares.ask(Way::Down, 64 << 10).unwrap() {
                Ok(now) => {
                    shares.spend(Way::Down, now);
                    moved += now;
                }
                Err(wait) => sleep(wait).await,
            }
        }
        let rate = moved as f64 / begun.elapsed().as_secs_f64();
        assert!((95_000.0..105_000.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back() {
        let bucket = Mutex::new(Bucket::new(10, 5));
        let begun = Instant::now();
        for _ in 0..25 {
            one(&bucket).await;
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((1.9..2.3).contains(&took), "{took}");
    }
}
