//! Where a guest's tasks run: in a few tasks of the runtime, however many connections it has.
//!
//! Given a task of the runtime each, a thousand busy connections of one guest would stand in the runtime's queue a thousand
//! times, and another guest's single one would wait for all of them whenever it is woken. So a guest has as many lanes as
//! half the threads there are, and all that it does runs in them, in turns: a lane stands in the queue once, and leaves
//! its thread after a few hundred microseconds (the budget that tokio gives a task, of which a step of
//! [`super::relay`] takes a share by its size). With two threads, one guest keeps one of them busy at most.
//!
//! While a guest has many tasks under way, its lanes run on threads of their own, which give way to all others (nice(2)).
//! Else the scheduler would count what the threads do for a crowd against every guest that they serve: whoever comes next
//! waits until somebody else has had as much. (`examples/proxy_bench.rs`, "fairness".)

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinSet, coop},
};

/// More than a program has that fetches something. (A connection is some two.)
const MANY: usize = 32;
/// And so few that it is no crowd any more.
const FEW: usize = MANY / 2;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    // As many as there are connections and what belongs to them, which are counted elsewhere.
    lanes: Vec<mpsc::UnboundedSender<Work>>,
    next: AtomicUsize,
    /// What is under way in all of them.
    running: Arc<AtomicUsize>,
}

impl Lanes {
    /// So many of a guest's, run by these tasks, and on the threads of `crowd` while there is much to run.
    pub(super) fn new(count: usize, crowd: &Handle, tasks: &mut JoinSet<()>) -> Self {
        let running = Arc::new(AtomicUsize::new(0));
        let lane = |_| {
            let (sender, work) = mpsc::unbounded_channel();
            let lane = Lane {
                work,
                here: FuturesUnordered::new(),
                running: Arc::clone(&running),
            };
            tasks.spawn(lane.run(crowd.clone()));
            sender
        };
        Self {
            lanes: (0..count).map(lane).collect(),
            next: AtomicUsize::new(0),
            running,
        }
    }

    /// Runs something in one of them. It ends with the guest, at the latest.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let lane = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len().max(1);
        if let Some(lane) = self.lanes.get(lane) {
            self.running.fetch_add(1, Ordering::Relaxed);
            // Gone only when the guest is being let go, and this with it.
            let _ = lane.send(Box::pin(work));
        }
    }
}

struct Lane {
    work: mpsc::UnboundedReceiver<Work>,
    here: FuturesUnordered<Sliced>,
    running: Arc<AtomicUsize>,
}

/// Why a lane stops for now.
enum Stop {
    /// There will be no more work.
    Over,
    /// It is to go on on other threads.
    Elsewhere,
}

impl Lane {
    async fn run(mut self, crowd: Handle) {
        while let Stop::Elsewhere = self.turns(|running| running >= MANY).await {
            // Ends with this task.
            let mut there = JoinSet::new();
            let lane = async move {
                let stop = self.turns(|running| running < FEW).await;
                (self, stop)
            };
            there.spawn_on(lane, &crowd);
            match there.join_next().await {
                Some(Ok((lane, Stop::Elsewhere))) => self = lane,
                _ => return,
            }
        }
    }

    /// Turns, until so much runs that it is to be elsewhere.
    async fn turns(&mut self, elsewhere: fn(usize) -> bool) -> Stop {
        poll_fn(|cx| {
            if self.turn(cx).is_ready() {
                return Poll::Ready(Stop::Over);
            }
            match elsewhere(self.running.load(Ordering::Relaxed)) {
                true => Poll::Ready(Stop::Elsewhere),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Ready when there will be no more work.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(more) = self.work.poll_recv(cx) {
            let Some(more) = more else {
                return Poll::Ready(());
            };
            // A panic ends what panicked, and is told of by the process's hook.
            let guarded = AssertUnwindSafe(more).catch_unwind().map(drop);
            self.here.push(Sliced(Box::pin(guarded)));
        }
        while let Poll::Ready(Some(())) = self.here.poll_next_unpin(cx) {
            self.running.fetch_sub(1, Ordering::Relaxed);
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
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    };
    use tokio::sync::watch;

    #[tokio::test]
    async fn what_is_busy_gives_way() {
        let mut tasks = JoinSet::new();
        let lanes = Lanes::new(1, &Handle::current(), &mut tasks);
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

    #[test]
    fn a_crowd_runs_on_threads_of_its_own() {
        let threads = |name: &str| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).thread_name(name).build().unwrap()
        };
        let (main, crowd) = (threads("main"), threads("crowd"));
        let _main = main.enter();
        let mut tasks = JoinSet::new();
        let lanes = Lanes::new(2, crowd.handle(), &mut tasks);
        let (tell, told) = std::sync::mpsc::channel();
        // Says where it runs, and again whenever it is asked; ends when nobody can ask it any more.
        let run = |n: usize, asked: &watch::Receiver<()>| {
            let (mut asked, tell) = (asked.clone(), tell.clone());
            lanes.spawn(async move {
                loop {
                    let _ = tell.send((n, std::thread::current().name().map(str::to_owned)));
                    if asked.changed().await.is_err() {
                        return;
                    }
                }
            });
        };
        let comes_to = |n: usize, thread: &str, ask: &watch::Sender<()>| {
            while told.recv().unwrap() != (n, Some(thread.to_owned())) {
                ask.send_replace(());
            }
        };
        let (ask, asked) = watch::channel(());
        for n in 0..MANY - 1 {
            run(n, &asked);
            assert_eq!(told.recv().unwrap(), (n, Some("main".to_owned())));
        }
        // With the last one all go, those that were there before included.
        run(MANY - 1, &asked);
        for n in 0..MANY {
            ask.send_replace(());
            comes_to(n, "crowd", &ask);
        }
        drop((ask, asked));
        let (ask, asked) = watch::channel(());
        run(MANY, &asked);
        comes_to(MANY, "main", &ask);
    }

    #[tokio::test]
    async fn a_panic_is_nobody_elses() {
        let mut tasks = JoinSet::new();
        let lanes = Lanes::new(1, &Handle::current(), &mut tasks);
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
