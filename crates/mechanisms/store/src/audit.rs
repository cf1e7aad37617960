//! What left a sandbox and what was stopped: one file of JSON lines for each subject (a session, or a lone sandbox).
//!
//! ```text
//!   audit/<subject>.jsonl     appended to, a line at a time, by every process that serves the subject
//!   audit/<subject>.jsonl.1   what was before it, once it had grown to [`ROTATE_AT`]
//! ```
//!
//! A line goes out in one write to a file that is opened for appending, so lines of several processes do not mix. The
//! log is what an operator reads, and what a policy is learnt from; it is not read on any path of a call.

use crate::{DataDir, StoreError, error::file};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// A file that has grown to so many bytes makes room for a new one; the one before that goes.
pub const ROTATE_AT: u64 = 16 << 20;
/// No line is longer; a reader stops at one that is.
const MAX_LINE: u64 = 16 << 10;
/// The extension of the files.
const EXTENSION: &str = "jsonl";

/// The audit log of a data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    folder: PathBuf,
}

impl AuditLog {
    /// Of this data folder.
    pub fn of(data: &DataDir) -> Self {
        Self { folder: data.audit() }
    }

    /// Appends a line, which must hold no line break.
    ///
    /// # Errors
    /// [`StoreError::File`]; then none of it is there, or all but the break at its end.
    pub fn append(&self, subject: &str, line: &str) -> Result<(), StoreError> {
        let path = self.path(subject);
        let mut options = File::options();
        options.append(true).create(true).mode(0o600);
        let open = || options.open(&path).map_err(file("open", &path));
        let mut log = open()?;
        if log.metadata().map_err(file("stat", &path))?.len() >= ROTATE_AT {
            // Two processes may do this at once: then the second moves a file that has just begun.
            let before = path.with_extension(format!("{EXTENSION}.1"));
            fs::rename(&path, &before).map_err(file("rename", &path))?;
            log = open()?;
        }
        let mut whole = String::with_capacity(line.len() + 1);
        whole.push_str(line);
        whole.push('\n');
        log.write_all(whole.as_bytes()).map_err(file("append to", &path))
    }

    /// The lines of a subject, the oldest first; none if nothing was logged. What is no UTF-8 or too long is left out.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn lines(&self, subject: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(subject);
        let mut lines = Vec::new();
        for path in [path.with_extension(format!("{EXTENSION}.1")), path] {
            match File::open(&path) {
                Ok(log) => read_lines(log, &mut lines).map_err(file("read", &path))?,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(file("open", &path)(e)),
            }
        }
        Ok(lines)
    }

    /// The subjects that something was logged of, in order.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn subjects(&self) -> Result<Vec<String>, StoreError> {
        let mut found: Vec<String> = self
            .files()?
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == EXTENSION))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Removes what nobody has written to for so long; says which files.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn sweep(&self, unused_for: Duration) -> Result<Vec<PathBuf>, StoreError> {
        let now = SystemTime::now();
        let mut removed = Vec::new();
        for path in self.files()? {
            let written = fs::metadata(&path).and_then(|m| m.modified());
            let age = written.ok().and_then(|at| now.duration_since(at).ok());
            if age.is_some_and(|age| age > unused_for) && fs::remove_file(&path).is_ok() {
                removed.push(path);
            }
        }
        Ok(removed)
    }

    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let list = file("list", &self.folder);
        let entries = fs::read_dir(&self.folder).and_then(|all| all.map(|e| Ok(e?.path())).collect());
        entries.map_err(list)
    }

    /// Subjects are ids of ours and of the API's. What else is in one cannot lead out of the folder.
    fn path(&self, subject: &str) -> PathBuf {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name: String = subject
            .chars()
            .map(|c| if safe(c) { c } else { '_' })
            .take(128)
            .collect();
        self.folder.join(name).with_extension(EXTENSION)
    }
}

fn read_lines(log: File, lines: &mut Vec<String>) -> std::io::Result<()> {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut log).take(MAX_LINE).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => lines.extend(String::from_utf8(std::mem::take(&mut line))),
            // A line that is being written at this moment, or was when its writer died.
            Some(_) if (read as u64) < MAX_LINE => return Ok(()),
            Some(_) => skip_line(&mut log)?,
            None => return Ok(()),
        }
    }
}

/// Reads on to the end of a line.
fn skip_line(log: &mut BufReader<File>) -> std::io::Result<()> {
    loop {
        let buffer = log.fill_buf()?;
        let (used, over) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        log.consume(used);
        if over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::dir;

    #[test]
    fn lines_come_back_in_their_order_and_a_broken_end_is_left_out() {
        let (_tmp, data) = dir();
        let log = AuditLog::of(&data);
        assert!(log.lines("sesn_1").unwrap().is_empty());
        for n in 0..3 {
            log.append("sesn_1", &format!("{{\"n\":{n}}}")).unwrap();
        }
        let path = data.audit().join("sesn_1.jsonl");
        let mut raw = File::options().append(true).open(&path).unwrap();
        raw.write_all(&[b'x'; 40_000]).unwrap();
        raw.write_all(b"\n{\"n\":3}\n{\"n\":").unwrap();
        let lines = log.lines("sesn_1").unwrap();
        assert_eq!(lines, ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]);
        assert_eq!(log.subjects().unwrap(), ["sesn_1"]);
    }

    #[test]
    fn a_large_file_makes_room_and_its_predecessor_is_read_first() {
        let (_tmp, data) = dir();
        let log = AuditLog::of(&data);
        log.append("s", "old").unwrap();
        File::options()
            .write(true)
            .open(data.audit().join("s.jsonl"))
            .unwrap()
            .set_len(ROTATE_AT)
            .unwrap();
        log.append("s", "new").unwrap();
        let lines = log.lines("s").unwrap();
        assert_eq!(
            (lines.first().unwrap().as_str(), lines.last().unwrap().as_str()),
            ("old", "new")
        );
        assert_eq!(log.subjects().unwrap(), ["s"]);
    }

    #[test]
    fn no_subject_leads_out_of_the_folder() {
        let (_tmp, data) = dir();
        let log = AuditLog::of(&data);
        log.append("../../x", "line").unwrap();
        assert_eq!(log.subjects().unwrap(), ["______x"]);
    }

    #[test]
    fn what_is_old_goes() {
        let (_tmp, data) = dir();
        let log = AuditLog::of(&data);
        log.append("s", "line").unwrap();
        assert!(log.sweep(Duration::from_secs(60)).unwrap().is_empty());
        assert_eq!(log.sweep(Duration::ZERO).unwrap().len(), 1);
        assert!(log.lines("s").unwrap().is_empty());
    }
}
