//! Names and link targets of a guest: which of them stay below the top.

use super::{MAX_NAME, UnpackError};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// Folders in each other.
const MAX_DEPTH: usize = 256;

/// A name as a path below the top; none for the top itself.
pub(super) fn relative(name: &[u8]) -> Result<Option<PathBuf>, UnpackError> {
    if name.contains(&0) || name.len() as u64 > MAX_NAME {
        return Err(UnpackError::Path(shown(name)));
    }
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(UnpackError::Path(shown(name)));
            }
        }
    }
    if path.components().count() > MAX_DEPTH {
        return Err(UnpackError::TooMuch(format!("{MAX_DEPTH} folders in each other")));
    }
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

/// Whether a link at this path leads to something below the top, whatever other links there are; with `named`, below the
/// one name at the top.
pub(super) fn stays(link: &Path, target: &Path, named: bool) -> bool {
    let Some(mut depth) = link.components().count().checked_sub(1 + usize::from(named)) else {
        return false;
    };
    let mut down = false;
    let empty = target.as_os_str().is_empty() || target.as_os_str().as_bytes().contains(&0);
    !empty
        && target.components().all(|part| match part {
            Component::Normal(_) => {
                down = true;
                true
            }
            Component::CurDir => true,
            Component::ParentDir if !down && depth > 0 => {
                depth -= 1;
                true
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
        })
}

/// A guest's name, for a message: short, and without anything that a terminal would obey.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)])
        .escape_debug()
        .to_string()
}
