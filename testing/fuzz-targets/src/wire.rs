//! The protocol between host and guest.

use crate::choice;
use omnirun_guest_proto::{
    Message,
    frame::{self, Channel, Decoder, FrameError, HEAD, Head},
    guest::{GuestEnd, GuestEvent},
    host::{HostEnd, HostEvent, Violation},
    limits::{DATA_WINDOW, MAX_FRAME_PAYLOAD, MAX_PREFACE_SKIP},
    message::{Empty, Exec, Op, Outcome, Reply, Request},
    preface::{self, MAGIC, PrefaceError, Scanner},
};

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

/// Messages: what decodes can be encoded, and decodes to the same.
pub fn messages(data: &[u8]) {
    if let Ok(reply) = Reply::decode(data) {
        assert_eq!(Reply::decode(&*reply.encode_to_vec()), Ok(reply));
    }
    if let Ok(request) = Request::decode(data) {
        assert_eq!(Request::decode(&*request.encode_to_vec()), Ok(request));
    }
}

fn host_events(data: &[u8], step: usize) -> (Vec<HostEvent>, Option<Violation>) {
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
                        HostEvent::Data(call, channel, bytes) => host.grant(*call, *channel, bytes.len()),
                        HostEvent::Room(call) => assert!(host.send(*call, &[1; 4096]) <= 4096),
                        HostEvent::Reply(call, _) => assert!(!host.is_open(*call)),
                        HostEvent::Eof(..) => {}
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
/// reply to a call at most.
pub fn host_end(data: &[u8]) {
    let (step, data) = choice(data);
    let whole = host_events(data, data.len().max(1));
    assert_eq!(host_events(data, step.max(1)), whole);
    let replies = whole
        .0
        .iter()
        .filter(|e| matches!(e, HostEvent::Reply(..)))
        .count();
    assert!(replies <= 3);
}

/// The guest's end against the bytes of a host that comes and goes; it answers each request as a busy agent would.
pub fn guest_end(data: &[u8]) {
    let (step, data) = choice(data);
    let mut guest = GuestEnd::default();
    let mut granted = 0;
    for piece in data.chunks(step.max(1)) {
        guest.push(piece);
        while let Some(event) = guest.next() {
            match event {
                GuestEvent::Request(call, _) => {
                    assert!(guest.room(call, Channel::Output) <= DATA_WINDOW as usize);
                    assert!(guest.send(call, Channel::Output, &[7; 1000]) <= 1000);
                }
                GuestEvent::Data(call, bytes) => {
                    granted += bytes.len();
                    guest.grant(call, bytes.len());
                }
                GuestEvent::Unreadable(call) | GuestEvent::Eof(call) | GuestEvent::Cancel(call) => {
                    let outcome = Some(Outcome::Done(Empty {}));
                    guest.reply(call, &Reply { outcome });
                    guest.reply(call, &Reply::default());
                }
                GuestEvent::Connected => assert!(guest.is_connected()),
                GuestEvent::Lost => assert!(!guest.is_connected()),
            }
        }
    }
    assert!(granted <= data.len());
    guest.push(&preface::offer(NONCE));
    let last = std::iter::from_fn(|| guest.next()).last();
    assert_eq!(last, Some(GuestEvent::Connected));
    assert!(guest.out.ends_with(&preface::answer(NONCE, preface::VERSION)));
}
