use super::*;
use rustix::net::{AddressFamily, SocketType};
use seccompiler::sock_filter;
use std::{
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::Command,
    thread,
};

/// What the kernel would do, with the strictest filter's answer.
fn verdict(call: i64, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::from((call as u32).to_ne_bytes());
    // AUDIT_ARCH_X86_64, and no instruction pointer.
    data.extend(0xc000_003e_u32.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    for argument in arguments {
        data.extend(argument.to_ne_bytes());
    }
    let answers = filters().unwrap().map(|filter| evaluate(&filter, &data));
    // Kill, error, allow: the number, as one with a sign, is the order.
    answers
        .into_iter()
        .min_by_key(|answer| answer.cast_signed())
        .unwrap()
}

/// Classic BPF, as much of it as seccompiler uses.
fn evaluate(program: &[sock_filter], data: &[u8]) -> u32 {
    let (mut at, mut a) = (0, 0u32);
    loop {
        let one = &program[at];
        let jump = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
        at += 1;
        match one.code {
            0x20 => {
                let from = one.k as usize;
                a = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
            }
            0x54 => a &= one.k,
            0x05 => at += one.k as usize,
            0x15 => at += jump(a == one.k),
            0x25 => at += jump(a > one.k),
            0x35 => at += jump(a >= one.k),
            0x45 => at += jump(a & one.k != 0),
            0x06 => return one.k,
            other => panic!("an instruction {other:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const fn errno(number: i32) -> u32 {
    0x0005_0000 | number as u32
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_filters_say_of_each_call_what_they_should() {
    let refused = errno(libc::EPERM);
    let at = |arguments: &[i32]| {
        let mut all = [0; 6];
        for (to, from) in all.iter_mut().zip(arguments) {
            *to = u64::from(from.cast_unsigned());
        }
        all
    };
    for call in [
        libc::SYS_ptrace,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_process_vm_readv,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
    ] {
        assert_eq!(verdict(call, [0; 6]), KILL, "{call}");
    }
    for call in [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_unlink,
        libc::SYS_listen,
        libc::SYS_kill,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_memfd_create,
        libc::SYS_ftruncate,
        libc::SYS_seccomp,
        libc::SYS_chmod,
        libc::SYS_getdents64,
    ] {
        assert_eq!(verdict(call, [0; 6]), refused, "{call}");
    }
    // A number that no kernel knows yet.
    assert_eq!(verdict(5000, [0; 6]), refused);
    assert_eq!(verdict(libc::SYS_clone3, [0; 6]), errno(libc::ENOSYS));
    let own = std::process::id().cast_signed();
    for (call, arguments, expected) in [
        (
            libc::SYS_socket,
            at(&[libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0]),
            ALLOW,
        ),
        (
            libc::SYS_socket,
            at(&[
                libc::AF_INET6,
                libc::SOCK_DGRAM | libc::SOCK_NONBLOCK,
                libc::IPPROTO_UDP,
            ]),
            ALLOW,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP]),
            refused,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP]),
            refused,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP]),
            refused,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_PACKET, libc::SOCK_RAW, 0]),
            refused,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_NETLINK, libc::SOCK_RAW, 0]),
            refused,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_UNIX, libc::SOCK_STREAM, 0]),
            refused,
        ),
        (
            libc::SYS_socket,
            at(&[libc::AF_VSOCK, libc::SOCK_STREAM, 0]),
            refused,
        ),
        (
            libc::SYS_mmap,
            at(&[0, 4096, libc::PROT_READ | libc::PROT_WRITE]),
            ALLOW,
        ),
        (
            libc::SYS_mmap,
            at(&[0, 4096, libc::PROT_READ | libc::PROT_EXEC]),
            refused,
        ),
        (libc::SYS_mprotect, at(&[0, 4096, libc::PROT_EXEC]), refused),
        (
            libc::SYS_clone,
            at(&[libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND]),
            ALLOW,
        ),
        (libc::SYS_clone, at(&[libc::SIGCHLD]), refused),
        (
            libc::SYS_clone,
            at(&[libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_NEWUSER]),
            refused,
        ),
        (libc::SYS_ioctl, at(&[0, libc::FIONBIO as i32]), ALLOW),
        (libc::SYS_ioctl, at(&[0, libc::TIOCSTI as i32]), refused),
        (libc::SYS_fcntl, at(&[0, libc::F_SETFL]), ALLOW),
        (libc::SYS_fcntl, at(&[0, libc::F_SETOWN]), refused),
        (libc::SYS_prctl, at(&[libc::PR_SET_SECCOMP]), refused),
        (libc::SYS_tgkill, at(&[own, own, libc::SIGABRT]), ALLOW),
        (libc::SYS_tgkill, at(&[1, 1, libc::SIGKILL]), refused),
        (libc::SYS_prlimit64, [0, 7, 0, 1, 0, 0], ALLOW),
        (libc::SYS_prlimit64, [0, 7, 1 << 40, 0, 0, 0], refused),
        (libc::SYS_prlimit64, [1, 7, 0, 1, 0, 0], refused),
    ] {
        assert_eq!(verdict(call, arguments), expected, "{call} {arguments:?}");
    }
}

/// In a thread of its own, which is then beyond help.
fn on_a_locked_thread(lock: fn() -> io::Result<()>, check: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        lock().unwrap();
        check();
    })
    .join()
    .unwrap();
}

#[test]
fn calls_are_refused() {
    on_a_locked_thread(filter_calls, || {
        let refused = Some(libc::EPERM);
        let socket = |family, kind| rustix::net::socket(family, kind, None).map_err(io::Error::from);
        assert_eq!(fs::File::open("/etc/passwd").unwrap_err().raw_os_error(), refused);
        assert_eq!(
            fs::read_dir("/proc/self/fd")
                .map(drop)
                .unwrap_err()
                .raw_os_error(),
            refused
        );
        for (family, kind) in [
            (AddressFamily::PACKET, SocketType::RAW),
            (AddressFamily::UNIX, SocketType::STREAM),
            (AddressFamily::INET, SocketType::RAW),
            (AddressFamily::NETLINK, SocketType::RAW),
        ] {
            assert_eq!(
                socket(family, kind).unwrap_err().raw_os_error(),
                refused,
                "{family:?}"
            );
        }
        assert_eq!(
            TcpListener::bind("127.0.0.1:0").unwrap_err().raw_os_error(),
            refused
        );
        assert!(Command::new("/bin/true").spawn().is_err());
        // What it is for goes on.
        UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = TcpStream::connect("127.0.0.1:1").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        thread::spawn(|| {}).join().unwrap();
    });
}

#[test]
fn no_file_can_be_opened() {
    on_a_locked_thread(give_up_files, || {
        for path in ["/etc/passwd", "/proc/self/status", "/usr/bin/env"] {
            let denied = fs::File::open(path).unwrap_err();
            assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied, "{path}");
        }
    });
}

#[test]
fn a_program_cannot_be_run() {
    const NAME: &str = "OMNIRUN_TEST_EGRESS_EXEC";
    if std::env::var_os(NAME).is_some() {
        filter_calls().unwrap();
        let error = Command::new("/bin/true").exec();
        panic!("it went on: {error}");
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::lockdown::tests::a_program_cannot_be_run"])
        .env(NAME, "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}
