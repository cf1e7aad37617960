//! A clone that waits to be wanted: its process is started (with Firecracker, in its jail) and has everything but the
//! snapshot loaded, so that whoever wants a clone pays for the load and what follows alone.
//!
//! It has an owner task and a row like every other clone, and goes the same way.

use crate::{
    owner::{Order, ask_end},
    sandbox::Shared,
    snapshot::Template,
};
use omnirun_vm_machine::Why;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The handle of one. Dropping it ends the clone, in the background.
pub(crate) struct Waiting {
    template: Arc<Template>,
    held: Option<(Shared, oneshot::Sender<Box<Order>>)>,
}

impl Waiting {
    pub(crate) fn new(template: Arc<Template>, shared: Shared, give: oneshot::Sender<Box<Order>>) -> Self {
        Self {
            template,
            held: Some((shared, give)),
        }
    }

    /// Whether it can become a clone of this very snapshot: one that was made anew has the same name.
    pub(crate) fn serves(&self, template: &Arc<Template>) -> bool {
        let lives = |(shared, _): &(Shared, _)| shared.state.borrow().why().is_none();
        Arc::ptr_eq(&self.template, template) && self.held.as_ref().is_some_and(lives)
    }

    /// Tells it what to become. The order comes back if it has ended.
    pub(crate) fn give(mut self, order: Box<Order>) -> Result<Shared, Box<Order>> {
        match self.held.take() {
            Some((shared, give)) => give.send(order).map(|()| shared),
            None => Err(order),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((shared, _)) = &self.held {
            ask_end(&shared.end, Why::Surplus);
        }
    }
}
