//! The sandbox, as those who start processes in it need it: where, as whom, with what.

use crate::{
    paths::open,
    reply::Failure,
    skeleton::Skeleton,
    template::Template,
    users::{self, User},
};
use omnirun_guest_proto::message::{Claim, EnvVar, ErrorKind};
use omnirun_sys::guest::spawn::Place;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
    thread::CapabilitySet,
};
use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Capabilities that no sandbox has, unless its template asks for all.
pub(crate) const GIVEN_UP: [CapabilitySet; 4] = [
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::MKNOD,
];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a claim mounted.
pub(crate) struct Claimed {
    /// The overlay's root.
    pub(crate) root: OwnedFd,
    /// The session disk's root, which the sandbox does not see.
    pub(crate) disk: OwnedFd,
    /// `/state` on it.
    pub(crate) state: OwnedFd,
}

pub(crate) struct Sandbox {
    /// None: on a host, in tests.
    skeleton: Option<Skeleton>,
    claimed: Option<Claimed>,
    keep_capabilities: bool,
    user: User,
    cwd: String,
    env: Vec<(String, String)>,
    null: OwnedFd,
}

impl Sandbox {
    pub(crate) fn new(skeleton: Skeleton, template: &Template, user: User) -> io::Result<Self> {
        Ok(Self {
            skeleton: Some(skeleton),
            claimed: None,
            keep_capabilities: template.keep_capabilities,
            user,
            cwd: template.workdir.clone(),
            env: template.env.clone(),
            null: open("/dev/null", OFlags::RDWR)?,
        })
    }

    /// Processes run on this very host, as ourselves; `folder` stands for the session disk and the working directory.
    #[cfg(test)]
    pub(crate) fn on_host(folder: &std::path::Path) -> Self {
        let open_folder = || open(folder.to_str().unwrap(), OFlags::RDONLY).unwrap();
        let identity = omnirun_sys::guest::spawn::Identity {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: Vec::new(),
        };
        Self {
            skeleton: None,
            claimed: Some(Claimed {
                root: open("/", OFlags::PATH).unwrap(),
                disk: open_folder(),
                state: open_folder(),
            }),
            keep_capabilities: true,
            user: User {
                identity,
                name: "tester".into(),
                home: "/".into(),
            },
            cwd: folder.to_str().unwrap().into(),
            env: Vec::new(),
            null: open("/dev/null", OFlags::RDWR).unwrap(),
        }
    }

    pub(crate) fn skeleton(&self) -> Option<&Skeleton> {
        self.skeleton.as_ref()
    }

    pub(crate) fn claimed(&self) -> Option<&Claimed> {
        self.claimed.as_ref()
    }

    pub(crate) fn keeps_capabilities(&self) -> bool {
        self.keep_capabilities
    }

    /// Where its processes are born.
    pub(crate) fn place(&self) -> Place<'_> {
        match &self.skeleton {
            Some(skeleton) => Place {
                mounts: Some(skeleton.mounts.as_fd()),
                cgroup: Some(skeleton.cgroup.as_fd()),
                root: None,
            },
            None => Place::default(),
        }
    }

    pub(crate) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    pub(crate) fn cwd(&self) -> &str {
        &self.cwd
    }

    /// Takes what a claim brought.
    pub(crate) fn claim(&mut self, claimed: Claimed, claim: &Claim) -> Result<(), Failure> {
        self.claimed = Some(claimed);
        if !claim.user.is_empty() {
            self.user = self.find_user(&claim.user)?;
        }
        for EnvVar { name, value } in &claim.env {
            set(&mut self.env, name, value);
        }
        if !claim.cwd.is_empty() && claim.cwd != self.cwd {
            if !claim.cwd.starts_with('/') {
                return Err(Failure::new(
                    ErrorKind::Invalid,
                    "the working directory is not absolute",
                ));
            }
            self.cwd.clone_from(&claim.cwd);
            self.make_cwd().map_err(|e| Failure::of(&self.cwd, e))?;
        } else if !claim.user.is_empty() {
            self.make_cwd().map_err(|e| Failure::of(&self.cwd, e))?;
        }
        Ok(())
    }

    /// Makes the working directory, and gives it to the user, if it is not there or the template's alone.
    fn make_cwd(&self) -> Result<(), Errno> {
        let Some(claimed) = &self.claimed else {
            return Ok(());
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let open = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat2(&claimed.root, path, flags, Mode::empty(), resolve)
        };
        let mut at = open("/")?;
        let mut path = String::new();
        let mut made = false;
        for part in self.cwd.split('/').filter(|p| !p.is_empty() && *p != ".") {
            if part == ".." {
                return Err(Errno::INVAL);
            }
            path.push('/');
            path.push_str(part);
            match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => made = true,
                Err(Errno::EXIST) => made = false,
                Err(error) => return Err(error),
            }
            at = open(&path)?;
        }
        let stat = rustix::fs::fstat(&at)?;
        let identity = &self.user.identity;
        if made || (path == "/workspace" && stat.st_uid != identity.uid) {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(identity.uid),
                rustix::fs::Gid::from_raw(identity.gid),
            );
            rustix::fs::fchown(&at, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// A user of the sandbox, as its own files have it now.
    pub(crate) fn find_user(&self, wanted: &str) -> Result<User, Failure> {
        let Some(claimed) = &self.claimed else {
            return Err(Failure::new(ErrorKind::State, "not claimed"));
        };
        if wanted == self.user.name {
            return Ok(self.user.clone());
        }
        let root = claimed.root.as_fd();
        let (passwd, group) = (users::read(root, "etc/passwd"), users::read(root, "etc/group"));
        users::find(&passwd, &group, wanted)
            .ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("no user {wanted} in this sandbox")))
    }

    /// The environment of a process of `user`: what every process has, the template's, the claim's, then `more`.
    pub(crate) fn env(&self, user: &User, more: &[EnvVar]) -> Vec<(String, String)> {
        let mut env = Vec::with_capacity(self.env.len() + more.len() + 4);
        for (name, value) in [
            ("PATH", PATH),
            ("HOME", &*user.home),
            ("USER", &*user.name),
            ("LOGNAME", &*user.name),
        ] {
            env.push((name.to_owned(), value.to_owned()));
        }
        for (name, value) in &self.env {
            set(&mut env, name, value);
        }
        for EnvVar { name, value } in more {
            set(&mut env, name, value);
        }
        env
    }
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

/// `NAME=value` for each that an environment can hold.
pub(crate) fn env_strings(env: &[(String, String)]) -> Vec<CString> {
    let fine = env
        .iter()
        .filter(|(name, _)| !name.is_empty() && !name.contains('='));
    fine.filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect()
}

/// Paths to try for a program, as `execvp` does.
pub(crate) fn candidates(program: &[u8], env: &[(String, String)]) -> Vec<CString> {
    if program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(PATH, |(_, value)| value);
    let join = |folder: &str| CString::new([folder.as_bytes(), b"/", program].concat()).ok();
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .filter_map(join)
        .collect()
}
