//! One call, from its request to its reply.

use crate::{
    client::Handle,
    error::ClientError,
    shared::{self, Waiting},
};
use bytes::{Bytes, BytesMut};
use omnirun_guest_proto::{
    frame::Channel,
    message::{Op, Outcome, Request},
};
use std::sync::Arc;
use tokio::sync::Notify;

/// An open call. Dropping it cancels it in the guest.
#[derive(Debug)]
pub(crate) struct Call {
    handle: Arc<Handle>,
    pub(crate) id: u32,
    wake: Arc<Notify>,
    room: Arc<Notify>,
}

/// What a call has for its caller.
pub(crate) enum Step {
    Data(Channel, Bytes),
    End(Outcome),
}

impl Call {
    pub(crate) fn open(handle: Arc<Handle>, op: Op) -> Result<Self, ClientError> {
        let opened = handle.shared.open(&Request { op: Some(op) })?;
        Ok(Self {
            handle,
            id: opened.call,
            wake: opened.wake,
            room: opened.room,
        })
    }

    /// The next data, or the outcome when all data has been taken; [`ClientError::Closed`] after that. Cancel-safe. What
    /// it hands out is granted anew.
    pub(crate) async fn next(&mut self) -> Result<Step, ClientError> {
        loop {
            if let Some(step) = self.try_next()? {
                return Ok(step);
            }
            // One waiter per call, and `Notify` keeps a permit: what came in between is not missed.
            self.wake.notified().await;
        }
    }

    fn try_next(&mut self) -> Result<Option<Step>, ClientError> {
        let mut state = self.handle.shared.lock();
        let Some(waiting) = state.waiting.get_mut(&self.id) else {
            return Err(ClientError::Closed);
        };
        if let Some((channel, bytes)) = take_data(waiting) {
            state.end.grant(self.id, channel, bytes.len());
            drop(state);
            self.handle.shared.write.notify_one();
            return Ok(Some(Step::Data(channel, bytes.freeze())));
        }
        if let Some(reply) = waiting.reply.take() {
            // Who asks again after the end is not kept waiting.
            state.forget(self.id);
            return shared::outcome(reply).map(|outcome| Some(Step::End(outcome)));
        }
        match &state.over {
            Some(over) => Err(over.clone()),
            None => Ok(None),
        }
    }

    /// The outcome; data on the way is dropped.
    pub(crate) async fn outcome(mut self) -> Result<Outcome, ClientError> {
        loop {
            if let Step::End(outcome) = self.next().await? {
                return Ok(outcome);
            }
        }
    }

    pub(crate) fn input(&self) -> Input {
        Input {
            handle: self.handle.clone(),
            call: self.id,
            room: self.room.clone(),
        }
    }

    pub(crate) fn cancel(&self) {
        let mut state = self.handle.shared.lock();
        state.end.cancel(self.id);
        drop(state);
        self.handle.shared.write.notify_one();
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

fn take_data(waiting: &mut Waiting) -> Option<(Channel, BytesMut)> {
    let error = !waiting.error.is_empty() && (waiting.error_first || waiting.output.is_empty());
    waiting.error_first = false;
    match (error, waiting.output.is_empty()) {
        (true, _) => Some((Channel::Error, std::mem::take(&mut waiting.error))),
        (false, false) => Some((Channel::Output, std::mem::take(&mut waiting.output))),
        (false, true) => None,
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.handle.shared.abandon(self.id);
    }
}

/// The input channel of a call.
#[derive(Debug)]
pub(crate) struct Input {
    handle: Arc<Handle>,
    call: u32,
    room: Arc<Notify>,
}

impl Input {
    /// Writes as much as the guest takes now; 0 when it takes no more for now.
    fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>, ClientError> {
        let mut state = self.handle.shared.lock();
        if let Some(over) = &state.over {
            return Err(over.clone());
        }
        if !state.end.is_open(self.call) {
            return Ok(None);
        }
        let written = state.end.send(self.call, bytes);
        drop(state);
        if written > 0 {
            self.handle.shared.write.notify_one();
        }
        Ok(Some(written))
    }

    /// Writes all of it, waiting for the guest to take it. `false`: the call is over and does not want it.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> Result<bool, ClientError> {
        while !bytes.is_empty() {
            match self.try_write(bytes)? {
                None => return Ok(false),
                Some(0) => self.room.notified().await,
                Some(written) => bytes = &bytes[written..],
            }
        }
        Ok(true)
    }

    pub(crate) fn close(&self) {
        self.handle.shared.lock().end.end_input(self.call);
        self.handle.shared.write.notify_one();
    }
}
