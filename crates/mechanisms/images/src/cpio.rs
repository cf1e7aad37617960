//! A writer of cpio archives in the "newc" form that the kernel unpacks as initramfs.
//!
//! Deterministic: no clock, owners are root, inode numbers count up. The kernel accepts archives one after the other,
//! which is how the agent and the modules, built at different times, become one initramfs.

/// Kinds of entries, as `st_mode` has them.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written.
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    /// Adds a directory; its parent must have been added.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, DIRECTORY | mode, (0, 0), &[]);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | mode, (0, 0), content);
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER | mode, (major, minor), &[]);
    }

    /// Ends the archive, padded so that another may follow.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let links = if mode & DIRECTORY != 0 && mode & REGULAR == 0 {
            2
        } else {
            1
        };
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            content.len() as u32,
            0, // device that holds it
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // check, of the other format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Reads an archive back: path, mode and content of each entry.
#[cfg(test)]
pub(crate) fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut entries = Vec::new();
    let total = bytes.len();
    while !bytes.is_empty() {
        if bytes[0] == 0 {
            bytes = &bytes[1..];
            continue;
        }
        assert_eq!(&bytes[..6], b"070701", "at {}", total - bytes.len());
        let field = |n: usize| {
            u32::from_str_radix(std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap()
        };
        let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
        let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
        let start = (110 + name).next_multiple_of(4);
        let content = bytes[start..start + size].to_vec();
        bytes = &bytes[(start + size).next_multiple_of(4)..];
        if path != "TRAILER!!!" {
            entries.push((path, mode, content));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    fn sample() -> Vec<u8> {
        let mut cpio = Cpio::new();
        cpio.directory("dev", 0o755);
        cpio.device("dev/console", 0o600, 5, 1);
        cpio.file("init", 0o755, b"#!/bin/sh\n");
        cpio.file("empty", 0o644, b"");
        cpio.finish()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut two = sample();
        two.extend(sample());
        let entries = read(&two);
        assert_eq!(entries.len(), 8);
        assert_eq!(entries[0], ("dev".to_owned(), 0o040_755, vec![]));
        assert_eq!(entries[1].1, 0o020_600);
        assert_eq!(
            entries[6],
            ("init".to_owned(), 0o100_755, b"#!/bin/sh\n".to_vec())
        );
    }

    #[test]
    fn the_cpio_program_reads_it_too() {
        let Ok(mut child) = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return; // The reader above has seen the same bytes.
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}");
        for line in [
            "drwxr-xr-x",
            "crw-------",
            "-rwxr-xr-x   1 0        0              10",
            "5,   1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
