//! What holds for any bytes.

use crate::wire::{asked, opt, question, raw, read, sound, wire};
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use omnirun_egress_wire::dns::{Answer, Kind, Over, answer, query};
use proptest::{collection::vec, prelude::*};
use std::net::Ipv4Addr;

/// Lower-case, without hickory's escapes, which it also has for a `-` that a label begins with.
fn dotted(name: &Name) -> String {
    let labels: Vec<_> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
    String::from_utf8(labels.join(&b'.')).unwrap()
}

/// What must hold for any bytes: this crate accepts less than hickory, and reads the same; and what it writes is read by
/// hickory as it was meant.
pub fn agree(bytes: &[u8]) {
    let found = match query(bytes, Over::Tcp) {
        Ok(found) => found,
        Err(bad) => {
            if let Some(bytes) = bad.answer() {
                read(bytes);
            }
            return;
        }
    };
    match Message::from_vec(bytes) {
        Ok(theirs) => {
            let [question] = &theirs.queries[..] else {
                panic!("{:?}", theirs.queries)
            };
            assert_eq!(dotted(question.name()), found.name());
            assert_eq!(Kind::from(u16::from(question.query_type())), found.kind());
        }
        // It looks into the options, which are nothing to us.
        Err(_) => assert_eq!(bytes[11], 1),
    }
    let addresses = [Ipv4Addr::new(203, 0, 113, 1); 20];
    for with in [
        Answer::Addresses(&addresses, 5),
        Answer::NoSuchName,
        Answer::Refused,
        Answer::Truncated,
    ] {
        let answer = read(&answer(&found, with));
        assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2]);
        assert_eq!(dotted(answer.queries[0].name()), found.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..100)) {
        agree(&bytes);
    }

    /// Labels of all sizes and of odd bytes, sections that lie, options.
    #[test]
    fn nearly_sound(
        flags in prop_oneof![4 => Just(0x0100), 1 => any::<u16>()],
        counts in prop_oneof![4 => Just([1, 0, 0, 0]), 4 => Just([1, 0, 0, 1]), 1 => any::<[u16; 4]>()],
        labels in vec(prop_oneof!["[a-zA-Z0-9_-]{1,63}".prop_map(String::into_bytes), vec(any::<u8>(), 1..5)], 0..8),
        kind in any::<u16>(),
        class in prop_oneof![9 => Just(1), 1 => any::<u16>()],
        options in prop::option::of((0u8..2, vec(any::<u8>(), 0..30))),
    ) {
        let mut name = Vec::new();
        for label in labels {
            name.push(label.len() as u8);
            name.extend(label);
        }
        name.push(0);
        let mut rest = question(&name, kind, class);
        if let Some((version, data)) = options {
            rest.extend(opt(version, &data));
        }
        agree(&raw(flags, counts, &rest));
    }

    /// Whatever hickory asks for a host is understood.
    #[test]
    fn hosts(labels in vec("[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", 1..6), kind in any::<u16>()) {
        let name = labels.join(".");
        let bytes = wire(&asked(&format!("{name}."), RecordType::from(kind)));
        let found = sound(&bytes);
        prop_assert_eq!(found.name(), name.to_ascii_lowercase());
        agree(&bytes);
    }
}
