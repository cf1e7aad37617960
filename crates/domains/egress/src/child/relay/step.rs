//! One step of one way.

use super::{
    super::flow::Flow,
    pipes::{self, Pipe, Pipes},
};
use rustix::pipe::{SpliceFlags, splice};
use std::{io, os::fd::AsFd};
use tokio::{io::Interest, net::TcpStream};

/// At most so many bytes go in a step.
pub(super) const MOST: u64 = pipes::SIZE as u64;
/// So many where they are copied.
const COPIED: usize = 16 << 10;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stepped {
    /// Moved bytes.
    Moved(usize),
    /// There was nothing to read after all.
    Nothing,
    /// There will be no more.
    Ended,
}

/// A pipe on loan.
struct Lent<'a> {
    pipes: &'a Pipes,
    pipe: Option<Pipe>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // What is left in it belongs to nobody else.
        if self.pipe.take().is_some() {
            self.pipes.lost();
        }
    }
}

/// Reads what there is and sends it on.
pub(super) async fn step(flow: &Flow, from: &TcpStream, to: &TcpStream, most: usize) -> io::Result<Stepped> {
    let guest = flow.guest();
    let pipes = &guest.process.pipes;
    let lent = Lent {
        pipes,
        pipe: pipes.take(),
    };
    match &lent.pipe {
        Some(pipe) => {
            let got = from.try_io(Interest::READABLE, || {
                Ok(splice(
                    from,
                    None,
                    &pipe.writer,
                    None,
                    most.min(pipe.size),
                    SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
                )?)
            });
            let stepped = match count(got)? {
                Stepped::Moved(count) => {
                    let mut left = count;
                    send(to, |to| {
                        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                        left -= splice(&pipe.reader, None, to.as_fd(), None, left, flags)?;
                        Ok(left == 0)
                    })
                    .await?;
                    Stepped::Moved(count)
                }
                other => other,
            };
            give_back(lent);
            Ok(stepped)
        }
        None => {
            let mut buffer = vec![0; COPIED.min(most)];
            let stepped = count(from.try_read(&mut buffer))?;
            if let Stepped::Moved(count) = stepped {
                let mut rest = &buffer[..count];
                send(to, |to| {
                    let sent = rustix::net::send(to, rest, rustix::net::SendFlags::NOSIGNAL)?;
                    rest = &rest[sent..];
                    Ok(rest.is_empty())
                })
                .await?;
            }
            Ok(stepped)
        }
    }
}

fn give_back(mut lent: Lent<'_>) {
    if let Some(pipe) = lent.pipe.take() {
        lent.pipes.give_back(pipe);
    }
}

fn count(got: io::Result<usize>) -> io::Result<Stepped> {
    match got {
        Ok(0) => Ok(Stepped::Ended),
        Ok(count) => Ok(Stepped::Moved(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Stepped::Nothing),
        Err(error) => Err(error),
    }
}

/// Calls `some` whenever the receiver can take more, until it has all.
async fn send(to: &TcpStream, mut some: impl FnMut(&TcpStream) -> io::Result<bool>) -> io::Result<()> {
    loop {
        match to.try_io(Interest::WRITABLE, || some(to)) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                to.writable().await?;
            }
            Err(error) => return Err(error),
        }
    }
}
