//! Tar streams in and out, in a [worker](crate::worker).

use crate::{
    files,
    reply::{Failure, done},
};
use omnirun_guest_proto::message::{ErrorKind, Reply};
use std::{
    fs,
    io::{self, Read, Write},
    path::{Component, Path},
};

/// Unpacks below a folder. What would land elsewhere is refused, and ends it.
pub(crate) fn unpack(bytes: &[u8]) -> Result<Reply, Failure> {
    let folder = files::path(bytes)?;
    let failed = |e: io::Error| Failure::of(folder.display(), e);
    fs::create_dir_all(folder).map_err(failed)?;
    let mut input = files::input();
    let root = rustix::process::geteuid().is_root();
    {
        let mut archive = tar::Archive::new(&mut input);
        archive.set_preserve_permissions(true);
        archive.set_preserve_mtime(true);
        archive.set_preserve_ownerships(root);
        archive.set_overwrite(true);
        let unpack = |entry: &mut tar::Entry<'_, _>| {
            if entry.unpack_in(folder).map_err(failed)? {
                return Ok(());
            }
            let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let message = format!("{shown}: leaves the folder");
            Err(Failure::new(ErrorKind::Invalid, message))
        };
        let mut folders = Vec::new();
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            if entry.header().entry_type().is_dir() {
                folders.push(entry);
            } else {
                unpack(&mut entry)?;
            }
        }
        // Innermost first, and not before all that is in them is there: their modes may forbid it.
        folders.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
        folders.iter_mut().try_for_each(unpack)?;
    }
    // Behind the archive's end there is padding.
    io::copy(&mut input.by_ref(), &mut io::sink()).map_err(failed)?;
    Ok(done())
}

/// Packs a file or a folder; names in the stream begin with its last component. Links are packed as links; sockets, FIFOs
/// and devices in a folder are left out.
pub(crate) fn pack(bytes: &[u8]) -> Result<Reply, Failure> {
    let path = files::path(bytes)?;
    let failed = |e: io::Error| Failure::of(path.display(), e);
    let is_content = |kind: fs::FileType| kind.is_dir() || kind.is_file() || kind.is_symlink();
    let name = path.components().rev().find_map(|c| match c {
        Component::Normal(name) => Some(Path::new(name)),
        _ => None,
    });
    if !is_content(fs::symlink_metadata(path).map_err(failed)?.file_type()) {
        return Err(Failure::new(
            ErrorKind::Invalid,
            format!("{}: not a file or folder", path.display()),
        ));
    }
    let mut output = files::output();
    let mut builder = tar::Builder::new(&mut output);
    builder.follow_symlinks(false);
    // The host takes plain entries only.
    builder.sparse(false);
    let mut pending = vec![(path.to_owned(), name.unwrap_or(Path::new(".")).to_owned())];
    while let Some((from, to)) = pending.pop() {
        let failed = |e: io::Error| Failure::of(from.display(), e);
        let kind = fs::symlink_metadata(&from).map_err(failed)?.file_type();
        if !is_content(kind) {
            continue;
        }
        if kind.is_dir() {
            builder.append_dir(&to, &from).map_err(failed)?;
            for entry in fs::read_dir(&from).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                pending.push((entry.path(), to.join(entry.file_name())));
            }
        } else {
            builder.append_path_with_name(&from, &to).map_err(failed)?;
        }
    }
    builder.finish().map_err(failed)?;
    drop(builder);
    output.flush().map_err(failed)?;
    Ok(done())
}
