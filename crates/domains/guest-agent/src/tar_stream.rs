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
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = entry.path_bytes().into_owned();
            if !entry.unpack_in(folder).map_err(failed)? {
                let shown = String::from_utf8_lossy(&name).into_owned();
                return Err(Failure::new(
                    ErrorKind::Invalid,
                    format!("{shown}: leaves the folder"),
                ));
            }
        }
    }
    // Behind the archive's end there is padding.
    io::copy(&mut input.by_ref(), &mut io::sink()).map_err(failed)?;
    Ok(done())
}

/// Packs a file or a folder; names in the stream begin with its last component. Links are packed as links, sockets are left
/// out.
pub(crate) fn pack(bytes: &[u8]) -> Result<Reply, Failure> {
    let path = files::path(bytes)?;
    let failed = |e: io::Error| Failure::of(path.display(), e);
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let mut output = files::output();
    let mut builder = tar::Builder::new(&mut output);
    builder.follow_symlinks(false);
    // The host takes plain entries only.
    builder.sparse(false);
    let name = path.components().rev().find_map(|c| match c {
        Component::Normal(name) => Some(Path::new(name)),
        _ => None,
    });
    if metadata.is_dir() {
        builder
            .append_dir_all(name.unwrap_or(Path::new(".")), path)
            .map_err(failed)?;
    } else {
        let name = name.ok_or_else(|| Failure::new(ErrorKind::Invalid, "not a file"))?;
        builder.append_path_with_name(path, name).map_err(failed)?;
    }
    builder.finish().map_err(failed)?;
    drop(builder);
    output.flush().map_err(failed)?;
    Ok(done())
}
