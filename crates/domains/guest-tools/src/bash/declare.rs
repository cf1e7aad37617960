//! Reads what `declare -p` prints.
//!
//! Each variable is one entry, `declare -FLAGS NAME` or `declare -FLAGS NAME=VALUE`. A value may run over lines inside
//! its quotes; bash writes `"..."` with `\` before special characters, `$'...'` when there are control characters, and
//! for arrays `([key]=value ...)` of such parts.

use super::state::MAX_VARIABLES;

/// One variable as printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variable<'a> {
    /// Attribute letters; empty for none (printed as `--`).
    pub(super) flags: &'a [u8],
    /// Its name, an identifier.
    pub(super) name: &'a [u8],
    /// `=VALUE` in the shell's own quoting, or empty when it is declared and unset.
    pub(super) value: &'a [u8],
}

/// The variables of a print, at most one more than [`MAX_VARIABLES`]. Text that is no such entry is skipped up to the end
/// of its line.
pub(super) fn variables(mut text: &[u8]) -> Vec<Variable<'_>> {
    let mut found = Vec::new();
    while !text.is_empty() && found.len() <= MAX_VARIABLES {
        let (entry, rest) = text.split_at(entry_length(text));
        text = rest.strip_prefix(b"\n").unwrap_or(rest);
        found.extend(parse(entry));
    }
    found
}

/// Length of the entry at the start of the text: up to the first newline outside quotes.
fn entry_length(text: &[u8]) -> usize {
    let mut quote = None;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        match (quote, byte) {
            // In '...' alone a backslash is a plain character.
            (None | Some(b'"' | b'$'), b'\\') => at += 1,
            (None, b'\n') => return at,
            (None, b'$') if text.get(at + 1) == Some(&b'\'') => {
                quote = Some(b'$');
                at += 1;
            }
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(b'"'), b'"') | (Some(b'\'' | b'$'), b'\'') => quote = None,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

fn parse(entry: &[u8]) -> Option<Variable<'_>> {
    let rest = entry.strip_prefix(b"declare -")?;
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let (flags, rest) = (&rest[..space], &rest[space + 1..]);
    let flags = if flags == b"-" { b"" } else { flags };
    let name_end = rest.iter().position(|byte| *byte == b'=').unwrap_or(rest.len());
    let (name, value) = rest.split_at(name_end);
    (flags.iter().all(u8::is_ascii_alphabetic) && is_identifier(name)).then_some(Variable {
        flags,
        name,
        value,
    })
}

fn is_identifier(name: &[u8]) -> bool {
    let first = name
        .first()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    first
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Variables that the shell sets itself, or that mean something only in the process that set them. They do not travel.
pub(super) fn is_the_shells_own(name: &[u8]) -> bool {
    const OWN: &[&str] = &[
        "BASH",
        "BASHOPTS",
        "BASHPID",
        "BASH_ALIASES",
        "BASH_ARGC",
        "BASH_ARGV",
        "BASH_ARGV0",
        "BASH_CMDS",
        "BASH_COMMAND",
        "BASH_EXECUTION_STRING",
        "BASH_LINENO",
        "BASH_LOADABLES_PATH",
        "BASH_MONOSECONDS",
        "BASH_REMATCH",
        "BASH_SOURCE",
        "BASH_SUBSHELL",
        "BASH_TRAPSIG",
        "BASH_VERSINFO",
        "BASH_VERSION",
        "BASH_XTRACEFD",
        "COPROC",
        "DIRSTACK",
        "EPOCHREALTIME",
        "EPOCHSECONDS",
        "EUID",
        "FUNCNAME",
        "GROUPS",
        "HISTCMD",
        "HOSTNAME",
        "HOSTTYPE",
        "LINENO",
        "MACHTYPE",
        "OSTYPE",
        "PIPESTATUS",
        "PPID",
        "PWD",
        "RANDOM",
        "SECONDS",
        "SHELLOPTS",
        "SHLVL",
        "SRANDOM",
        "UID",
        "_",
    ];
    name.starts_with(b"__omnirun_") || OWN.iter().any(|own| own.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_end_where_their_quotes_are_closed() {
        let text = b"declare -- a=\"x\ny\\\"z\ndeclare -x no=1\"\ndeclare -ax b=([0]=\"p q\" [1]=$'r\\'\n\\ns')\ndeclare -i c\nnoise\n";
        let found = variables(text);
        let names: Vec<_> = found
            .iter()
            .map(|variable| std::str::from_utf8(variable.name).unwrap())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(found[0].flags, b"");
        assert_eq!(found[1].flags, b"ax");
        assert_eq!(
            found[2],
            Variable {
                flags: b"i",
                name: b"c",
                value: b""
            }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end(text in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'\n'), Just(b'$'), Just(b'\''), any::<u8>()], 0..200)) {
            variables(&[b"declare -- a=", text.as_slice()].concat());
        }
    }
}
