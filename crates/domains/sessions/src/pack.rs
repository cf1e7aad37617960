//! A folder or file of the host as a tar stream, for a sandbox to unpack.
//!
//! What is packed is the operator's own, so it is trusted to be what they want; but it may change while it is read, and
//! a link in it must not pull in what lies elsewhere. So links are packed as links, each file is opened once and checked
//! then, and what is no file, folder or link is refused by name.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
};
use tokio::{net::UnixStream, task::JoinHandle};

/// What the stream's names begin with.
#[derive(Debug, Clone)]
pub enum Root {
    /// What is in the folder, without the folder.
    Contents,
    /// The file or folder, under this name.
    As(OsString),
}

/// Packs in the background, as fast as the stream is read. The task says whether the stream is whole.
pub fn stream(path: PathBuf, root: Root) -> (PackStream, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = match pair() {
        Ok(pair) => pair,
        Err(error) => {
            return (
                PackStream::Empty(tokio::io::empty()),
                tokio::spawn(async { Err(error) }),
            );
        }
    };
    let packing = tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(128 * 1024, ours);
        pack(&path, &root, &mut out)?;
        out.flush()
    });
    (PackStream::Socket(theirs), packing)
}

/// A socket pair: a blocking end for a thread, the other for the runtime.
pub(crate) fn pair() -> io::Result<(StdStream, UnixStream)> {
    let (ours, theirs) = StdStream::pair()?;
    theirs.set_nonblocking(true)?;
    Ok((ours, UnixStream::from_std(theirs)?))
}

/// The reading end of [`stream`].
#[derive(Debug)]
pub enum PackStream {
    /// The stream.
    Socket(UnixStream),
    /// There is none; the task says why.
    Empty(tokio::io::Empty),
}

impl tokio::io::AsyncRead for PackStream {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(s) => std::pin::Pin::new(s).poll_read(cx, buf),
            Self::Empty(e) => std::pin::Pin::new(e).poll_read(cx, buf),
        }
    }
}

/// Writes the stream.
///
/// # Errors
/// What the file system or the writer says, with the path in it; a socket or device below `path`.
pub fn pack(path: &Path, root: &Root, out: &mut impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    match root {
        Root::Contents => contents(&mut tar, path, Path::new(""))?,
        Root::As(name) => entry(&mut tar, path, Path::new(name))?,
    }
    tar.finish()
}

fn contents<W: Write>(tar: &mut tar::Builder<W>, dir: &Path, name: &Path) -> io::Result<()> {
    let mut names: Vec<OsString> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
        .map_err(|e| at(dir, e))?;
    names.sort();
    for file in names {
        entry(tar, &dir.join(&file), &name.join(&file))?;
    }
    Ok(())
}

fn entry<W: Write>(tar: &mut tar::Builder<W>, path: &Path, name: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path).map_err(|e| at(path, e))?;
    let kind = meta.file_type();
    if kind.is_dir() {
        let mut header = header(&meta, tar::EntryType::Directory, 0);
        tar.append_data(&mut header, name, io::empty())?;
        contents(tar, path, name)
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|e| at(path, e))?;
        let mut header = header(&meta, tar::EntryType::Symlink, 0);
        tar.append_link(&mut header, name, target)
    } else if kind.is_file() {
        // It may be another one by now: what is opened is what counts.
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| at(path, e))?;
        let meta = file.metadata().map_err(|e| at(path, e))?;
        if !meta.is_file() {
            return Err(at(path, io::Error::other("it changed while it was read")));
        }
        let mut header = header(&meta, tar::EntryType::Regular, meta.len());
        tar.append_data(
            &mut header,
            name,
            Exact {
                file,
                left: meta.len(),
            },
        )
        .map_err(|e| at(path, e))
    } else {
        let what = match () {
            () if kind.is_socket() => "a socket",
            () if kind.is_fifo() => "a pipe",
            () => "a device",
        };
        Err(at(
            path,
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{what} cannot be copied into a sandbox"),
            ),
        ))
    }
}

fn header(meta: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & 0o7777);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    // Who they belong to in the sandbox is decided there.
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Exactly as many bytes as the header says: what was appended since is left out, and a file that has become shorter is
/// an error, since the rest of the stream would be garbage.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            ));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn packs_files_folders_and_links_as_they_are() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("seed");
        fs::create_dir_all(dir.join("sub/empty")).unwrap();
        fs::write(dir.join("sub/run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("sub/run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(tmp.path().join("secret"), "s").unwrap();
        symlink("../secret", dir.join("link")).unwrap();
        let long = "n".repeat(180);
        fs::write(dir.join(&long), "x").unwrap();

        let mut bytes = Vec::new();
        pack(&dir, &Root::Contents, &mut bytes).unwrap();
        assert_eq!(names(&bytes), ["link", &long, "sub", "sub/empty", "sub/run.sh"]);
        for e in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let e = e.unwrap();
            match e.path().unwrap().to_str().unwrap() {
                "link" => assert_eq!(e.link_name().unwrap().unwrap(), Path::new("../secret")),
                "sub/run.sh" => assert_eq!(e.header().mode().unwrap(), 0o750),
                _ => {}
            }
        }
        let mut bytes = Vec::new();
        pack(&dir.join("sub/run.sh"), &Root::As("renamed".into()), &mut bytes).unwrap();
        assert_eq!(names(&bytes), ["renamed"]);
    }

    #[test]
    fn refuses_sockets_by_name() {
        let tmp = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tmp.path().join("s")).unwrap();
        let error = pack(tmp.path(), &Root::Contents, &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("/s: a socket"), "{error}");
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("f"), "abc").unwrap();
        let file = File::open(tmp.path().join("f")).unwrap();
        let mut out = Vec::new();
        assert!(Exact { file, left: 4 }.read_to_end(&mut out).is_err());
    }
}
