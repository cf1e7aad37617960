//! The protocol between host and guest.

use crate::choice;
use omnirun_guest_proto::{
    Message,
    frame::{self, Channel, Decoder, FrameError, HEAD, Head},
    guest::{GuestEnd, GuestEvent},
    host::{HostEnd, HostEvent, Violation},
    limits::{DATA_WINDOW, MAX_FRAME_PAYLOAD, MAX_PREFACE_SKIP, MAX_REPEATED},
    message::{Empty, Exec, Op, Outcome, Reply, Request},
    preface::{self, MAGIC, PrefaceError, Scanner},
};
use std::collections::BTreeMap;

/// A frame as it came: head and payload.
type Taken = (Head, Vec<u8>);

fn take_frames(data: &[u8], step: usize) -> (Vec<Taken>, Option<FrameError>) {
    let mut decoder = Decoder::default();
    let mut taken = Vec::new();
    for piece in data.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => taken.push((frame.head, frame.payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (taken, Some(error)),
            }
        }
        assert!(decoder.pending().len() <= HEAD + MAX_FRAME_PAYLOAD + step);
    }
    (taken, None)
}

/// The frame decoder: the same frames however the stream is cut, and as they were written.
pub fn frames(data: &[u8]) {
    let (step, data) = choice(data);
    let whole = take_frames(data, data.len().max(1));
    assert_eq!(take_frames(data, step.max(1)), whole);
    let mut again = Vec::new();
    for (head, payload) in &whole.0 {
        frame::put_one(&mut again, head.call, head.kind, head.channel, payload);
    }
    assert!(data.starts_with(&again));
    // And what this end writes is read, whatever the payload.
    let mut wire = Vec::new();
    frame::put_data(&mut wire, 1, Channel::Output, data);
    assert_eq!(frame::find_magic(&wire), None);
    let (frames, error) = take_frames(&wire, step + 1);
    assert_eq!(error, None);
    assert_eq!(frames.into_iter().flat_map(|f| f.1).collect::<Vec<_>>(), data);
}

fn scan(data: &[u8], step: usize) -> Result<Option<(u16, Vec<u8>)>, PrefaceError> {
    let mut scanner = Scanner::new(NONCE);
    let mut pieces = data.chunks(step);
    while let Some(piece) = pieces.next() {
        if let Some((version, mut rest)) = scanner.push(piece)? {
            rest.extend(pieces.flatten());
            return Ok(Some((version, rest)));
        }
    }
    Ok(None)
}

/// The nonce of the seeds.
pub(crate) const NONCE: [u8; 16] = *b"0123456789abcdef";

/// The preface, as both ends look for it.
pub fn preface(data: &[u8]) {
    let (step, data) = choice(data);
    let whole = scan(data, data.len().max(1));
    assert_eq!(scan(data, step.max(1)), whole);
    // Noise does not hide an answer, unless it is one itself.
    if data.len() < MAX_PREFACE_SKIP && whole == Ok(None) {
        let answered = [data, &preface::answer(NONCE, preface::VERSION), b"rest"].concat();
        assert_eq!(
            scan(&answered, step.max(1)),
            Ok(Some((preface::VERSION, b"rest".to_vec())))
        );
    }
    let mut guest = GuestEnd::default();
    for piece in data.chunks(step.max(1)) {
        guest.push(piece);
        while guest.next().is_some() {}
    }
    guest.push(&preface::offer(NONCE));
    let last = std::iter::from_fn(|| guest.next()).last();
    assert_eq!(last, Some(GuestEvent::Connected));
}

/// Messages: what decodes can be encoded, and decodes to the same; and a host takes a reply just when it decodes.
pub fn messages(data: &[u8]) {
    let reply = Reply::decode(data);
    let mut host = HostEnd::new(&[]);
    let op = Some(Op::Ping(Empty {}));
    let call = host.open(&Request { op }).unwrap();
    let mut wire = Vec::new();
    frame::put_message(&mut wire, call, data);
    host.push(&wire);
    // An entry of a list takes two bytes or more: there are not too many of them.
    if data.len() < 2 * MAX_REPEATED {
        let taken = match &reply {
            Ok(reply) => Ok(Some(HostEvent::Reply(call, reply.clone()))),
            Err(_) => Err(Violation::Message(call)),
        };
        assert_eq!(host.next(), taken);
    }
    if let Ok(reply) = reply {
        assert_eq!(Reply::decode(&*reply.encode_to_vec()), Ok(reply));
    }
    if let Ok(request) = Request::decode(data) {
        assert_eq!(Request::decode(&*request.encode_to_vec()), Ok(request));
    }
}

/// What the host's end makes of the bytes. `takes`: the data is consumed and granted anew.
fn host_events(data: &[u8], step: usize, takes: bool) -> (Vec<HostEvent>, Option<Violation>) {
    let mut host = HostEnd::new(&[]);
    for argument in [&b"cat"[..], b"true", &MAGIC] {
        let exec = Exec {
            argv: vec![argument.to_vec()],
            stdin: true,
            ..Exec::default()
        };
        let call = host
            .open(&Request {
                op: Some(Op::Exec(exec)),
            })
            .unwrap();
        host.send(call, b"some input");
    }
    let mut events = Vec::new();
    for piece in data.chunks(step) {
        host.push(piece);
        loop {
            match host.next() {
                Ok(Some(event)) => {
                    match &event {
                        HostEvent::Data(call, channel, bytes) if takes => {
                            host.grant(*call, *channel, bytes.len());
                        }
                        HostEvent::Room(call) => assert!(host.send(*call, &[1; 4096]) <= 4096),
                        HostEvent::Reply(call, _) => assert!(!host.is_open(*call)),
                        HostEvent::Data(..) | HostEvent::Eof(..) => {}
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
    }
    (events, None)
}

/// The host's end with three calls open, against the bytes of a guest: the same events however they are cut, and one
/// reply to a call at most. With a high step nobody takes the data: what the guest can make us hold is a window for each
/// channel, whatever it repeats.
pub fn host_end(data: &[u8]) {
    let (step, data) = choice(data);
    let takes = step < 0xf0;
    let repeated = data.repeat(if takes { 1 } else { 100 });
    let whole = host_events(&repeated, repeated.len().max(1), takes);
    assert_eq!(host_events(&repeated, step.max(1), takes), whole);
    let mut held = BTreeMap::new();
    for event in &whole.0 {
        if let HostEvent::Data(call, channel, bytes) = event {
            *held.entry((*call, *channel as u8)).or_default() += bytes.len();
        }
    }
    assert!(takes || held.values().all(|bytes: &usize| *bytes <= DATA_WINDOW as usize));
    let replies = whole
        .0
        .iter()
        .filter(|e| matches!(e, HostEvent::Reply(..)))
        .count();
    assert!(replies <= 3);
}

/// What the guest's end makes of the bytes since its latest connection, while it answers each request as a busy agent
/// would; and whether that connection stands.
fn guest_events(data: &[u8], step: usize) -> (Vec<GuestEvent>, bool, GuestEnd) {
    let mut guest = GuestEnd::default();
    let (mut events, mut granted) = (Vec::new(), 0);
    for piece in data.chunks(step) {
        guest.push(piece);
        while let Some(event) = guest.next() {
            match &event {
                GuestEvent::Request(call, _) => {
                    assert!(guest.room(*call, Channel::Output) <= DATA_WINDOW as usize);
                    assert!(guest.send(*call, Channel::Output, &[7; 1000]) <= 1000);
                }
                GuestEvent::Data(call, bytes) => {
                    granted += bytes.len();
                    guest.grant(*call, bytes.len());
                }
                GuestEvent::Unreadable(call) | GuestEvent::Eof(call) | GuestEvent::Cancel(call) => {
                    let outcome = Some(Outcome::Done(Empty {}));
                    guest.reply(*call, &Reply { outcome });
                    guest.reply(*call, &Reply::default());
                }
                GuestEvent::Connected => {
                    assert!(guest.is_connected());
                    events.clear();
                }
                GuestEvent::Lost => assert!(!guest.is_connected()),
            }
            events.push(event);
        }
    }
    assert!(granted <= data.len());
    let connected = guest.is_connected();
    (events, connected, guest)
}

/// The guest's end against the bytes of a host that comes and goes. However they are cut, a connection that stands is the
/// same one with the same calls, and the next host finds its answer.
pub fn guest_end(data: &[u8]) {
    let (step, data) = choice(data);
    let (whole, connected, _) = guest_events(data, data.len().max(1));
    let (pieces, still, mut guest) = guest_events(data, step.max(1));
    assert_eq!(connected, still);
    if connected {
        assert_eq!(whole, pieces);
    }
    guest.push(&preface::offer(NONCE));
    let last = std::iter::from_fn(|| guest.next()).last();
    assert_eq!(last, Some(GuestEvent::Connected));
    assert!(guest.out.ends_with(&preface::answer(NONCE, preface::VERSION)));
}
