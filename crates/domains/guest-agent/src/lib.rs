//! The guest agent: PID 1 of every microVM.
//!
//! ```text
//!   boot                 straight line, once, before the snapshot                              [boot], [skeleton]
//!   serve                one thread, one poll: channel, processes, pipes                       [server]
//!     wake               entropy, clock, name: after it this clone is like no other            [wake]
//!     claim              session disk, overlay, environment, user                              [claim]
//!     exec, bash         processes in the sandbox                                              [exec], [process], [bash]
//!     files, tools       a copy of ourselves in the sandbox, as the user, one per call         [worker], [files]
//!     end of a call      kill what is left, syncfs                                             [finish], [syncer]
//! ```
//!
//! # What boot finds
//!
//! The initramfs holds `/init` (this program), `/template.conf` ([template]), `/modules.list` (paths of modules, one a
//! line, in the order to load them) and the modules, not compressed. The first virtio disk is the base (EROFS), the second
//! a placeholder that becomes the session disk. The channel is the virtio-serial port `omnirun.agent`, or where there is
//! none a vsock device ([`port`]).
//!
//! # Where tool processes live
//!
//! Before the snapshot boot makes a process that is init of a new pid namespace in a new mount namespace, does nothing but
//! let orphans be reaped, and prepares `/proc`, `/sys` and `/dev` there. A claim puts the overlay over that namespace's
//! root and these three into it. Lower layers are, from the top, a tmpfs with this sandbox's names (`/etc/hostname`,
//! `/etc/hosts`, `/etc/machine-id`) and the folders every sandbox has, and the base. PID 1 stays in the initramfs.
//!
//! PID 1 has itself entered the pid namespace for its children and given up the capabilities that sandboxes may not have in
//! its bounding set, so a child inherits both and only enters the mount namespace. It is born in a cgroup where a
//! fork bomb ends at a limit of processes, and where one write ends everything at the end of a call. A kernel out of memory
//! ends the biggest process, which is never PID 1.
//!
//! # Why it is built like this
//!
//! Under emulation each code page that a clone touches is translated again. Hence one thread, no async runtime, `poll`
//! over a list, children by `vfork`, and everything that can be opened, mounted, parsed or allocated before the snapshot is.
//! Nothing before the snapshot reads `boot_id` or draws a uuid: the kernel draws the boot id at its first reading.
//!
//! PID 1 never touches guest files on a call's behalf, with two exceptions that cannot block or leave the overlay
//! ([`users`]): passwd and group, for a user that is not the template's. A panic ends PID 1, hence the kernel, hence the VM.

mod bash;
mod boot;
mod card;
mod claim;
mod events;
mod exec;
mod files;
mod finish;
mod machine;
mod names;
mod paths;
mod port;
mod process;
mod reply;
mod sandbox;
mod server;
mod skeleton;
mod syncer;
mod tar_stream;
mod template;
mod users;
mod wake;
mod warm;
mod worker;

/// Runs as PID 1. Does not return: what cannot go on ends the VM.
pub fn run() {
    match boot::boot() {
        Ok(agent) => agent.serve(),
        // To the console, which the VMM keeps for people. Returning ends PID 1.
        Err(error) => eprintln!("omnirun-guest: {error}: {}", cause(&error)),
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}

/// The parser of `/template.conf`, for fuzzing: user, directory, whether capabilities stay, environment.
#[doc(hidden)]
pub fn fuzz_template(text: &str) -> (String, String, bool, Vec<(String, String)>) {
    let t = template::Template::parse(text);
    (t.user, t.workdir, t.keep_capabilities, t.env)
}

/// What a sandbox's passwd and group files say of somebody, for fuzzing: groups and home.
#[doc(hidden)]
pub fn fuzz_users(passwd: &str, group: &str, wanted: &str) -> Option<(Vec<u32>, String)> {
    users::find(passwd, group, wanted).map(|u| (u.identity.groups, u.home))
}
