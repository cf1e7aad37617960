//! Bodies on their way through: counted, bounded, cut when the flow is.

use super::super::{flow::Flow, meter::Way};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use omnirun_egress_policy::Reason;
use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    task::coop::consume_budget,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Bytes that are asked for at a time, when only so many a second may go.
const STEP: u64 = 64 << 10;

/// What a piece takes of the budget of its lane.
const SHARE: usize = 4;

/// A body that is broken off.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(in super::super) enum BrokenOff {
    /// The policy does not allow it any more.
    #[error("the policy has changed")]
    Cut,
    /// No bytes are left to it.
    #[error("no bytes are left by the policy")]
    Spent,
    /// Nothing moved for too long.
    #[error("nothing moved for too long")]
    Idle,
    /// The other side broke off.
    #[error("the other side broke off")]
    Broken,
}

/// See the module.
pub(in super::super) struct Metered {
    inner: Incoming,
    way: Way,
    flow: Arc<Flow>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Pin<Box<Sleep>>,
    idle_after: Duration,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    pub(in super::super) fn new(inner: Incoming, way: Way, flow: Arc<Flow>) -> Self {
        let idle_after = Duration::from_secs(flow.guest().caps.idle_seconds.into());
        Self {
            inner,
            way,
            cut: Box::pin(flow.cut_token().cancelled_owned()),
            idle: Box::pin(sleep(idle_after)),
            idle_after,
            wait: None,
            flow,
        }
    }

    /// Waits until a byte may go.
    fn poll_may(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match self.flow.ask(self.way, STEP) {
                Ok(Ok(_)) => return Poll::Ready(Ok(())),
                Ok(Err(wait)) => self.wait = Some(Box::pin(sleep(wait))),
                Err(_) => {
                    self.flow.note(Reason::Limit);
                    return Poll::Ready(Err(BrokenOff::Spent));
                }
            }
        }
    }

    /// Counts what goes, and lets go no more than may.
    fn count(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return trailers,
        };
        if let Some(left) = self.flow.left(self.way) {
            // Whoever reads on is told that nothing is left.
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.flow.spend(self.way, data.len() as u64);
        Frame::data(data)
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BrokenOff::Cut)));
        }
        if let Err(broken) = ready!(this.poll_may(cx)) {
            return Poll::Ready(Some(Err(broken)));
        }
        // As much as a step of a relay of this size.
        for _ in 0..SHARE {
            ready!(pin!(consume_budget()).poll(cx));
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.as_mut().reset(Instant::now() + this.idle_after);
                Poll::Ready(Some(Ok(this.count(frame))))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BrokenOff::Broken))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(this.idle.as_mut().poll(cx));
                this.flow.note(Reason::TimedOut);
                Poll::Ready(Some(Err(BrokenOff::Idle)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
