//! From the kernel's hand-over to the loop: a straight line, all of it before the snapshot.

use crate::{
    card,
    events::Events,
    machine::Machine,
    names::Names,
    paths::{BASE, CGROUP, DISK, LAYER, open},
    port::Port,
    sandbox::{GIVEN_UP, Sandbox},
    server::Agent,
    skeleton::Skeleton,
    syncer::Syncer,
    template::Template,
    users::{self, User},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, mount},
    process::{Resource, Rlimit},
};
use std::{fs, io, os::fd::AsFd};

/// Pages used within this time, in milliseconds, are never evicted: where there is no other memory left, the kernel ends
/// the biggest process at once instead of reading that process's own program from the disk for ever (`min_ttl_ms` in
/// Linux's admin-guide/mm/multigen_lru.rst). It stays far below the time in which a stream of fresh file pages fills a
/// guest, so that reading large files is never taken for thrashing.
const WORKING_SET_MS: &str = "100";
/// Processes and threads of a sandbox. A fork bomb ends here.
const MAX_PROCESSES: u32 = 4096;
/// The step of booting that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub(crate) struct BootError {
    step: String,
    #[source]
    source: io::Error,
}

/// Names a step.
pub(crate) trait At<T> {
    fn at(self, step: &str) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &str) -> Result<T, BootError> {
        self.map_err(|e| BootError {
            step: step.to_owned(),
            source: e.into(),
        })
    }
}

pub(crate) fn boot() -> Result<Agent, BootError> {
    omnirun_sys::guest::own::own_root().at("part from the kernel's root")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    omnirun_sys::guest::own::default_sigpipe();
    mount_kernel_interfaces()?;
    load_modules()?;
    // Blocks until the kernel's generator is ready: a clone of a snapshot from before that would wait for it.
    rustix::rand::getrandom(&mut [0u8; 16], rustix::rand::GetRandomFlags::empty())
        .at("seed the random generator")?;
    omnirun_sys::guest::net::loopback_up().at("set the loopback interface up")?;
    let card = card::set_up()?;
    for dir in [BASE, DISK, LAYER] {
        fs::create_dir_all(dir).at(dir)?;
    }
    mount(
        "/dev/vda",
        BASE,
        "erofs",
        MountFlags::RDONLY | MountFlags::NOATIME,
        None,
    )
    .at("mount the base disk")?;
    let template = Template::parse(&fs::read_to_string("/template.conf").unwrap_or_default());
    let user = template_user(&template)?;
    let names = Names::open(&user, &template, card).at("prepare the sandbox's own files")?;
    limit_processes().at("limit the sandbox's processes")?;
    // Before there are namespaces: the sandbox is not to see it.
    let syncer = Syncer::start(DISK).at("start the process that syncs the disk")?;
    let skeleton = Skeleton::build()?;
    limit_ourselves(&template)?;
    let machine = Machine {
        uevents: Events::of_devices().at("listen to device events")?,
        disk_size: open("/sys/block/vdb/size", OFlags::RDONLY).at("find the session disk")?,
        random: open("/dev/urandom", OFlags::RDWR).at("open the random generator")?,
        names,
    };
    let sandbox = Sandbox::new(skeleton, &template, user).at("prepare the sandbox")?;
    let port = Port::open().at("open the channel to the host")?;
    Ok(Agent::new(machine, sandbox, syncer, port))
}

fn mount_kernel_interfaces() -> Result<(), BootError> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (kind, target) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(target).at(target)?;
        match mount(kind, target, kind, quiet, None) {
            // The kernel may have mounted /dev by itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(error).at(target),
        }
    }
    Ok(())
}

fn load_modules() -> Result<(), BootError> {
    let list = fs::read_to_string("/modules.list").unwrap_or_default();
    for path in list.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let image = fs::read(path).at(path)?;
        match rustix::system::init_module(&image, c"") {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).at(path),
        }
        // Its memory is of use to the sandbox.
        fs::remove_file(path).at(path)?;
    }
    Ok(())
}

fn template_user(template: &Template) -> Result<User, BootError> {
    let root = open(BASE, OFlags::PATH | OFlags::DIRECTORY).at(BASE)?;
    let passwd = users::read(root.as_fd(), "etc/passwd");
    let group = users::read(root.as_fd(), "etc/group");
    match users::find(&passwd, &group, &template.user) {
        Some(user) => Ok(user),
        None if template.user == "root" => Ok(User::root()),
        None => Err(io::Error::from(io::ErrorKind::NotFound))
            .at(&format!("find the template's user {}", template.user)),
    }
}

/// Memory has no limit of its own in there: a limit makes the kernel look for memory among the sandbox's pages alone, and
/// there it evicts a hog's program again and again before it gives up. Without one the whole machine's memory runs out,
/// and then the rule is [`WORKING_SET_MS`]. We ourselves need no spare memory: the kernel never ends PID 1, and nothing of
/// it can be evicted.
fn limit_processes() -> io::Result<()> {
    fs::write("/sys/kernel/mm/lru_gen/min_ttl_ms", WORKING_SET_MS)?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +pids")?;
    fs::create_dir(CGROUP)?;
    fs::write(format!("{CGROUP}/pids.max"), MAX_PROCESSES.to_string())
}

/// What children inherit.
fn limit_ourselves(template: &Template) -> Result<(), BootError> {
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(1024),
            maximum: Some(1 << 20),
        },
    )
    .at("set the limit of open files")?;
    if template.keep_capabilities {
        return Ok(());
    }
    // From the bounding set alone: PID 1 keeps them, what it executes cannot get them.
    for capability in GIVEN_UP {
        rustix::thread::remove_capability_from_bounding_set(capability).at("give capabilities up")?;
    }
    Ok(())
}
