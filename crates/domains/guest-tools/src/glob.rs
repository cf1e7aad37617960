//! `glob`: paths by pattern, newest first.

use crate::{
    Root, answer,
    error::ToolError,
    limits::{MAX_GLOB_RESULTS, MAX_WALK_ENTRIES, SEARCH_TIME},
    root::is_directory,
};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use omnirun_guest_proto::message::ToolResult;
use omnirun_tool_schema::GlobInput;
use rustix::fs::{Dir, FileType, OFlags};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Instant,
};

const TOOL: &str = "glob";

pub(crate) fn run(root: &Root, input: &GlobInput, deadline: Instant) -> Result<ToolResult, ToolError> {
    let pattern = Pattern::parse(&input.pattern)?;
    let base = match &input.path {
        Some(path) => root.resolve(TOOL, path)?,
        None => root.workdir().to_owned(),
    };
    let mut walk = Walk {
        root,
        pattern: &pattern,
        matches: Vec::new(),
        visited: 0,
        stopped: None,
    };
    // The plain directories that the pattern begins with are gone to directly: they may be links, which the walk does
    // not follow.
    if let Ok(start) = root.resolve(TOOL, &base.join(&pattern.prefix).to_string_lossy()) {
        walk.run(
            &start,
            &base.join(&pattern.prefix),
            deadline.min(Instant::now() + SEARCH_TIME),
        );
    }
    Ok(answer::text(walk.report()))
}

/// A pattern, taken apart.
struct Pattern {
    /// The plain directories at its start.
    prefix: PathBuf,
    /// The rest, against paths below them.
    globs: GlobSet,
    /// How deep a match can lie below them; none: any depth.
    depth: Option<usize>,
    /// It ended with `/`.
    directories_only: bool,
}

impl Pattern {
    fn parse(pattern: &str) -> Result<Self, ToolError> {
        if pattern.starts_with('/') {
            return Err(ToolError::message(
                "glob: absolute pattern not permitted; give the directory as path and a pattern relative to it",
            ));
        }
        let directories_only = pattern.ends_with('/');
        let segments: Vec<&str> = pattern
            .split('/')
            .filter(|segment| !matches!(*segment, "" | "."))
            .collect();
        if segments.contains(&"..") {
            return Err(ToolError::message(
                "glob: '..' in the pattern is not permitted; give the directory as path",
            ));
        }
        let plain = |segment: &&&str| !segment.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let prefix_len = segments
            .iter()
            .take_while(plain)
            .count()
            .min(segments.len().saturating_sub(1));
        let (prefix, rest) = segments.split_at(prefix_len);
        if rest.is_empty() {
            return Err(ToolError::message(
                "glob: pattern names nothing; use * for the entries of the directory",
            ));
        }
        let rest_text = rest.join("/");
        let mut globs = GlobSetBuilder::new();
        // Braces mean alternatives, but a name may have them too.
        let literal = rest_text.replace('{', "\\{").replace('}', "\\}");
        let alternatives = GlobBuilder::new(&rest_text).literal_separator(true).build();
        let as_written = GlobBuilder::new(&literal).literal_separator(true).build();
        match (alternatives, as_written) {
            (Err(error), Err(_)) => {
                return Err(ToolError::message(format!(
                    "glob: invalid pattern '{pattern}': {}",
                    error.kind()
                )));
            }
            (first, second) => [first, second].into_iter().flatten().for_each(|glob| {
                globs.add(glob);
            }),
        }
        let globs = globs.build().map_err(|error| {
            ToolError::message(format!("glob: invalid pattern '{pattern}': {}", error.kind()))
        })?;
        let depth = (!rest_text.contains("**") && !rest_text.contains('{')).then_some(rest.len());
        Ok(Self {
            prefix: prefix.iter().collect(),
            globs,
            depth,
            directories_only,
        })
    }
}

/// A walk, breadth first: when it has to stop, what is near has been seen.
struct Walk<'a> {
    root: &'a Root,
    pattern: &'a Pattern,
    /// Time of the last change, and the path as shown.
    matches: Vec<((i64, i64), PathBuf)>,
    visited: usize,
    stopped: Option<&'static str>,
}

impl Walk<'_> {
    /// Walks below the canonical directory `start`, which is shown as `shown`.
    fn run(&mut self, start: &Path, shown: &Path, deadline: Instant) {
        let mut directories = VecDeque::from([(PathBuf::new(), 1)]);
        while let Some((below, depth)) = directories.pop_front() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let Ok(fd) = self.root.at(&start.join(&below), flags) else {
                continue;
            };
            let Ok(entries) = Dir::new(fd) else { continue };
            for entry in entries {
                let Ok(entry) = entry else { break };
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                self.visited += 1;
                if self.visited > MAX_WALK_ENTRIES {
                    self.stopped = Some("entries");
                    return;
                }
                if self.visited.is_multiple_of(256) && Instant::now() > deadline {
                    self.stopped = Some("time");
                    return;
                }
                let path = below.join(OsStr::from_bytes(name));
                let kind = match entry.file_type() {
                    FileType::Unknown => match self.root.stat(&start.join(&path)) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(_) => continue,
                    },
                    kind => kind,
                };
                if self.pattern.globs.is_match(&path) {
                    self.add(&start.join(&path), shown.join(&path), kind);
                }
                if kind.is_dir() && self.pattern.depth.is_none_or(|max| depth < max) {
                    directories.push_back((path, depth + 1));
                }
            }
        }
    }

    fn add(&mut self, path: &Path, shown: PathBuf, kind: FileType) {
        let mut stat = self.root.stat(path);
        if kind.is_symlink() {
            // A link counts as what it points to, if that is permitted; one that points nowhere counts as itself.
            match self.root.canonical(path) {
                Ok(target) if !self.root.permits(&target) => return,
                Ok(target) => stat = self.root.stat(&target).or(stat),
                Err(_) => {}
            }
        }
        if self.pattern.directories_only && !stat.as_ref().is_ok_and(is_directory) {
            return;
        }
        // The types differ between architectures.
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        let time = stat.map_or((0, 0), |stat| {
            (i64::from(stat.st_mtime), stat.st_mtime_nsec as i64)
        });
        self.matches.push((time, shown));
    }

    fn report(mut self) -> String {
        let found = self.matches.len();
        self.matches
            .sort_by(|(a, a_path), (b, b_path)| b.cmp(a).then_with(|| a_path.cmp(b_path)));
        self.matches.truncate(MAX_GLOB_RESULTS);
        let mut lines: Vec<String> = self
            .matches
            .iter()
            .map(|(_, path)| path.to_string_lossy().into_owned())
            .collect();
        if lines.is_empty() {
            lines.push("no matches".to_owned());
        }
        if found > MAX_GLOB_RESULTS {
            lines.push(format!(
                "[the {MAX_GLOB_RESULTS} newest of {found} matches are shown; narrow the pattern or the path to see others]"
            ));
        }
        match self.stopped {
            Some("time") => lines.push(format!(
                "[stopped after {} s; narrow the pattern or the path to search the rest]",
                SEARCH_TIME.as_secs()
            )),
            Some(_) => lines.push(format!(
                "[stopped after {MAX_WALK_ENTRIES} entries; narrow the pattern or the path to search the rest]"
            )),
            None => {}
        }
        lines.join("\n")
    }
}
