//! Files and tar streams, as the guest's agent serves them.

use crate::{
    GuestClient,
    call::{Call, Step},
    error::ClientError,
    shared::wrong_reply,
};
use bytes::Bytes;
use omnirun_guest_proto::message::{Empty, FilePath, FileRead, FileWrite, Op, Outcome};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Read from the caller at once.
const PIECE: usize = 64 * 1024;

/// Bytes that come out of a guest. Dropping it stops the guest.
#[derive(Debug)]
pub struct FileStream {
    call: Call,
    over: bool,
}

impl FileStream {
    /// The next bytes; `None` at the end, which is reached only if the guest could read all of it. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.over {
            return Ok(None);
        }
        match self.call.next().await? {
            Step::Data(_, bytes) => Ok(Some(bytes)),
            Step::End(Outcome::Done(Empty {})) => {
                self.over = true;
                Ok(None)
            }
            Step::End(_) => Err(wrong_reply()),
        }
    }

    /// Copies all that is left and says how many bytes that was.
    ///
    /// # Errors
    /// [`ClientError`]; `Local` when the writer failed.
    pub async fn copy_to<W: AsyncWrite + Unpin>(mut self, writer: &mut W) -> Result<u64, ClientError> {
        let mut total = 0;
        while let Some(bytes) = self.next().await? {
            writer.write_all(&bytes).await.map_err(local)?;
            total += bytes.len() as u64;
        }
        writer.flush().await.map_err(local)?;
        Ok(total)
    }
}

fn local(error: std::io::Error) -> ClientError {
    ClientError::Local { kind: error.kind() }
}

impl GuestClient {
    /// Reads a file: `length` bytes (0: all) from `offset`.
    ///
    /// # Errors
    /// [`ClientError`]; that the file cannot be read is told by the stream.
    pub fn read_file(
        &self,
        path: impl Into<Vec<u8>>,
        offset: u64,
        length: u64,
    ) -> Result<FileStream, ClientError> {
        self.stream_out(Op::FileRead(FileRead {
            path: path.into(),
            offset,
            length,
        }))
    }

    /// Writes a file from a reader; it is there, whole, when this has succeeded, and untouched when it has not.
    /// `mode` 0: that of the file that it replaces, else 0644.
    ///
    /// # Errors
    /// [`ClientError`]; `Local` when the reader failed.
    pub async fn write_file<R: AsyncRead + Unpin>(
        &self,
        path: impl Into<Vec<u8>>,
        mode: u32,
        parents: bool,
        reader: &mut R,
    ) -> Result<u64, ClientError> {
        self.stream_in(
            Op::FileWrite(FileWrite {
                path: path.into(),
                mode,
                parents,
            }),
            reader,
        )
        .await
    }

    /// Unpacks a tar stream below a directory, which is made if it is missing.
    ///
    /// # Errors
    /// [`ClientError`]; `Local` when the reader failed.
    pub async fn tar_in<R: AsyncRead + Unpin>(
        &self,
        directory: impl Into<Vec<u8>>,
        reader: &mut R,
    ) -> Result<u64, ClientError> {
        self.stream_in(
            Op::TarIn(FilePath {
                path: directory.into(),
            }),
            reader,
        )
        .await
    }

    /// Packs a file or directory as a tar stream. Its content is guest data: check every path before unpacking it.
    ///
    /// # Errors
    /// [`ClientError`]; that it cannot be packed is told by the stream.
    pub fn tar_out(&self, path: impl Into<Vec<u8>>) -> Result<FileStream, ClientError> {
        self.stream_out(Op::TarOut(FilePath { path: path.into() }))
    }

    fn stream_out(&self, op: Op) -> Result<FileStream, ClientError> {
        Ok(FileStream {
            call: Call::open(self.handle.clone(), op)?,
            over: false,
        })
    }

    async fn stream_in<R: AsyncRead + Unpin>(&self, op: Op, reader: &mut R) -> Result<u64, ClientError> {
        let call = Call::open(self.handle.clone(), op)?;
        let input = call.input();
        let mut buffer = vec![0; PIECE];
        let mut total = 0;
        loop {
            // Dropping `call` on an error here cancels it: the guest drops what it has.
            let length = reader.read(&mut buffer).await.map_err(local)?;
            if length == 0 {
                input.close();
                break;
            }
            if !input.write(&buffer[..length]).await? {
                break;
            }
            total += length as u64;
        }
        match call.outcome().await? {
            Outcome::Done(Empty {}) => Ok(total),
            _ => Err(wrong_reply()),
        }
    }
}
