//! From what a shell prints of itself to the scripts that bring the next one there.

use super::{
    super::{
        ShellConfig,
        declare::{self, Variable},
    },
    HEADER, MAX_RAW, MAX_VARIABLES, ShellState, StateAfter, quote,
};
use omnirun_guest_proto::limits::MAX_SHELL_STATE;
use std::{
    collections::{HashMap, HashSet},
    os::unix::ffi::OsStrExt,
};

/// Sections before the end of every print: the nonce, and the fields of [`Print`].
const SECTIONS: usize = 10;

/// `shopt` options that are on in a new shell.
const SHOPT_ON: &[&[u8]] = &[
    b"checkwinsize",
    b"cmdhist",
    b"complete_fullquote",
    b"extquote",
    b"force_fignore",
    b"globasciiranges",
    b"globskipdots",
    b"hostcomplete",
    b"interactive_comments",
    b"patsub_replacement",
    b"progcomp",
    b"promptvars",
    b"sourcepath",
];
/// `set -o` options that are on in a new shell.
const SET_ON: &[&[u8]] = &[b"braceexpand", b"hashall", b"interactive-comments"];
/// `set -o` options that are restored in another way, or are not a state that a new shell can be put into.
const SET_SKIP: &[&[u8]] = &[
    b"errexit",
    b"nounset",
    b"xtrace",
    b"verbose",
    b"noexec",
    b"onecmd",
    b"privileged",
    b"history",
    b"histexpand",
    b"emacs",
    b"vi",
    b"posix",
];

/// Reads the print of a command's shell.
pub(in super::super) fn read(raw: &[u8], nonce: &str, config: &ShellConfig) -> StateAfter {
    let sections = || raw.split(|byte| *byte == 0);
    let end = format!("end {nonce}");
    let count = sections().position(|section| section == end.as_bytes());
    let mut sections = sections().take(count.unwrap_or(0));
    if count < Some(SECTIONS) || sections.next() != Some(nonce.as_bytes()) {
        return if raw.len() >= MAX_RAW {
            StateAfter::TooLarge
        } else {
            StateAfter::Lost
        };
    }
    let mut next = || sections.next().unwrap_or_default();
    // In the order of `__omnirun_save`.
    let mut print = Print {
        cwd: next(),
        flags: next(),
        umask: next(),
        shopt: next(),
        set: next(),
        aliases: next(),
        functions: next(),
        function_flags: next(),
        variables: declare::variables(next()),
    };
    print.reveal(sections);
    print.into_state(config)
}

/// The sections of a print.
struct Print<'a> {
    cwd: &'a [u8],
    flags: &'a [u8],
    umask: &'a [u8],
    shopt: &'a [u8],
    set: &'a [u8],
    aliases: &'a [u8],
    functions: &'a [u8],
    function_flags: &'a [u8],
    variables: Vec<Variable<'a>>,
}

/// A part of the state that can be left out when it does not fit.
struct Piece {
    name: String,
    script: Vec<u8>,
    /// Whether it runs after our functions are defined.
    late: bool,
}

impl<'a> Print<'a> {
    /// A shell that exited within a function prints its functions' local variables too; it then prints again what is there
    /// once these are taken away, level by level, and a global hidden by a local shows up.
    fn reveal(&mut self, levels: impl Iterator<Item = &'a [u8]>) {
        let mut levels = levels.peekable();
        if levels.peek().is_none() {
            return;
        }
        let places: HashMap<&[u8], usize> = self
            .variables
            .iter()
            .enumerate()
            .map(|(at, variable)| (variable.name, at))
            .collect();
        for global in levels.flat_map(declare::variables) {
            if let Some(at) = places.get(global.name) {
                self.variables[*at] = global;
            }
        }
    }
}

impl Print<'_> {
    fn into_state(self, config: &ShellConfig) -> StateAfter {
        if self.variables.len() > MAX_VARIABLES {
            return StateAfter::TooLarge;
        }
        let (start, end) = (self.start(config), self.end());
        let mut pieces = self.pieces();
        let mut dropped = Vec::new();
        let fixed = HEADER.len() + start.len() + 1 + end.len();
        let mut size = fixed + pieces.iter().map(|piece| piece.script.len()).sum::<usize>();
        if size > MAX_SHELL_STATE {
            let mut by_size: Vec<usize> = (0..pieces.len()).collect();
            by_size.sort_by_key(|at| pieces[*at].script.len());
            while size > MAX_SHELL_STATE {
                let Some(largest) = by_size.pop() else {
                    return StateAfter::TooLarge;
                };
                let piece = &mut pieces[largest];
                size -= std::mem::take(&mut piece.script).len();
                dropped.push(std::mem::take(&mut piece.name));
            }
        }
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(HEADER);
        bytes.extend_from_slice(&start);
        pieces
            .iter()
            .filter(|piece| !piece.late)
            .for_each(|piece| bytes.extend_from_slice(&piece.script));
        bytes.push(0);
        pieces
            .iter()
            .filter(|piece| piece.late)
            .for_each(|piece| bytes.extend_from_slice(&piece.script));
        bytes.extend_from_slice(&end);
        StateAfter::Saved {
            state: ShellState(bytes),
            dropped,
        }
    }

    /// Directory, umask, `shopt`, and which variables of the environment were unset.
    fn start(&self, config: &ShellConfig) -> Vec<u8> {
        let mut script = Vec::new();
        if let Some(cwd) = self.cwd.strip_suffix(b"\n") {
            let cwd = quote(cwd);
            // The directory as an argument, so that whatever is in its name is printed and not interpreted.
            script.extend_from_slice(b"builtin cd -- ");
            script.extend_from_slice(&cwd);
            script.extend_from_slice(
                b" || { builtin cd -- \"$__omnirun_w\" || builtin cd /; builtin printf \
                  '[the working directory %s is gone; now in %s]\\n' ",
            );
            script.extend_from_slice(&cwd);
            script.extend_from_slice(b" \"$PWD\"; }\n");
        }
        let umask = self.umask.trim_ascii();
        if (1..=4).contains(&umask.len()) && umask.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
            script.extend_from_slice(&[b"builtin umask ", umask, b"\n"].concat());
        }
        let changed = changes(self.shopt, SHOPT_ON, &[]);
        for (sign, names) in [(b" -s ", changed.on), (b" -u ", changed.off)] {
            if !names.is_empty() {
                script.extend_from_slice(
                    &[b"builtin shopt", sign.as_slice(), &names.join(&b' '), b"\n"].concat(),
                );
            }
        }
        let kept: HashSet<&[u8]> = self.variables.iter().map(|variable| variable.name).collect();
        for (name, _) in &config.env {
            let name = name.as_bytes();
            let identifier = declare::variables(&[b"declare -- ", name].concat()).len() == 1;
            if identifier && !kept.contains(name) && !declare::is_the_shells_own(name) {
                script.extend_from_slice(&[b"builtin unset -v ", name, b"\n"].concat());
            }
        }
        script
    }

    /// Options. They come last: under some of them what comes before would not run.
    fn end(&self) -> Vec<u8> {
        let mut script = Vec::new();
        let changed = changes(self.set, SET_ON, SET_SKIP);
        for (sign, names) in [(b"-o ", changed.on), (b"+o ", changed.off)] {
            for name in names {
                script.extend_from_slice(&[b"builtin set ", sign.as_slice(), name, b"\n"].concat());
            }
        }
        // With these on, what we run around a command would print or fail; they are switched on with the command.
        let letters = [
            (b'x', "set -x;"),
            (b'v', "set -v;"),
            (b'u', "set -u;"),
            (b'e', "set -e;"),
        ];
        let flags: String = letters
            .iter()
            .filter(|(letter, _)| self.flags.contains(letter))
            .map(|(_, set)| *set)
            .collect();
        script.extend_from_slice(format!("__omnirun_p='{flags}'\n").as_bytes());
        if enabled(self.set).any(|name| name == b"posix") {
            script.extend_from_slice(b"builtin set -o posix\n");
        }
        script
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for Variable { flags, name, value } in &self.variables {
            if declare::is_the_shells_own(name) {
                continue;
            }
            let mut attributes: Vec<u8> = flags.iter().copied().filter(|flag| *flag != b'r').collect();
            if attributes.is_empty() {
                attributes.push(b'-');
            }
            let script = [
                // Not `builtin declare`: only after the bare word is an array parsed.
                b"declare -",
                attributes.as_slice(),
                b" ",
                name,
                value,
                b"\n",
            ]
            .concat();
            // This one switches the mode in which our functions could not be defined.
            let late = *name == b"POSIXLY_CORRECT";
            pieces.push(Piece {
                name: String::from_utf8_lossy(name).into_owned(),
                script,
                late,
            });
        }
        if !self.functions.trim_ascii().is_empty() {
            let mut script = [b"builtin eval ", quote(self.functions).as_slice(), b"\n"].concat();
            for line in lines(self.function_flags) {
                let Some((flags, name)) = line.strip_prefix(b"declare -f").and_then(split_at_space) else {
                    continue;
                };
                if flags.contains(&b'x') {
                    script.extend_from_slice(
                        &[b"builtin export -f -- ", quote(name).as_slice(), b"\n"].concat(),
                    );
                }
            }
            pieces.push(Piece {
                name: "functions".to_owned(),
                script,
                late: false,
            });
        }
        if !self.aliases.trim_ascii().is_empty() {
            // Late, or they would apply to the text of our functions.
            let script = [b"builtin eval ", quote(self.aliases).as_slice(), b"\n"].concat();
            pieces.push(Piece {
                name: "aliases".to_owned(),
                script,
                late: true,
            });
        }
        pieces
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// The names in a list like `$SHELLOPTS`.
fn enabled(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b':').filter(|name| is_option(name))
}

/// Options that are not as in a new shell.
struct Changes<'a> {
    on: Vec<&'a [u8]>,
    off: Vec<&'a [u8]>,
}

fn changes<'a>(list: &'a [u8], default: &[&'static [u8]], skip: &[&[u8]]) -> Changes<'a> {
    let on: HashSet<&[u8]> = enabled(list).collect();
    let off = default
        .iter()
        .copied()
        .filter(|name| !on.contains(name) && !skip.contains(name))
        .collect();
    let on = enabled(list)
        .filter(|name| !default.contains(name) && !skip.contains(name))
        .collect();
    Changes { on, off }
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..space], &text[space + 1..]))
}

fn is_option(name: &[u8]) -> bool {
    let allowed =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    !name.is_empty() && name.iter().all(allowed)
}
