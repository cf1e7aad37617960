//! The client: one method for each operation of the agent.

use crate::{
    call::Call,
    connection,
    error::ClientError,
    exec::ExecHandle,
    shared::{Shared, wrong_reply},
};
use omnirun_guest_proto::message::{
    Claim, Claimed, Empty, Exec, FileList, FileMkdir, FilePath, FileRemove, FileRename, FileStat, Op,
    Outcome, Pong, Tool, ToolResult, Wake,
};
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// Ends the connection when the last client, exec and stream is gone.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.finish(ClientError::Closed);
        self.shared.write.notify_one();
    }
}

/// A connection to a guest agent. Clones share it; it closes when the last of them, and of the handles that they gave out,
/// is dropped.
#[derive(Debug, Clone)]
pub struct GuestClient {
    pub(crate) handle: Arc<Handle>,
}

impl GuestClient {
    /// Exchanges prefaces on a stream that is connected to a guest, within `timeout`, and starts the task that serves it.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], [`ClientError::Closed`] or [`ClientError::Protocol`].
    pub async fn connect<S>(mut stream: S, timeout: Duration) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let greeted = tokio::time::timeout(timeout, connection::greet(&mut stream)).await;
        let shared = Shared::new(greeted.map_err(|_| ClientError::Timeout)??);
        // What came behind the preface, if anything, is of this connection.
        shared.receive(&[])?;
        // The task ends when the stream does, or with the last handle; nobody needs to join it.
        tokio::spawn(connection::serve(stream, shared.clone()));
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    async fn ask(&self, op: Op) -> Result<Outcome, ClientError> {
        Call::open(self.handle.clone(), op)?.outcome().await
    }

    async fn done(&self, op: Op) -> Result<(), ClientError> {
        match self.ask(op).await? {
            Outcome::Done(Empty {}) => Ok(()),
            _ => Err(wrong_reply()),
        }
    }

    /// Asks whether the agent is there. Before a wake the boot id is empty: nothing may have been drawn then.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ping(&self) -> Result<Pong, ClientError> {
        match self.ask(Op::Ping(Empty {})).await? {
            Outcome::Pong(pong) => Ok(pong),
            _ => Err(wrong_reply()),
        }
    }

    /// First stage of waking. If it fails, the clone is of no use: the agent refuses all else.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wake(&self, wake: Wake) -> Result<(), ClientError> {
        self.done(Op::Wake(wake)).await
    }

    /// Second stage of waking.
    ///
    /// # Errors
    /// [`ClientError`]; `Guest` with `ErrorKind::Disk` when the session disk cannot be mounted.
    pub async fn claim(&self, claim: Claim) -> Result<Claimed, ClientError> {
        match self.ask(Op::Claim(claim)).await? {
            Outcome::Claimed(claimed) => Ok(claimed),
            _ => Err(wrong_reply()),
        }
    }

    /// Before a snapshot: runs the paths that calls will need.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn warm(&self) -> Result<(), ClientError> {
        self.done(Op::Warm(Empty {})).await
    }

    /// Runs a tool.
    ///
    /// # Errors
    /// [`ClientError`]; what the tool itself has to complain about is in the result.
    pub async fn tool(&self, tool: Tool) -> Result<ToolResult, ClientError> {
        self.start_tool(tool)?.wait().await
    }

    /// Starts a tool: its request is on its way when this returns, so that a claim before it costs no round trip.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn start_tool(&self, tool: Tool) -> Result<ToolHandle, ClientError> {
        Ok(ToolHandle {
            call: Call::open(self.handle.clone(), Op::Tool(tool))?,
        })
    }

    /// Starts a process: its request is on its way when this returns, not its answer.
    ///
    /// # Errors
    /// [`ClientError`]; that the process could not be started is told by [`ExecHandle::wait`].
    #[allow(clippy::unused_async)]
    pub async fn exec(&self, exec: Exec) -> Result<ExecHandle, ClientError> {
        Ok(ExecHandle::new(Call::open(self.handle.clone(), Op::Exec(exec))?))
    }

    /// Wakes, claims and starts a process in one write: a fresh clone needs to be scheduled once.
    ///
    /// # Errors
    /// Of the first step that failed.
    pub async fn wake_claim_exec(
        &self,
        wake: Wake,
        claim: Claim,
        exec: Exec,
    ) -> Result<(Claimed, ExecHandle), ClientError> {
        let wake = Call::open(self.handle.clone(), Op::Wake(wake))?;
        let claim = Call::open(self.handle.clone(), Op::Claim(claim))?;
        let exec = ExecHandle::new(Call::open(self.handle.clone(), Op::Exec(exec))?);
        let Outcome::Done(_) = wake.outcome().await? else {
            return Err(wrong_reply());
        };
        let Outcome::Claimed(claimed) = claim.outcome().await? else {
            return Err(wrong_reply());
        };
        Ok((claimed, exec))
    }

    /// Claims and starts a tool in one write.
    ///
    /// # Errors
    /// Of the first step that failed.
    pub async fn claim_tool(&self, claim: Claim, tool: Tool) -> Result<(Claimed, ToolHandle), ClientError> {
        let claim = Call::open(self.handle.clone(), Op::Claim(claim))?;
        let tool = self.start_tool(tool)?;
        let Outcome::Claimed(claimed) = claim.outcome().await? else {
            return Err(wrong_reply());
        };
        Ok((claimed, tool))
    }

    /// Stat of a path; a symbolic link is not followed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stat(&self, path: impl Into<Vec<u8>>) -> Result<FileStat, ClientError> {
        match self.ask(Op::FileStat(FilePath { path: path.into() })).await? {
            Outcome::Stat(stat) => Ok(stat),
            _ => Err(wrong_reply()),
        }
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, path: impl Into<Vec<u8>>) -> Result<FileList, ClientError> {
        match self.ask(Op::FileList(FilePath { path: path.into() })).await? {
            Outcome::List(list) => Ok(list),
            _ => Err(wrong_reply()),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn mkdir(&self, path: impl Into<Vec<u8>>, parents: bool) -> Result<(), ClientError> {
        self.done(Op::FileMkdir(FileMkdir {
            path: path.into(),
            parents,
        }))
        .await
    }

    /// Renames a path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rename(&self, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> Result<(), ClientError> {
        self.done(Op::FileRename(FileRename {
            from: from.into(),
            to: to.into(),
        }))
        .await
    }

    /// Removes a path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, path: impl Into<Vec<u8>>, recursive: bool) -> Result<(), ClientError> {
        self.done(Op::FileRemove(FileRemove {
            path: path.into(),
            recursive,
        }))
        .await
    }

    /// Has what was written to the session disk reach it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sync(&self) -> Result<(), ClientError> {
        self.done(Op::Sync(Empty {})).await
    }

    /// Ends every process, syncs, and powers the VM off. That the connection closes before the answer is no error.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        match self.done(Op::Shutdown(Empty {})).await {
            Err(ClientError::Closed) => Ok(()),
            other => other,
        }
    }

    /// Waits for the end of the connection. Cancel-safe.
    pub async fn closed(&self) {
        // The sender lives as long as `self`, so the only outcome is the value.
        let _ = self
            .handle
            .shared
            .closed
            .subscribe()
            .wait_for(|closed| *closed)
            .await;
    }

    /// Why the connection is over, if it is.
    pub fn error(&self) -> Option<ClientError> {
        self.handle.shared.lock().over.clone()
    }
}

/// A tool that is running. Dropping it cancels it.
#[derive(Debug)]
pub struct ToolHandle {
    call: Call,
}

impl ToolHandle {
    /// Ends the tool; its result, with the partial output, is still to be [waited](ToolHandle::wait) for.
    pub fn cancel(&self) {
        self.call.cancel();
    }

    /// Waits for the result. Cancel-safe with [`ToolHandle::result`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wait(mut self) -> Result<ToolResult, ClientError> {
        self.result().await
    }

    /// Waits for the result, which comes once. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn result(&mut self) -> Result<ToolResult, ClientError> {
        loop {
            match self.call.next().await? {
                crate::call::Step::Data(..) => {}
                crate::call::Step::End(Outcome::Tool(result)) => return Ok(result),
                crate::call::Step::End(_) => return Err(wrong_reply()),
            }
        }
    }
}
