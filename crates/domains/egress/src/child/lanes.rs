//! Where a guest's tasks run: in a few tasks of the runtime, however many connections it has.
//!
//! Given a task of the runtime each, a thousand busy connections of one guest would stand in the runtime's queue a thousand
//! times, and another guest's single one would wait for all of them whenever it is woken. So a guest has as many lanes as
//! half the threads there are, and all that it does runs in them, in turns: a lane stands in the queue once, and leaves
//! its thread after a few hundred microseconds (the budget that tokio gives a task, of which a step of
//! [`super::relay`] takes a share by its size). With two threads, one guest keeps one of them busy at most.

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, coop},
};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    // As many as there are connections and what belongs to them, which are counted elsewhere.
    lanes: Vec<mpsc::UnboundedSender<Work>>,
    next: AtomicUsize,
}

impl Lanes {
    /// So many, run by these tasks.
    pub(super) fn new(count: usize, tasks: &mut JoinSet<()>) -> Self {
        let lane = |_| {
            let (sender, work) = mpsc::unbounded_channel();
            tasks.spawn(run(work));
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

async fn run(mut work: mpsc::UnboundedReceiver<Work>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Both lose nothing when the other is first.
            more = work.recv() => match more {
                // A panic ends what panicked, and is told of by the process's hook.
                Some(more) => running.push(Sliced(Box::pin(AssertUnwindSafe(more).catch_unwind().map(drop)))),
                None => return,
            },
            Some(()) = running.next() => {}
        }
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
        let lanes = Lanes::new(1, &mut tasks);
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

    #[tokio::test]
    async fn a_panic_is_nobody_elses() {
        let mut tasks = JoinSet::new();
        let lanes = Lanes::new(1, &mut tasks);
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
