//! A process that runs in a guest.

use crate::{
    call::{Call, Input, Step},
    error::ClientError,
    shared::wrong_reply,
};
use bytes::Bytes;
use omnirun_guest_proto::{
    frame::Channel,
    message::{Exited, Op, Outcome, Signal},
};

/// Output of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Of its standard output.
    Stdout(Bytes),
    /// Of its standard error.
    Stderr(Bytes),
}

/// A process. Dropping it kills the process group.
#[derive(Debug)]
pub struct ExecHandle {
    call: Call,
    input: Option<ExecInput>,
    ended: Option<Result<Exited, ClientError>>,
}

impl ExecHandle {
    pub(crate) fn new(call: Call) -> Self {
        let input = Some(ExecInput {
            input: call.input(),
            closed: false,
        });
        Self {
            call,
            input,
            ended: None,
        }
    }

    /// The number of the call, unique on this connection.
    pub fn call_id(&self) -> u32 {
        self.call.id
    }

    /// Its standard input, once. Only a process that was started with `stdin` reads it.
    pub fn stdin(&mut self) -> Option<ExecInput> {
        self.input.take()
    }

    /// The next output; `None` when the process is gone and all has been taken. Taking it lets the guest send more.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        if self.ended.is_some() {
            return None;
        }
        match self.call.next().await {
            Ok(Step::Data(Channel::Error, bytes)) => return Some(ExecEvent::Stderr(bytes)),
            Ok(Step::Data(_, bytes)) => return Some(ExecEvent::Stdout(bytes)),
            Ok(Step::End(Outcome::Exited(exited))) => self.ended = Some(Ok(exited)),
            Ok(Step::End(_)) => self.ended = Some(Err(wrong_reply())),
            Err(error) => self.ended = Some(Err(error)),
        }
        None
    }

    /// Waits for the end; output that has not been taken is dropped. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError`]; `Guest` when the process could not be started.
    pub async fn wait(&mut self) -> Result<Exited, ClientError> {
        loop {
            if let Some(ended) = &self.ended {
                return ended.clone();
            }
            let _ = self.next().await;
        }
    }

    /// Sends a signal to the process group.
    ///
    /// # Errors
    /// [`ClientError`]; `NotFound` when it is gone.
    pub async fn signal(&self, signal: i32) -> Result<(), ClientError> {
        let signal = Op::Signal(Signal {
            call: self.call.id,
            signal,
        });
        match Call::open(self.call.handle().clone(), signal)?.outcome().await? {
            Outcome::Done(_) => Ok(()),
            _ => Err(wrong_reply()),
        }
    }

    /// Kills the process group. Its end is still to be waited for.
    pub fn cancel(&self) {
        self.call.cancel();
    }
}

/// The standard input of a process. Dropping it closes it.
#[derive(Debug)]
pub struct ExecInput {
    input: Input,
    closed: bool,
}

impl ExecInput {
    /// Writes all of it, as fast as the process reads. `false`: the process is gone. Not cancel-safe: a part may have
    /// been written.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<bool, ClientError> {
        self.input.write(bytes).await
    }

    /// The process reads the end.
    pub fn close(mut self) {
        self.closed = true;
        self.input.close();
    }
}

impl Drop for ExecInput {
    fn drop(&mut self) {
        if !self.closed {
            self.input.close();
        }
    }
}
