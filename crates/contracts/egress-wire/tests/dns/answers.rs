//! Answers, as hickory reads them.

use crate::wire::{NAME, asked, opt, question, raw, read, sound, wire};
use hickory_proto::{
    op::{Edns, MessageType, ResponseCode},
    rr::{RData, RecordType, rdata::opt::EdnsOption},
};
use omnirun_egress_wire::dns::{Answer, BadQuery, MAX_ADDRESSES, NEGATIVE_TTL, Over, answer, query};
use std::net::Ipv4Addr;

#[test]
fn what_is_no_query_has_an_answer_only_if_it_asked() {
    let answered = |bytes: &[u8]| {
        let bad: BadQuery = query(bytes, Over::Udp).unwrap_err();
        bad.answer().map(read)
    };
    for silent in [
        &b""[..],
        &[0; 11],
        &raw(0x8000, [1, 0, 0, 0], &question(NAME, 1, 1)),
        &raw(0x8180, [0; 4], &[]),
    ] {
        assert!(answered(silent).is_none());
    }
    for (bytes, code) in [
        (raw(0x0100, [0; 4], &[]), ResponseCode::FormErr),
        (
            raw(0x0100, [1, 0, 0, 0], &question(b"\xc0\x0c", 1, 1)),
            ResponseCode::FormErr,
        ),
        (raw(0x0100, [1, 0, 0, 0], &[0; 600]), ResponseCode::FormErr),
        (
            raw(0x2900, [1, 0, 0, 0], &question(NAME, 6, 1)),
            ResponseCode::NotImp,
        ),
        (
            raw(0x0100, [1, 0, 0, 0], &question(NAME, 1, 3)),
            ResponseCode::Refused,
        ),
        (
            raw(
                0x0100,
                [1, 0, 0, 1],
                &[question(NAME, 1, 1), opt(7, b"")].concat(),
            ),
            ResponseCode::BADVERS,
        ),
    ] {
        let answer = answered(&bytes).unwrap();
        // BADVERS and BADSIG have one number.
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(code));
        assert_eq!(
            (answer.metadata.id, answer.metadata.recursion_desired),
            (0x1234, true)
        );
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert_eq!(
            (
                answer.queries.len(),
                answer.answers.len(),
                answer.authorities.len()
            ),
            (0, 0, 0)
        );
    }
}

#[test]
fn addresses() {
    let asked = asked("lIsTeD.example.", RecordType::A);
    let addresses: Vec<_> = (0..20).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect();
    for (ttl, written) in [(0, 1), (1, 1), (30, 30), (60, 60), (86_400, 60)] {
        let bytes = answer(&sound(&wire(&asked)), Answer::Addresses(&addresses[..2], ttl));
        let answer = read(&bytes);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.metadata.id, asked.metadata.id);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert!(
            !answer.metadata.truncation && !answer.metadata.authoritative && !answer.metadata.authentic_data
        );
        // To the letter: a resolver may have chosen the letters' case so as to know its answer again.
        assert!(answer.queries[0].name().eq_case(asked.queries[0].name()));
        assert!(answer.authorities.is_empty() && answer.edns.is_none());
        let found: Vec<_> = answer
            .answers
            .iter()
            .map(|r| (r.ttl, r.data.clone(), r.name.eq_case(asked.queries[0].name())))
            .collect();
        let expected: Vec<_> = addresses[..2]
            .iter()
            .map(|a| (written, RData::A((*a).into()), true))
            .collect();
        assert_eq!(found, expected);
    }
    let all = read(&answer(&sound(&wire(&asked)), Answer::Addresses(&addresses, 5)));
    assert_eq!(all.answers.len(), MAX_ADDRESSES);
}

#[test]
fn no_records_but_addresses() {
    let addresses = [Ipv4Addr::new(203, 0, 113, 1)];
    for kind in [
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::SVCB,
        RecordType::TXT,
        RecordType::NULL,
        RecordType::MX,
        RecordType::ANY,
        RecordType::CNAME,
    ] {
        let found = sound(&wire(&asked("listed.example.", kind)));
        for with in [Answer::Addresses(&addresses, 5), Answer::Empty] {
            let answer = read(&answer(&found, with));
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty());
            assert_eq!(answer.authorities.len(), 1);
        }
    }
}

#[test]
fn refusals() {
    let found = sound(&wire(&asked("other.example.", RecordType::A)));
    for (with, code, soa, truncated) in [
        (Answer::Empty, ResponseCode::NoError, true, false),
        (Answer::Addresses(&[], 5), ResponseCode::NoError, true, false),
        (Answer::NoSuchName, ResponseCode::NXDomain, true, false),
        (Answer::Refused, ResponseCode::Refused, false, false),
        (Answer::Failed, ResponseCode::ServFail, false, false),
        (Answer::Truncated, ResponseCode::NoError, false, true),
    ] {
        let answer = read(&answer(&found, with));
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.metadata.truncation, truncated);
        assert!(answer.answers.is_empty() && answer.queries.len() == 1);
        let negative: Vec<_> = answer
            .authorities
            .iter()
            .map(|record| match &record.data {
                RData::SOA(soa) => (record.ttl, soa.minimum),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [(NEGATIVE_TTL, NEGATIVE_TTL)];
        assert_eq!(negative, expected[..usize::from(soa)]);
    }
}

#[test]
fn edns_is_answered_with_edns() {
    for dnssec in [false, true] {
        let mut asked = asked("listed.example.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(512).set_dnssec_ok(dnssec);
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![7; 8]));
        asked.set_edns(edns);
        for with in [
            Answer::Empty,
            Answer::Refused,
            Answer::Addresses(&[Ipv4Addr::LOCALHOST], 5),
        ] {
            let edns = read(&answer(&sound(&wire(&asked)), with)).edns.unwrap();
            assert_eq!(
                (edns.version(), edns.rcode_high(), edns.flags().dnssec_ok),
                (0, 0, dnssec)
            );
            assert!(edns.options().as_ref().is_empty());
        }
    }
}
