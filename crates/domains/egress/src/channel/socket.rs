//! The socket.

use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};
use tokio::{io::Interest, net::UnixDatagram};

/// At most so many bytes in a message. Several of them fit into a socket's buffer of the usual 208 KiB.
pub(crate) const MAX_MESSAGE: usize = 32 << 10;
/// At most so many descriptors with a message: four sockets and a blob.
pub(crate) const MAX_DESCRIPTORS: usize = 5;

/// One end. For the runtime it is a datagram socket: it is only ever asked when the socket is ready.
#[derive(Debug)]
pub(crate) struct Channel(UnixDatagram);

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Both ends of a new channel.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

impl Channel {
    /// Takes an end. Only inside a runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        UnixDatagram::from_std(socket.into()).map(Self)
    }

    /// Sends a message, whole or not at all. Cancel-safe.
    pub(crate) async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.0
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let flags = SendFlags::NOSIGNAL;
                rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)?;
                Ok(())
            })
            .await
    }

    /// The next message; nothing when the other end is gone. Cancel-safe.
    pub(crate) async fn receive(&self) -> io::Result<Option<Received>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let (length, descriptors) = self
            .0
            .async_io(Interest::READABLE, || receive(&self.0, &mut bytes))
            .await?;
        bytes.truncate(length);
        // A message has bytes, so none is the end.
        Ok((length > 0).then_some(Received { bytes, descriptors }))
    }
}

fn receive(socket: &UnixDatagram, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = match rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        // The other end died with something unread of ours.
        Err(rustix::io::Errno::CONNRESET) => return Ok((0, Vec::new())),
        got => got?,
    };
    // Owned at once, so that those of a bad message are closed too.
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is longer than may be",
        ));
    }
    Ok((got.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn messages_stay_whole_and_descriptors_stay_with_them() {
        let (one, other) = pair().unwrap();
        let (one, other) = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        let sent = tempfile::tempfile().unwrap();
        one.send(b"first", &[]).await.unwrap();
        one.send(b"second", &[sent.as_fd(); MAX_DESCRIPTORS])
            .await
            .unwrap();
        let first = other.receive().await.unwrap().unwrap();
        assert_eq!((&*first.bytes, first.descriptors.len()), (&b"first"[..], 0));
        let second = other.receive().await.unwrap().unwrap();
        assert_eq!(
            (&*second.bytes, second.descriptors.len()),
            (&b"second"[..], MAX_DESCRIPTORS)
        );
        let inode = |fd: &dyn Fn() -> rustix::fs::Stat| fd().st_ino;
        assert_eq!(
            inode(&|| rustix::fs::fstat(&second.descriptors[4]).unwrap()),
            inode(&|| rustix::fs::fstat(&sent).unwrap())
        );
        drop(one);
        assert!(other.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_sent_and_not_taken() {
        let (one, other) = pair().unwrap();
        let long = vec![b' '; MAX_MESSAGE + 1];
        rustix::net::send(&one, &long, SendFlags::empty()).unwrap();
        let (one, other) = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        assert_eq!(
            other.receive().await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert!(one.send(&long, &[]).await.is_err());
        assert!(one.send(b"", &[]).await.is_err());
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let (one, other) = pair().unwrap();
        let (one, other) = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        let message = vec![b'x'; MAX_MESSAGE];
        let sender = tokio::spawn(async move {
            for _ in 0..50 {
                one.send(&message, &[]).await.unwrap();
            }
        });
        for _ in 0..50 {
            assert_eq!(other.receive().await.unwrap().unwrap().bytes.len(), MAX_MESSAGE);
        }
        sender.await.unwrap();
        assert!(other.receive().await.unwrap().is_none());
    }
}
