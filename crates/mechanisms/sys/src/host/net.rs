//! Network namespaces and taps.
//!
//! A namespace is a property of a thread, and a thread in the wrong one does harm silently. So nothing here moves a
//! thread that has anything else to do: [`in_new_namespace`] and [`in_namespace`] run a piece of work on a thread of its
//! own, which ends with the work (some 50 µs, measured), and never has to find the way back.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread::{self, ScopedJoinHandle},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::MountPropagationFlags,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

/// What every tap of ours is: whole Ethernet frames, no packet information, each with a virtio header. It is also what
/// Firecracker asks for when it opens a tap by name, and the flags must agree with those of a persistent one.
const TAP_FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Runs `work` in a network namespace that is new and empty, on a thread of its own.
///
/// The namespace lives for as long as something holds it: a descriptor (see [`namespace`]) or a socket.
///
/// # Errors
/// No thread could be had, or the kernel refused the namespace (that takes `CAP_SYS_ADMIN`); or what `work` returns.
///
/// # Panics
/// If `work` does.
pub fn in_new_namespace<T, E>(work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<io::Error> + Send,
{
    on_own_thread(move || {
        // SAFETY: only the network namespace is parted with. The danger of the call is in `FILES`: descriptors that
        // mean something else in another thread.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)?;
        work()
    })
}

/// As [`in_new_namespace`], and the thread also has a view of the file systems of its own: what is mounted there is seen
/// by it and the processes that it starts, and is gone with the last of them.
///
/// # Errors
/// As [`in_new_namespace`].
///
/// # Panics
/// If `work` does.
pub fn in_new_host<T, E>(work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<io::Error> + Send,
{
    on_own_thread(move || {
        // SAFETY: as above; a mount namespace parts the thread's root and working directory from those of the others
        // too, which changes no descriptor.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .map_err(io::Error::from)?;
        // Else what is mounted here would show outside.
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(io::Error::from)?;
        work()
    })
}

/// Runs `work` in `namespace`, on a thread of its own.
///
/// # Errors
/// No thread could be had, `namespace` is none, or we may not enter it (that takes `CAP_SYS_ADMIN`); or what `work`
/// returns.
///
/// # Panics
/// If `work` does.
pub fn in_namespace<T, E>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<io::Error> + Send,
{
    on_own_thread(move || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)?;
        work()
    })
}

fn on_own_thread<T, E>(work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<io::Error> + Send,
{
    thread::scope(|scope| {
        let thread: ScopedJoinHandle<'_, Result<T, E>> = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The network namespace of the calling thread.
///
/// # Errors
/// There is no `/proc`.
pub fn namespace() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/proc/thread-self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Makes a persistent tap in the calling thread's namespace: it stays when nobody has it open, goes with the namespace,
/// and belongs to nobody in particular (whoever opens it needs `CAP_NET_ADMIN`).
///
/// # Errors
/// There is no `/dev/net/tun`, we may not, or the name is too long or taken.
pub fn create_tap(name: &str) -> io::Result<()> {
    let tap = open_tap(name)?;
    // SAFETY: the argument is an integer.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets a user of this id open the persistent tap `name` of `namespace`. Nobody may have it open.
///
/// # Errors
/// As [`attach_tap`].
pub fn give_tap(namespace: impl AsFd, name: &str, uid: u32) -> io::Result<()> {
    let tap = attach_tap(namespace, name)?;
    // SAFETY: the argument is an integer.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(uid)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens the persistent tap `name` of `namespace`. Frames go through the descriptor until it is closed, each after a
/// virtio header of [`VNET_HEADER`] bytes unless its holder asks for another size. It is in non-blocking mode, and only
/// one can be had at a time (`EBUSY`).
///
/// # Errors
/// As [`in_namespace`]; there is no such tap or it is in use.
pub fn attach_tap(namespace: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    in_namespace(namespace.as_fd(), || {
        // Asking for a name that is not there would make one.
        rustix::net::netdevice::name_to_index(socket()?, name)?;
        open_tap(name)
    })
}

/// Size of the header before each frame of a tap ([`attach_tap`]).
pub const VNET_HEADER: usize = 10;

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Opens the tap `name` of the calling thread's namespace; makes it when there is none.
fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: a structure of integers, arrays and unions of such, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.as_bytes();
    // The last byte stays the terminator.
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = TAP_FLAGS as libc::c_short;
    // SAFETY: the request is a whole `ifreq` with a terminated name (checked above), which the kernel reads and writes
    // during the call and keeps no pointer to.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tap)
}

#[cfg(test)]
mod tests;
