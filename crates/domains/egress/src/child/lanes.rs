//! Where a guest's tasks run: in a few tasks of the runtime, however many connections it has.
//!
//! Given a task of the runtime each, a thousand busy connections of one guest would stand in the runtime's queue a thousand
//! times, and another guest's single one would wait for all of them whenever it is woken. So a guest has as many lanes as
//! half the threads there are, and all that it does runs in them, in turns: a lane stands in the queue once, and leaves
//! its thread after a few hundred microseconds (the budget that tokio gives a task, of which a step of
//! [`super::relay`] takes a share by its size). With two threads, one guest keeps one of them busy at most.
//!
//! That is half of the machine's processors still, and a crowd keeps others busy outside of here, with both ends of its
//! connections. So a lane with many connections rests after its turns while another guest is being served too, four times
//! as long as they took: a fifth of a thread moves more than most links. (`examples/proxy_bench.rs`, "fairness".)

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, coop},
    time::Sleep,
};

/// More connections than a program has that fetches something. (Each is some two tasks.)
const MANY: usize = 32;
/// It rests when its turns took so much.
const TURNS: Duration = Duration::from_millis(2);
/// And so many times as long.
const REST: u32 = 4;
/// But no longer than this.
const LONGEST: Duration = Duration::from_millis(40);
/// A guest that ran within this time is being served.
const LATELY: Duration = Duration::from_millis(50);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether several guests are being served at a time.
#[derive(Debug)]
pub(super) struct Company {
    begun: tokio::time::Instant,
    /// Who ran last, and when: milliseconds, as all times here.
    latest: AtomicU64,
    at: AtomicU64,
    /// When somebody else did.
    others: AtomicU64,
}

impl Company {
    pub(super) fn new() -> Self {
        Self {
            begun: tokio::time::Instant::now(),
            latest: AtomicU64::new(u64::MAX),
            at: AtomicU64::new(0),
            others: AtomicU64::new(0),
        }
    }

    /// This guest runs; whether another has, lately.
    fn others_than(&self, guest: u64) -> bool {
        let now = self.begun.elapsed().as_millis() as u64;
        let before = self.at.swap(now, Ordering::Relaxed);
        // That two threads may do so at once makes it a guess at times, and no more hangs on it.
        if self.latest.swap(guest, Ordering::Relaxed) != guest {
            self.others.store(before, Ordering::Relaxed);
        }
        let since = now.saturating_sub(self.others.load(Ordering::Relaxed));
        since < LATELY.as_millis() as u64
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    // As many as there are connections and what belongs to them, which are counted elsewhere.
    lanes: Vec<mpsc::UnboundedSender<Work>>,
    next: AtomicUsize,
}

impl Lanes {
    /// So many of a guest's, run by these tasks.
    pub(super) fn new(count: usize, guest: u64, company: &Arc<Company>, tasks: &mut JoinSet<()>) -> Self {
        let lane = |_| {
            let (sender, work) = mpsc::unbounded_channel();
            tasks.spawn(Lane {
                guest,
                company: Arc::clone(company),
                work,
                running: FuturesUnordered::new(),
                took: Duration::ZERO,
                rest: None,
            });
            sender
        };
        Self {
            lanes: (0..count).map(lane).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Runs something in one of them. It ends with the guest, at the latest.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let lane = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len().max(1);
        if let Some(lane) = self.lanes.get(lane) {
            // Gone only when the guest is being let go, and this with it.
            let _ = lane.send(Box::pin(work));
        }
    }
}

struct Lane {
    guest: u64,
    company: Arc<Company>,
    work: mpsc::UnboundedReceiver<Work>,
    running: FuturesUnordered<Sliced>,
    /// What its turns took since it last rested.
    took: Duration,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Lane {
    /// A turn. Ready when there will be no more work.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(more) = self.work.poll_recv(cx) {
            let Some(more) = more else {
                return Poll::Ready(());
            };
            // A panic ends what panicked, and is told of by the process's hook.
            let guarded = AssertUnwindSafe(more).catch_unwind().map(drop);
            self.running.push(Sliced(Box::pin(guarded)));
        }
        while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {}
        Poll::Pending
    }

    /// How long to rest after a turn, if at all.
    fn rest_after(&mut self, turn: Duration) -> Option<Duration> {
        self.took += turn;
        (self.took >= TURNS).then(|| (REST * std::mem::take(&mut self.took)).min(LONGEST))
    }
}

impl Future for Lane {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        let has_company = self.company.others_than(self.guest);
        if !has_company || self.running.len() < MANY {
            return self.turn(cx);
        }
        let begun = Instant::now();
        if self.turn(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(rest) = self.rest_after(begun.elapsed()) {
            let mut rest = Box::pin(tokio::time::sleep(rest));
            // To be woken when it is over: at once if there is no budget for that either.
            let _ = rest.as_mut().poll(cx);
            self.rest = Some(rest);
        }
        Poll::Pending
    }
}

/// Waits for the next slice when this one is used up. Else each of those that are ready would be polled in vain, since
/// nothing makes progress without budget.
struct Sliced(Work);

impl Future for Sliced {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !coop::has_budget_remaining() {
            // Seen by the queue, which then gives way.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.get_mut().0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64},
        },
    };

    #[tokio::test]
    async fn what_is_busy_gives_way() {
        let mut tasks = JoinSet::new();
        let lanes = Lanes::new(1, 1, &Arc::new(Company::new()), &mut tasks);
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        for _ in 0..1000 {
            let (stop, steps) = (Arc::clone(&stop), Arc::clone(&steps));
            lanes.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    steps.fetch_add(1, Ordering::Relaxed);
                    coop::consume_budget().await;
                }
            });
        }
        // There is one thread: each time that another task of the runtime has it, the lane has done no more than its budget
        // allows.
        let other = Arc::clone(&steps);
        let longest = tokio::spawn(async move {
            let mut longest = 0;
            for _ in 0..100 {
                let before = other.load(Ordering::Relaxed);
                // Once round the queue. (`yield_now` waits longer, for the runtime to look for events.)
                let mut is_first = true;
                poll_fn(|cx| match std::mem::replace(&mut is_first, false) {
                    true => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    false => Poll::Ready(()),
                })
                .await;
                longest = longest.max(other.load(Ordering::Relaxed) - before);
            }
            longest
        });
        let longest = longest.await.unwrap();
        assert!((1..=300).contains(&longest), "{longest}");
        stop.store(true, Ordering::Relaxed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_rests_while_another_guest_is_served() {
        let (mut tasks, company) = (JoinSet::new(), Arc::new(Company::new()));
        let lanes = Lanes::new(1, 1, &company, &mut tasks);
        let steps = Arc::new(AtomicU64::new(0));
        for _ in 0..MANY {
            let steps = Arc::clone(&steps);
            lanes.spawn(async move {
                loop {
                    let begun = Instant::now();
                    while begun.elapsed() < TURNS / 8 {}
                    steps.fetch_add(1, Ordering::Relaxed);
                    coop::consume_budget().await;
                    tokio::task::yield_now().await;
                }
            });
        }
        // Whether it works in each of some rounds. Time stands still meanwhile.
        let works = async |served: u64| {
            let mut each = true;
            for _ in 0..4 {
                company.others_than(served);
                let before = steps.load(Ordering::Relaxed);
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                each &= steps.load(Ordering::Relaxed) > before;
            }
            each
        };
        works(1).await;
        tokio::time::advance(LONGEST).await;
        works(2).await;
        assert!(!works(2).await);
        tokio::time::advance(LATELY).await;
        assert!(works(1).await, "rested, and alone");
    }

    #[test]
    fn company_is_another_guest_that_ran_lately() {
        let mut company = Company::new();
        let pass = |company: &mut Company| company.begun -= 2 * LATELY;
        company.others_than(1);
        pass(&mut company);
        assert!(!company.others_than(1));
        assert!(company.others_than(2));
        assert!(company.others_than(1));
        pass(&mut company);
        assert!(!company.others_than(2), "the other ran long ago");
        assert!(company.others_than(1));
    }

    #[tokio::test]
    async fn a_panic_is_nobody_elses() {
        let mut tasks = JoinSet::new();
        let lanes = Lanes::new(1, 1, &Arc::new(Company::new()), &mut tasks);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        lanes.spawn(async { panic!("on purpose") });
        lanes.spawn(async move {
            tokio::task::yield_now().await;
            let _ = sender.send(());
        });
        receiver.await.unwrap();
        tasks.shutdown().await;
    }
}
