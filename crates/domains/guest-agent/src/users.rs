//! Users and groups, from the guest's passwd and group files alone (a static program has no NSS).

use omnirun_sys::guest::spawn::Identity;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::BorrowedFd;

/// A database of more than this is not read further.
const MAX: usize = 1 << 20;

/// Somebody to run processes as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) home: String,
}

impl User {
    /// Root, whatever the files say.
    pub(crate) fn root() -> Self {
        Self {
            identity: Identity {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            },
            name: "root".into(),
            home: "/root".into(),
        }
    }
}

/// Finds `user`, `uid`, `user:group` or `uid:gid`.
pub(crate) fn find(passwd: &str, group: &str, wanted: &str) -> Option<User> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let mut found = by_name(passwd, user).or_else(|| {
        let uid = user.parse().ok()?;
        let by_number = passwd.lines().filter_map(parse).find(|u| u.identity.uid == uid);
        Some(by_number.unwrap_or_else(|| User {
            identity: Identity {
                uid,
                gid: uid,
                groups: Vec::new(),
            },
            name: user.to_owned(),
            home: "/".into(),
        }))
    })?;
    found.identity.groups = memberships(group, &found.name);
    if let Some(wanted) = wanted_group {
        let by_name = group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(wanted))
                .then(|| fields.nth(1)?.parse().ok())
                .flatten()
        });
        found.identity.gid = by_name.or_else(|| wanted.parse().ok())?;
    }
    // To the kernel this number means "as it is", which is root.
    let Identity { uid, gid, .. } = found.identity;
    (uid != u32::MAX && gid != u32::MAX).then_some(found)
}

fn by_name(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().filter_map(parse).find(|u| u.name == name)
}

fn parse(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields
        .nth(1)
        .filter(|h| h.starts_with('/'))
        .unwrap_or("/")
        .to_owned();
    Some(User {
        identity: Identity {
            uid,
            gid,
            groups: Vec::new(),
        },
        name,
        home,
    })
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|m| m == user).then_some(gid)
    };
    // The kernel's limit is 65,536; nobody is in a hundred.
    group.lines().filter_map(member).take(64).collect()
}

/// Reads a database below `root`. It cannot block and cannot leave the file system that `root` is on: a sandbox's root
/// might have put a FIFO or a mount of its own there.
pub(crate) fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) else {
        return String::new();
    };
    let regular =
        rustix::fs::fstat(&file).is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file());
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while regular && text.len() < MAX {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\nagent:x:1000:1001:,,,:/home/agent:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:agent,other\ndocker:x:999:agent\nother:x:7:agentx\n";

    #[test]
    fn names_numbers_and_groups() {
        let agent = find(PASSWD, GROUP, "agent").unwrap();
        assert_eq!(
            agent.identity,
            Identity {
                uid: 1000,
                gid: 1001,
                groups: vec![50, 999]
            }
        );
        assert_eq!(agent.home, "/home/agent");
        assert_eq!(find(PASSWD, GROUP, "1000").unwrap(), agent);
        assert_eq!(find(PASSWD, GROUP, "agent:staff").unwrap().identity.gid, 50);
        assert_eq!(find(PASSWD, GROUP, "root:7").unwrap().identity.gid, 7);
        let nobody = find(PASSWD, GROUP, "4242").unwrap();
        assert_eq!(
            (nobody.identity.uid, nobody.identity.gid, &*nobody.home),
            (4242, 4242, "/")
        );
        assert_eq!(find(PASSWD, GROUP, "stranger"), None);
        assert_eq!(find(PASSWD, GROUP, "agent:nogroup"), None);
        for root in ["4294967295", "agent:4294967295"] {
            assert_eq!(find(PASSWD, GROUP, root), None, "{root}");
        }
    }
}
