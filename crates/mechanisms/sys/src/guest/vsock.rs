//! Sockets between a microVM and its host.

use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with,
    addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    bind, listen as start_listening, socket_with,
};
use std::{
    io,
    mem::size_of,
    os::fd::{BorrowedFd, OwnedFd},
};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

struct Address(libc::sockaddr_vm);

// SAFETY: a `sockaddr_vm` is an address that the system calls accept, and the length is its own.
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(
            (&raw const self.0).cast(),
            size_of::<libc::sockaddr_vm>() as SocketAddrLen,
        )
    }
}

/// Listens on a port of this machine. Neither the listener nor what it accepts blocks.
///
/// # Errors
/// This kernel has no vsock, or the port is taken.
pub fn listen(port: u32, backlog: i32) -> io::Result<OwnedFd> {
    // SAFETY: a structure of integers and an array of such, for which zeroes are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, FLAGS, None)?;
    bind(&socket, &Address(address))?;
    start_listening(&socket, backlog)?;
    Ok(socket)
}

/// Accepts a connection of the host. One of anybody else is closed, and an error of
/// [that kind](io::ErrorKind::PermissionDenied).
///
/// # Errors
/// Nobody wants a connection ([`io::ErrorKind::WouldBlock`]), or it cannot be accepted.
pub fn accept_host(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (connection, peer) = acceptfrom_with(listener, FLAGS)?;
    if peer.as_ref().and_then(context) == Some(libc::VMADDR_CID_HOST) {
        Ok(connection)
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// The machine that an address names.
fn context(address: &SocketAddrAny) -> Option<u32> {
    let whole = address.addr_len() as usize >= size_of::<libc::sockaddr_vm>();
    if !whole || address.address_family() != AddressFamily::VSOCK {
        return None;
    }
    // SAFETY: the address is of the family whose structure this is, and has all of its bytes, as was just compared. Any
    // bytes are a valid one.
    let address = unsafe { address.as_ptr().cast::<libc::sockaddr_vm>().read_unaligned() };
    Some(address.svm_cid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn address_of(cid: u32) -> SocketAddrAny {
        // SAFETY: as in `listen`.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = cid;
        Address(address).as_any()
    }

    #[test]
    fn a_peer_is_known_by_its_machine() {
        assert_eq!(context(&address_of(2)), Some(libc::VMADDR_CID_HOST));
        assert_eq!(context(&address_of(3)), Some(3));
        let other = rustix::net::SocketAddrUnix::new("/x").unwrap().as_any();
        assert_eq!(context(&other), None);
    }

    #[test]
    fn who_is_not_the_host_is_refused() {
        let folder = std::env::temp_dir().join(format!("omnirun-vsock-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&folder).unwrap();
        listener.set_nonblocking(true).unwrap();
        let nobody = accept_host(listener.as_fd()).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        let _peer = std::os::unix::net::UnixStream::connect(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        let refused = accept_host(listener.as_fd()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
