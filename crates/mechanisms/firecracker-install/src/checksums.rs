//! Checksum files as `sha256sum` writes them: `HEX`, two characters, a name; a line each.

use omnirun_ids::Digest;

/// The digest that a checksum file gives for a file of this name, wherever in a tree the list has it. `None` also if
/// it gives two different ones.
pub(crate) fn find(text: &str, name: &str) -> Option<Digest> {
    let mut found = None;
    for line in text.lines() {
        let Some((hex, listed)) = line.split_once([' ', '\t']) else {
            continue;
        };
        let listed = listed.trim().trim_start_matches('*');
        if listed.rsplit('/').next() != Some(name) {
            continue;
        }
        let digest = hex.to_ascii_lowercase().parse().ok()?;
        match &found {
            Some(earlier) if *earlier != digest => return None,
            _ => found = Some(digest),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_wherever_the_list_has_it() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let text =
            format!("{a}  ./release/jailer-v1\n{b} *firecracker-v1\nnot a line\n{a}  firecracker-v1.debug\n");
        assert_eq!(find(&text, "jailer-v1").unwrap().as_str(), a);
        assert_eq!(find(&text, "firecracker-v1").unwrap().as_str(), b.to_lowercase());
        assert_eq!(find(&text, "firecracker"), None);
    }

    #[test]
    fn no_prefix_of_a_list_gives_a_wrong_digest() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let text = format!("{a}  one\n{b}  two\n");
        for end in 0..=text.len() {
            let found = find(&text[..end], "one");
            assert!(found.is_none_or(|d| d.as_str() == a), "{end}");
            let found = find(&text[..end], "two");
            assert!(found.is_none_or(|d| d.as_str() == b), "{end}");
        }
    }

    #[test]
    fn two_answers_are_none() {
        let text = format!("{}  x\n{}  x\n", "a".repeat(64), "b".repeat(64));
        assert_eq!(find(&text, "x"), None);
        assert_eq!(find("zz  x\n", "x"), None);
    }
}
