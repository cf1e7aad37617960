//! Real clients' heads, whole, in part and changed.

use crate::TRANSPARENT;
use omnirun_egress_wire::http::{Carrier, Form, Head, head};
use std::{fs, path::Path};

#[test]
fn recorded_heads_and_each_of_their_prefixes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/http");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let (file, bytes) = (
            path.file_stem().unwrap().to_str().unwrap().to_owned(),
            fs::read(&path).unwrap(),
        );
        let (way, client) = file.split_once('-').unwrap();
        let client = client.split('-').next().unwrap();
        let (carrier, form, port) = match way {
            "transparent" => (TRANSPARENT, Form::Origin, 80),
            "explicit" if file.ends_with("port") => (Carrier::Explicit, Form::Absolute, 8080),
            "explicit" => (Carrier::Explicit, Form::Absolute, 80),
            _ => (Carrier::Explicit, Form::Authority, 443),
        };
        let client = if client == "pip" { "pypi" } else { client };
        let Head::Found { target, length } = head(&bytes, carrier) else {
            panic!("{file}: {:?}", head(&bytes, carrier));
        };
        assert_eq!(target.host.to_string(), format!("{client}.example.com"), "{file}");
        assert_eq!(
            (target.port, target.form, length),
            (port, form, bytes.len()),
            "{file}"
        );
        for at in 0..bytes.len() {
            assert_eq!(head(&bytes[..at], carrier), Head::NeedMore, "{file}, {at}");
        }
        // A changed byte may name another host, but then in every place that names one.
        for at in 0..bytes.len() {
            for mask in [1, 2, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                if let Head::Found { target, .. } = head(&changed, carrier) {
                    let text = String::from_utf8_lossy(&changed).to_ascii_lowercase();
                    let named = text.matches(&target.host.to_string()).count();
                    let before = String::from_utf8_lossy(&bytes)
                        .matches(&format!("{client}.example.com"))
                        .count();
                    assert!(
                        named >= before.min(2) || named == 1 && !text.contains("\r\nhost:"),
                        "{file}: {text}"
                    );
                }
            }
        }
        count += 1;
    }
    assert_eq!(count, 22);
}
