//! What holds for any stream.

use crate::{
    parts::{Parts, SAMPLE, records, server_names, vector},
    peer::agree,
};
use omnirun_egress_wire::hello::{Hello, parse};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Hellos that are well-formed in most places, and odd in some.
fn parts() -> impl Strategy<Value = Parts> {
    let name = prop_oneof![
        Just(b"listed.example".to_vec()),
        "[a-zA-Z0-9._-]{0,20}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..20),
    ];
    let server_name = prop_oneof![
        8 => vec((prop_oneof![9 => Just(0u8), 1 => any::<u8>()], name), 0..3).prop_map(|entries| {
            server_names(&entries.iter().map(|(k, n)| (*k, &n[..])).collect::<Vec<_>>())
        }),
        1 => vec(any::<u8>(), 0..40),
    ];
    let alpn = prop_oneof![
        8 => vec(vec(any::<u8>(), 0..10), 0..4)
            .prop_map(|names| vector(2, &names.iter().flat_map(|n| vector(1, n)).collect::<Vec<_>>())),
        1 => vec(any::<u8>(), 0..10),
    ];
    let extension = prop_oneof![
        4 => server_name.prop_map(|data| (0, data)),
        2 => alpn.prop_map(|data| (16, data)),
        1 => (any::<u16>(), vec(any::<u8>(), 0..20)),
    ];
    let version = prop_oneof![9 => Just(0x0303), 1 => any::<u16>()];
    let whether = vec(prop::bool::weighted(0.9), Parts::sample().extensions.len());
    (version, whether, vec((extension, any::<Index>()), 0..3)).prop_map(|(version, kept, more)| {
        let mut parts = Parts::sample();
        parts.version = version;
        let mut kept = kept.into_iter();
        parts.extensions.retain(|e| e.0 != 0 && kept.next() == Some(true));
        for (extension, at) in more {
            let at = at.index(parts.extensions.len() + 1);
            parts.extensions.insert(at, extension);
        }
        parts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However it is cut into records and segments, a hello is read as one, and as rustls reads it.
    #[test]
    fn cuts_change_nothing(parts in parts(), sizes in vec(1usize..200, 0..20), at in any::<Index>()) {
        let message = parts.message();
        let (whole, cut) = (records(&message, &[]), records(&message, &sizes));
        agree(&cut);
        match (parse(&whole), parse(&cut)) {
            (Hello::Found(a), Hello::Found(b)) => {
                prop_assert_eq!((a.name, a.ech, a.alpn), (b.name, b.ech, b.alpn));
                prop_assert_eq!((a.length, b.length), (whole.len(), cut.len()));
            }
            (a, b) => prop_assert_eq!(a, b),
        }
        // A sound hello is waited for; an unsound one may be refused sooner, and then stays so.
        let part = parse(&cut[..at.index(cut.len())]);
        match parse(&cut) {
            Hello::Bad(_) => prop_assert!(!matches!(part, Hello::Found(_))),
            _ => prop_assert_eq!(part, Hello::NeedMore),
        }
    }

    /// What was decided on some bytes stays decided, whatever comes.
    #[test]
    fn more_bytes_change_no_decision(
        stream in prop_oneof![
            vec(any::<u8>(), 0..100),
            parts().prop_map(|p| p.stream()),
            vec(any::<u8>(), 0..40).prop_map(|body| records(&vector(3, &body), &[1, 2])),
        ],
        more in vec(any::<u8>(), 0..100),
    ) {
        agree(&stream);
        let longer = [&stream[..], &more].concat();
        match parse(&stream) {
            Hello::NeedMore => {}
            Hello::Bad(_) => prop_assert!(matches!(parse(&longer), Hello::Bad(_))),
            found => prop_assert_eq!(found, parse(&longer)),
        }
    }

    /// Several changes at once to a recorded one.
    #[test]
    fn changed_samples(changes in vec((any::<Index>(), any::<u8>()), 1..6)) {
        let mut bytes = SAMPLE.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        agree(&bytes);
    }
}
