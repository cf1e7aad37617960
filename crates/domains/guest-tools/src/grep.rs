//! `grep`: lines by regular expression, by ripgrep's own crates and rules.
//!
//! Ignore files count and hidden files are skipped when a directory is searched, not when a file is named; binary files
//! are skipped; links are not followed. Files come in the order of their names, so that the same search gives the same
//! answer.

use crate::{
    Root, answer,
    error::ToolError,
    limits::{MAX_GREP_BYTES, MAX_GREP_LINE, MAX_SEARCH_LINE, MAX_WALK_ENTRIES, SEARCH_TIME},
    root::{is_directory, is_regular},
};
use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkFinish, SinkMatch};
use ignore::WalkBuilder;
use omnirun_guest_proto::message::ToolResult;
use omnirun_tool_schema::GrepInput;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Instant,
};

const TOOL: &str = "grep";

pub(crate) fn run(root: &Root, input: &GrepInput, deadline: Instant) -> Result<ToolResult, ToolError> {
    let matcher = matcher(&input.pattern)?;
    let given = input.path.as_deref().unwrap_or(".");
    let path = root.resolve(TOOL, given)?;
    let stat = root
        .stat(&path)
        .map_err(|error| ToolError::system(TOOL, given, error))?;
    let mut search = Search {
        root,
        matcher: &matcher,
        searcher: searcher(),
        found: Found::default(),
        deadline: deadline.min(Instant::now() + SEARCH_TIME),
        unreadable: 0,
        stopped: None,
    };
    if is_directory(&stat) {
        search.directory(&path);
    } else if is_regular(&stat) {
        search.file(&path, true);
    } else {
        return Err(ToolError::path(TOOL, given, "not a regular file or directory"));
    }
    Ok(answer::text(search.report()))
}

fn matcher(pattern: &str) -> Result<RegexMatcher, ToolError> {
    // A pattern can be made to need gigabytes; these are its bounds.
    let mut builder = RegexMatcherBuilder::new();
    builder
        .multi_line(true)
        .line_terminator(Some(b'\n'))
        .size_limit(10 << 20)
        .dfa_size_limit(32 << 20);
    builder.build(pattern).map_err(|error| {
        let text = error.to_string();
        // The parser draws a picture over several lines; its last line is the sentence.
        let sentence = text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        ToolError::message(format!(
            "grep: invalid regex: {}",
            sentence.trim_start_matches("error: ")
        ))
    })
}

fn searcher() -> Searcher {
    SearcherBuilder::new()
        .line_number(true)
        .heap_limit(Some(MAX_SEARCH_LINE))
        .binary_detection(BinaryDetection::quit(0))
        .build()
}

struct Search<'a> {
    root: &'a Root,
    matcher: &'a RegexMatcher,
    searcher: Searcher,
    found: Found,
    deadline: Instant,
    unreadable: usize,
    stopped: Option<&'static str>,
}

impl Search<'_> {
    fn directory(&mut self, path: &Path) {
        let mut walk = WalkBuilder::new(self.root.seen(path));
        walk.add_custom_ignore_filename(".rgignore")
            .sort_by_file_name(Ord::cmp);
        for (count, entry) in walk.build().enumerate() {
            if count > MAX_WALK_ENTRIES {
                self.stopped = Some("entries");
                return;
            }
            if Instant::now() > self.deadline {
                self.stopped = Some("time");
                return;
            }
            let Ok(entry) = entry else {
                self.unreadable += 1;
                continue;
            };
            if entry.file_type().is_some_and(|kind| kind.is_file())
                && let Some(path) = self.root.unseen(entry.path())
            {
                self.file(&path, false);
            }
            if self.found.full || self.stopped.is_some() {
                return;
            }
        }
    }

    /// Searches one file. `named`: the model gave its path.
    fn file(&mut self, path: &Path, named: bool) {
        // What the walk saw is opened anew, without links: a tree that changes meanwhile leads nowhere else.
        let Ok(Some((fd, _))) = self.root.regular(path) else {
            self.unreadable += 1;
            return;
        };
        let reader = Bounded {
            file: File::from(fd),
            deadline: self.deadline,
        };
        let shown = path.to_string_lossy();
        let sink = Lines {
            path: &shown,
            matcher: self.matcher,
            found: &mut self.found,
            named,
        };
        match self.searcher.search_reader(self.matcher, reader, sink) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.stopped = Some("time"),
            Err(_) => self.unreadable += 1,
        }
    }

    fn report(self) -> String {
        let mut text = self.found.text;
        let mut notes = Vec::new();
        if self.found.full {
            notes.push(format!(
                "[output truncated at {MAX_GREP_BYTES} bytes] Narrow the pattern or the path to see the rest."
            ));
        }
        match self.stopped {
            Some("time") => notes.push(format!(
                "[stopped after {} s; narrow the path to search the rest]",
                SEARCH_TIME.as_secs()
            )),
            Some(_) => {
                notes.push(format!(
                    "[stopped after {MAX_WALK_ENTRIES} entries; narrow the path to search the rest]"
                ));
            }
            None => {}
        }
        if self.unreadable > 0 {
            notes.push(format!(
                "[{} files or directories could not be read]",
                self.unreadable
            ));
        }
        if text.is_empty() {
            text.push_str("no matches\n");
        }
        text.push_str(&notes.join("\n"));
        text.truncate(text.trim_end_matches('\n').len());
        text
    }
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    text: String,
    full: bool,
}

impl Found {
    fn push(&mut self, line: &str) -> bool {
        if self.text.len() + line.len() > MAX_GREP_BYTES {
            self.full = true;
        } else {
            self.text.push_str(line);
        }
        !self.full
    }
}

/// A file that is not read beyond the deadline.
struct Bounded {
    file: File,
    deadline: Instant,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.file.read(buffer)
    }
}

/// Takes the matching lines of one file.
struct Lines<'a> {
    path: &'a str,
    matcher: &'a RegexMatcher,
    found: &'a mut Found,
    named: bool,
}

impl Sink for Lines<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, line: &SinkMatch<'_>) -> Result<bool, io::Error> {
        let number = line.line_number().unwrap_or(0);
        let bytes = line.bytes().strip_suffix(b"\n").unwrap_or(line.bytes());
        let text = shortened(bytes, self.matcher);
        Ok(self.found.push(&format!("{}:{number}:{text}\n", self.path)))
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> Result<(), io::Error> {
        if let Some(offset) = finish.binary_byte_offset().filter(|_| self.named) {
            self.found.push(&format!(
                "[{} is a binary file: a NUL byte at offset {offset}; what follows it was not searched]\n",
                self.path
            ));
        }
        Ok(())
    }
}

/// A line, or of a very long one the part around its first match.
fn shortened(line: &[u8], matcher: &RegexMatcher) -> String {
    if line.len() <= MAX_GREP_LINE {
        return String::from_utf8_lossy(line).into_owned();
    }
    let found = matcher.find(line).ok().flatten().map_or(0, |found| found.start());
    let start = if found < MAX_GREP_LINE * 3 / 4 {
        0
    } else {
        found - MAX_GREP_LINE / 4
    };
    let end = (start + MAX_GREP_LINE).min(line.len());
    let before = if start > 0 { "..." } else { "" };
    let part = String::from_utf8_lossy(&line[start..end]);
    format!(
        "{before}{part}... [line of {} bytes, {} of them shown]",
        line.len(),
        end - start
    )
}
