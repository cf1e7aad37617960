//! Both ends against each other, against garbage, and against a reconnect at any byte.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_guest_proto::{
    frame::{self, Channel, Decoder, Kind, find_magic},
    guest::{GuestEnd, GuestEvent},
    host::{HostEnd, HostEvent, Violation},
    limits::{DATA_WINDOW, MAX_PREFACE_SKIP},
    message::{Empty, Error, Exec, Op, Outcome, Reply, Request, Tool},
    preface::{self, MAGIC, PrefaceError, Scanner},
};
use proptest::prelude::*;

fn request(argument: &[u8]) -> Request {
    let exec = Exec {
        argv: vec![argument.to_vec()],
        stdin: true,
        ..Exec::default()
    };
    Request {
        op: Some(Op::Exec(exec)),
    }
}

fn events(guest: &mut GuestEnd) -> Vec<GuestEvent> {
    std::iter::from_fn(|| guest.next()).collect()
}

fn host_events(host: &mut HostEnd) -> Result<Vec<HostEvent>, Violation> {
    std::iter::from_fn(|| host.next().transpose()).collect()
}

fn connected() -> GuestEnd {
    let mut guest = GuestEnd::default();
    guest.push(&preface::offer([7; 16]));
    assert_eq!(events(&mut guest), [GuestEvent::Connected]);
    assert_eq!(guest.out, preface::answer([7; 16], preface::VERSION));
    guest.out.clear();
    guest
}

/// What a host sends in a busy connection, the preface included.
fn recorded() -> Vec<u8> {
    let mut host = HostEnd::new(&[]);
    let mut wire = preface::offer([1; 16]).to_vec();
    let first = host.open(&request(b"cat")).unwrap();
    host.send(first, b"some input, and the magic in it: ");
    host.send(
        first,
        &[&MAGIC[..], b"\x5a\x5a", &MAGIC[..9], &MAGIC[..], &[0x9f; 5]].concat(),
    );
    let second = host.open(&request(&MAGIC)).unwrap();
    host.cancel(second);
    host.grant(first, Channel::Output, 10);
    host.end_input(first);
    wire.append(&mut host.out);
    wire
}

/// What reaches the agent of a connection that breaks after `bytes`.
fn acted_on(bytes: &[u8]) -> Vec<GuestEvent> {
    let mut guest = GuestEnd::default();
    guest.push(bytes);
    events(&mut guest)
}

#[test]
fn a_reconnect_at_every_byte_offset_is_found_however_it_is_cut() {
    let recorded = recorded();
    let mut host = HostEnd::new(&[]);
    host.open(&request(b"after")).unwrap();
    let after = host.out;
    for offset in 0..=recorded.len() {
        let before = acted_on(&recorded[..offset]);
        let wire = [&recorded[..offset], &preface::offer([2; 16]), &after].concat();
        // Cut at the break, one to forty bytes behind it, and into single bytes.
        for cut in (0..=40).map(|n| (offset + n).min(wire.len())).chain([usize::MAX]) {
            let mut guest = GuestEnd::default();
            let mut seen = Vec::new();
            let step = if cut == usize::MAX { 1 } else { wire.len() };
            let (a, b) = wire.split_at(if cut == usize::MAX { 0 } else { cut });
            for piece in a.chunks(wire.len()).chain(b.chunks(step)) {
                guest.push(piece);
                seen.append(&mut events(&mut guest));
            }
            assert!(guest.is_connected(), "offset {offset}, cut {cut}");
            assert_eq!(
                seen.last(),
                Some(&GuestEvent::Request(1, request(b"after"))),
                "offset {offset}, cut {cut}"
            );
            let start = seen.iter().rposition(|e| *e == GuestEvent::Connected).unwrap();
            let old: Vec<_> = seen[..start].iter().filter(|e| **e != GuestEvent::Lost).collect();
            // Nothing is acted on that the old connection had not said in full.
            assert!(
                before.iter().collect::<Vec<_>>().starts_with(&old),
                "offset {offset}, cut {cut}: {old:?}"
            );
        }
    }
}

#[test]
fn a_guest_answers_a_version_that_it_does_not_speak_and_waits_for_another() {
    let mut guest = GuestEnd::default();
    let mut offer = preface::offer([3; 16]);
    offer[32..36].copy_from_slice(&[9, 0, 12, 0]);
    guest.push(&offer);
    assert_eq!(events(&mut guest), [GuestEvent::Lost]);
    let mut scanner = Scanner::new([3; 16]);
    assert_eq!(scanner.push(&guest.out), Err(PrefaceError::Version(0)));
    guest.push(&preface::offer([4; 16]));
    assert_eq!(events(&mut guest), [GuestEvent::Connected]);
}

#[test]
fn a_host_passes_over_answers_of_earlier_connections_and_gives_up_on_endless_noise() {
    let stale = preface::answer([1; 16], preface::VERSION);
    let answer = preface::answer([2; 16], preface::VERSION);
    for broken in 0..preface::LEN {
        let wire = [&b"noise"[..], &stale, &stale[..broken], &answer, b"rest"].concat();
        for cut in 0..wire.len() {
            let mut scanner = Scanner::new([2; 16]);
            let rest = match scanner.push(&wire[..cut]).unwrap() {
                Some((_, rest)) => [&*rest, &wire[cut..]].concat(),
                None => scanner.push(&wire[cut..]).unwrap().unwrap().1,
            };
            assert_eq!(rest, b"rest", "broken off at {broken}, cut {cut}");
        }
    }
    let mut scanner = Scanner::new([2; 16]);
    let mut pushed = 0;
    let noise = vec![0x9f; 100_000];
    let error = loop {
        match scanner.push(&noise) {
            Ok(None) => pushed += noise.len(),
            other => break other,
        }
    };
    assert_eq!(error, Err(PrefaceError::Lost));
    assert!(pushed <= MAX_PREFACE_SKIP);
}

#[test]
fn a_window_holds_on_both_ends() {
    let mut host = HostEnd::new(&[]);
    let call = host.open(&request(b"x")).unwrap();
    let much = vec![1; DATA_WINDOW as usize + 1];
    assert_eq!(host.send(call, &much), DATA_WINDOW as usize);
    assert_eq!(host.send(call, b"more"), 0);
    let mut guest = connected();
    guest.push(&std::mem::take(&mut host.out));
    let taken: usize = events(&mut guest)
        .iter()
        .map(|e| {
            if let GuestEvent::Data(_, bytes) = e {
                bytes.len()
            } else {
                0
            }
        })
        .sum();
    assert_eq!(taken, DATA_WINDOW as usize);
    guest.grant(call, 100);
    assert_eq!(guest.send(call, Channel::Error, &much), DATA_WINDOW as usize);
    assert_eq!(guest.send(call, Channel::Output, &much), DATA_WINDOW as usize);
    host.push(&guest.out);
    host_events(&mut host).unwrap();
    assert_eq!(host.send(call, &much), 100);
    // One byte more than granted ends it.
    let mut over = Vec::new();
    frame::put_data(&mut over, call, Channel::Output, b"!");
    host.push(&over);
    assert_eq!(host.next(), Err(Violation::Window(call)));
}

#[test]
fn a_guest_that_breaks_the_rules_is_found_out() {
    let frames = |build: &dyn Fn(&mut Vec<u8>)| {
        let mut host = HostEnd::new(&[]);
        assert_eq!(host.open(&request(b"x")).unwrap(), 1);
        let mut wire = Vec::new();
        build(&mut wire);
        host.push(&wire);
        host_events(&mut host).unwrap_err()
    };
    let done = Reply {
        outcome: Some(Outcome::Done(Empty {})),
    };
    let done = omnirun_guest_proto::Message::encode_to_vec(&done);
    let opened = frames(&|w| frame::put_message(w, 2, &done));
    assert_eq!(opened, Violation::NotOpen(2));
    let twice = frames(&|w| {
        frame::put_message(w, 1, &done);
        frame::put_message(w, 1, &done);
    });
    assert_eq!(twice, Violation::NotOpen(1));
    assert_eq!(
        frames(&|w| frame::put_message(w, 1, &[0xff; 9])),
        Violation::Message(1)
    );
    let empty = frames(&|w| frame::put_one(w, 1, Kind::Data, Channel::Output, &[]));
    assert_eq!(empty, Violation::OutOfPlace(1));
    let input = frames(&|w| frame::put_one(w, 1, Kind::Data, Channel::Input, b"x"));
    assert_eq!(input, Violation::OutOfPlace(1));
    let cancel = frames(&|w| frame::put_one(w, 1, Kind::Cancel, Channel::Input, &[]));
    assert_eq!(cancel, Violation::OutOfPlace(1));
    let credit = frames(&|w| frame::put_one(w, 1, Kind::Credit, Channel::Input, &1u32.to_le_bytes()));
    assert_eq!(credit, Violation::Credit(1));
    let long = frames(&|w| {
        for _ in 0..400 {
            frame::put_one(w, 1, Kind::Part, Channel::Input, &[0; 65536]);
        }
    });
    assert_eq!(long, Violation::TooLong(1));
    assert!(matches!(
        frames(&|w| w.extend_from_slice(&[0xff; 10])),
        Violation::Frame(_)
    ));
}

/// Bytes with many beginnings of the magic among them.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        (0..=MAGIC.len()).prop_map(|n| MAGIC[..n].to_vec()),
        (0..=MAGIC.len()).prop_map(|n| MAGIC[n..].to_vec()),
        Just(MAGIC.repeat(3)),
        Just(vec![0x9f; 4]),
        Just(vec![frame::END; 3]),
        proptest::collection::vec(any::<u8>(), 0..50),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Lengths that cut a stream.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1usize..200, 1..20)
}

fn pieces<'a>(mut bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let length = (*cuts.next()?).min(bytes.len());
        let (now, later) = bytes.split_at(length);
        bytes = later;
        (length > 0).then_some(now)
    })
}

proptest! {
    #[test]
    fn no_payload_puts_the_magic_on_the_wire(payloads in proptest::collection::vec(payload(), 1..6), call in any::<u32>()) {
        let mut wire = Vec::new();
        for payload in &payloads {
            frame::put_data(&mut wire, call, Channel::Input, payload);
            frame::put_message(&mut wire, call, payload);
        }
        prop_assert_eq!(find_magic(&wire), None);
        // And all of it arrives.
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        let mut arrived = Vec::new();
        while let Some(frame) = decoder.next().unwrap() {
            arrived.extend_from_slice(frame.payload);
        }
        let sent: Vec<u8> = payloads.iter().flat_map(|p| [p.as_slice(), p.as_slice()].concat()).collect();
        prop_assert_eq!(arrived, sent);
    }

    #[test]
    fn calls_arrive_whole_however_the_stream_is_cut(
        inputs in proptest::collection::vec(payload(), 1..5),
        there in cuts(),
        back in cuts(),
    ) {
        let mut host = HostEnd::new(&[]);
        let mut wire = preface::offer([9; 16]).to_vec();
        for input in &inputs {
            let tool = Tool { name: "write".into(), input: input.clone(), ..Tool::default() };
            let call = host.open(&Request { op: Some(Op::Tool(tool)) }).unwrap();
            host.send(call, input);
            host.end_input(call);
        }
        wire.append(&mut host.out);
        let mut guest = GuestEnd::default();
        let (mut requests, mut data, mut ended) = (Vec::new(), Vec::new(), 0);
        for piece in pieces(&wire, &there) {
            guest.push(piece);
            for event in events(&mut guest) {
                match event {
                    GuestEvent::Request(call, Request { op: Some(Op::Tool(tool)) }) => {
                        guest.send(call, Channel::Output, &tool.input);
                        guest.send(call, Channel::Error, &tool.input);
                        requests.push(tool.input);
                    }
                    GuestEvent::Data(call, bytes) => {
                        guest.grant(call, bytes.len());
                        data.extend(bytes);
                    }
                    GuestEvent::Eof(call) => {
                        ended += 1;
                        let message = format!("call {call}");
                        guest.reply(call, &Reply { outcome: Some(Outcome::Error(Error { kind: 3, message })) });
                    }
                    GuestEvent::Connected => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert_eq!(&requests, &inputs);
        prop_assert_eq!(data, inputs.concat());
        prop_assert_eq!(ended, inputs.len());
        let (head, frames) = guest.out.split_at(preface::LEN);
        prop_assert_eq!(head, preface::answer([9; 16], preface::VERSION));
        let (mut output, mut error, mut replies) = (Vec::new(), Vec::new(), 0);
        for piece in pieces(frames, &back) {
            host.push(piece);
            for event in host_events(&mut host).unwrap() {
                match event {
                    HostEvent::Data(_, Channel::Output, bytes) => output.extend(bytes),
                    HostEvent::Data(_, _, bytes) => error.extend(bytes),
                    HostEvent::Reply(..) => replies += 1,
                    _ => {}
                }
            }
        }
        prop_assert_eq!(&output, &inputs.concat());
        prop_assert_eq!(&error, &output);
        prop_assert_eq!(replies, inputs.len());
    }

    #[test]
    fn garbage_neither_harms_a_guest_nor_keeps_it_from_the_next_preface(
        garbage in payload(), valid in any::<bool>(), there in cuts(),
    ) {
        let mut guest = if valid { connected() } else { GuestEnd::default() };
        for piece in pieces(&garbage, &there) {
            guest.push(piece);
            events(&mut guest);
        }
        guest.push(&preface::offer([5; 16]));
        let seen = events(&mut guest);
        prop_assert_eq!(seen.last(), Some(&GuestEvent::Connected));
        prop_assert!(guest.out.ends_with(&preface::answer([5; 16], preface::VERSION)));
    }

    #[test]
    fn garbage_never_panics_a_host(garbage in proptest::collection::vec(any::<u8>(), 0..400), small in any::<bool>()) {
        let mut host = HostEnd::new(&[]);
        host.open(&request(b"x")).unwrap();
        let mut garbage = garbage;
        if small {
            // Heads that pass, so that the rest is looked at too.
            for head in garbage.chunks_mut(17) {
                head.iter_mut().zip([3u8, 0, 0, 0, 1, 0, 0, 0]).for_each(|(b, v)| *b = v);
                if let Some(b) = head.get_mut(8) { *b = 1 + *b % 6 }
                if let Some(b) = head.get_mut(9) { *b %= 3 }
                if let Some(b) = head.get_mut(13) { *b = frame::END }
            }
        }
        host.push(&garbage);
        let _ = host_events(&mut host);
        let _ = Scanner::new([0; 16]).push(&garbage);
    }
}

#[test]
fn after_the_transport_has_said_that_the_host_is_gone_nothing_of_it_is_left() {
    let mut guest = connected();
    guest.push(
        &frame::Head {
            length: 500,
            call: 1,
            kind: Kind::Message,
            channel: Channel::Input,
        }
        .encode(),
    );
    assert_eq!(events(&mut guest), []);
    guest.disconnect();
    assert!(!guest.is_connected());
    let mut host = HostEnd::new(&[]);
    host.open(&request(b"x")).unwrap();
    guest.push(&[&preface::offer([8; 16])[..], &host.out].concat());
    assert_eq!(
        events(&mut guest),
        [GuestEvent::Connected, GuestEvent::Request(1, request(b"x"))]
    );
}
