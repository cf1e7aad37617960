use std::os::fd::OwnedFd;

use super::*;

/// Namespaces and taps are for those who may make them.
fn may() -> bool {
    let may = rustix::process::geteuid().is_root() && std::path::Path::new("/dev/net/tun").exists();
    if !may {
        eprintln!("nothing tested: this takes root and /dev/net/tun");
    }
    may
}

fn inode(namespace: &OwnedFd) -> u64 {
    rustix::fs::fstat(namespace).unwrap().st_ino
}

#[test]
fn work_is_done_elsewhere_and_the_caller_stays_where_it_is() {
    if !may() {
        return;
    }
    let here = namespace().unwrap();
    let there: OwnedFd = in_new_namespace(namespace).unwrap();
    assert_ne!(inode(&here), inode(&there));
    let again: OwnedFd = in_namespace(there.as_fd(), namespace).unwrap();
    assert_eq!(inode(&again), inode(&there));
    assert_eq!(inode(&namespace().unwrap()), inode(&here));
    let failed = in_namespace(there.as_fd(), || Err::<(), _>(io::Error::other("no")));
    assert_eq!(failed.unwrap_err().to_string(), "no");
}

#[test]
fn a_tap_outlives_its_maker_and_has_one_user_at_a_time() {
    if !may() {
        return;
    }
    let there = in_new_namespace(|| {
        create_tap("tap0")?;
        namespace()
    })
    .unwrap();
    let first = attach_tap(&there, "tap0").unwrap();
    let second = attach_tap(&there, "tap0").unwrap_err();
    assert_eq!(second.raw_os_error(), Some(libc::EBUSY));
    drop(first);
    attach_tap(&there, "tap0").unwrap();
    let missing = attach_tap(&there, "tap1").unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn names_that_no_link_can_have_are_refused() {
    for name in ["", "a\0b", "sixteen-bytes-xx"] {
        assert_eq!(create_tap(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn what_a_host_of_its_own_mounts_is_seen_by_its_children_only() {
    if !may() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("omnirun-new-host-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let look = || {
        let listing = std::process::Command::new("ls").arg(&folder).output().unwrap();
        String::from_utf8(listing.stdout).unwrap()
    };
    let here = namespace().unwrap();
    in_new_host(|| {
        assert_ne!(inode(&namespace()?), inode(&here));
        rustix::mount::mount("none", &folder, "tmpfs", rustix::mount::MountFlags::empty(), None)?;
        std::fs::write(folder.join("file"), "")?;
        assert_eq!(look(), "file\n");
        Ok::<_, io::Error>(())
    })
    .unwrap();
    assert_eq!(look(), "");
    std::fs::remove_dir(&folder).unwrap();
}
