//! Talking to the kernel about links, addresses, routes and sets.
//!
//! A netlink socket belongs to the namespace in which it was opened, whoever uses it later: so a sandbox's sets can be
//! changed from any thread, through a socket that was opened inside when the namespace was made.
//!
//! ```text
//!   mod      the socket: a request, its acknowledgement, a dump
//!   links    links, addresses, routes, neighbours, as messages
//!   sets     elements of nftables sets, added and removed in one transaction
//! ```

pub(crate) mod links;
pub(crate) mod sets;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
    sockopt::set_socket_send_buffer_size_force,
};

/// Larger than any message that the kernel sends at once (it fills at most 32 KiB in a dump).
const BUFFER: usize = 64 << 10;
/// The type of an error or acknowledgement, in native byte order.
const NLMSG_ERROR: [u8; 2] = 2_u16.to_ne_bytes();
/// What surely fits a socket's buffer, also where an administrator has made those smaller.
const SENT_AT_ONCE: usize = 64 << 10;
/// The group of those who are told about routes.
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
/// Length of a netlink header.
const HEADER: usize = 16;

/// A socket to one part of the kernel, of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// To links, addresses and routes of the calling thread's namespace.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// To the packet filter of the calling thread's namespace.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    /// To news about the routes of the calling thread's namespace ([`news`]); non-blocking.
    pub(crate) fn route_news() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_IPV4_ROUTE))?;
        Ok(socket)
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // Connected to the kernel: nobody else's messages are taken.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// Sends one request about links and so on, and takes its acknowledgement.
    pub(crate) fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.next();
        self.send_route(request, NLM_F_REQUEST | NLM_F_ACK | flags, sequence)?;
        self.outcome()
    }

    /// Sends one request and gives each message of the answer to `each`. With `NLM_F_DUMP` there may be many.
    pub(crate) fn query(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let sequence = self.next();
        self.send_route(request, NLM_F_REQUEST | flags, sequence)?;
        let many = flags & NLM_F_DUMP != 0;
        loop {
            let mut rest = self.receive(RecvFlags::empty())?;
            while !rest.is_empty() {
                let (message, after) = split(rest)?;
                rest = after;
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
            if !many {
                return Ok(());
            }
        }
    }

    fn send_route(&mut self, request: RouteNetlinkMessage, flags: u16, sequence: u32) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Sends whole messages, at least one of which asks for an acknowledgement, and takes the answers.
    pub(crate) fn transaction(&mut self, messages: &[u8]) -> io::Result<()> {
        // They must fit the buffer as one; what the kernel gives a socket is enough for some thousand elements.
        if messages.len() > SENT_AT_ONCE {
            set_socket_send_buffer_size_force(&self.socket, messages.len() + SENT_AT_ONCE)?;
        }
        rustix::net::send(&self.socket, messages, SendFlags::empty())?;
        self.outcome()
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Takes all answers that there are; the first failure is the outcome. The kernel does what it is asked while it is
    /// being sent to, so all answers are there by now, and none is left to be taken for that to a later request.
    fn outcome(&mut self) -> io::Result<()> {
        let mut outcome = None;
        loop {
            let mut rest = match self.receive(RecvFlags::DONTWAIT) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            while !rest.is_empty() {
                let (message, after) = split(rest)?;
                rest = after;
                let code = message
                    .get(HEADER..)
                    .and_then(|payload| payload.first_chunk::<4>());
                if let (Some(kind), Some(code)) = (message.get(4..6), code)
                    && kind == NLMSG_ERROR
                {
                    // An acknowledgement is an error with code 0.
                    match i32::from_ne_bytes(*code) {
                        0 => outcome = outcome.or(Some(0)),
                        code => outcome = outcome.filter(|first| *first != 0).or(Some(code)),
                    }
                }
            }
        }
        match outcome {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the kernel did not answer",
            )),
        }
    }

    fn receive(&mut self, flags: RecvFlags) -> io::Result<&[u8]> {
        self.buffer.resize(BUFFER, 0);
        let (_, length) = rustix::net::recv(&self.socket, &mut self.buffer[..], flags | RecvFlags::TRUNC)?;
        self.buffer
            .get(..length)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The first message of `bytes`, and what follows it.
fn split(bytes: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let length = bytes
        .first_chunk::<4>()
        .map_or(0, |length| u32::from_ne_bytes(*length) as usize);
    if length < HEADER || length > bytes.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((
        &bytes[..length],
        &bytes[length.next_multiple_of(4).min(bytes.len())..],
    ))
}

/// Reads what [`Netlink::route_news`] has to tell, and says whether it may concern a route to anywhere.
///
/// # Errors
/// `WouldBlock`: there is nothing.
pub(crate) fn news(socket: impl AsFd) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let length = match rustix::net::recv(socket, &mut buffer[..], RecvFlags::TRUNC) {
        Ok((_, length)) => length,
        // Some news was lost.
        Err(rustix::io::Errno::NOBUFS) => return Ok(true),
        Err(e) => return Err(e.into()),
    };
    let Some(mut rest) = buffer.get(..length) else {
        return Ok(true);
    };
    while !rest.is_empty() {
        let (message, after) = split(rest)?;
        rest = after;
        // Of a `struct rtmsg`, the length of the destination's prefix.
        if message.get(HEADER + 1).is_some_and(|prefix| *prefix <= 1) {
            return Ok(true);
        }
    }
    Ok(false)
}
