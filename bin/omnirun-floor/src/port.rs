//! The channel: the virtio-serial port that QEMU gives, or a vsock listener and its newest connection for Firecracker.

use crate::Result;
use omnirun_sys::guest::vsock;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
};

/// As Firecracker's driver knows it.
const VSOCK_PORT: u32 = 1024;

pub(crate) enum Port {
    Serial {
        file: File,
        changes: OwnedFd,
    },
    Vsock {
        listener: OwnedFd,
        connection: Option<File>,
    },
}

impl Port {
    /// Finds the port by its name, as `/sys/class/virtio-ports` has it.
    pub(crate) fn open() -> Result<Self> {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name"))?.trim() != "omnirun.agent" {
                continue;
            }
            let path = std::path::Path::new("/dev").join(entry.file_name());
            let file = File::options().read(true).write(true).open(path)?;
            let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            // Edge-triggered, since a port without a host reports a hang-up for ever.
            let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&changes, &file, epoll::EventData::new_u64(0), events)?;
            return Ok(Self::Serial { file, changes });
        }
        Ok(Self::Vsock {
            listener: vsock::listen(VSOCK_PORT, 1)?,
            connection: None,
        })
    }

    /// Reads up to the next line feed, of whichever connection brings one.
    pub(crate) fn read_line(&mut self, line: &mut Vec<u8>) -> Result<()> {
        line.clear();
        loop {
            match self {
                Self::Serial { file, changes } => {
                    // A read of nothing means that no host is connected: wait for the next event.
                    if read_some(file, line)? == 0 {
                        let mut events = [epoll::Event {
                            flags: epoll::EventFlags::empty(),
                            data: epoll::EventData::new_u64(0),
                        }];
                        epoll::wait(changes, &mut events, None)?;
                    }
                }
                Self::Vsock { listener, connection } => read_newest(listener, connection, line)?,
            }
            if line.last() == Some(&b'\n') {
                line.pop();
                return Ok(());
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.file()?.write_all(bytes)?)
    }

    /// The channel as a child's output.
    pub(crate) fn stdio(&mut self) -> Result<Stdio> {
        Ok(self.file()?.try_clone()?.into())
    }

    fn file(&mut self) -> Result<&mut File> {
        match self {
            Self::Serial { file, .. } => Ok(file),
            Self::Vsock { connection, .. } => connection.as_mut().ok_or_else(|| "no host".into()),
        }
    }
}

/// Waits for a connection or for bytes of the one that is there.
fn read_newest(listener: &OwnedFd, connection: &mut Option<File>, line: &mut Vec<u8>) -> Result<()> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(connection.iter().map(|file| PollFd::new(file, PollFlags::IN)));
    poll(&mut fds, None)?;
    let called = !fds[0].revents().is_empty();
    if called {
        let newest = vsock::accept_host(listener.as_fd())?;
        rustix::io::ioctl_fionbio(&newest, false)?;
        *connection = Some(newest.into());
        line.clear();
    } else if let Some(file) = connection {
        // The end of a connection, or its reset when a snapshot was restored.
        if read_some(file, line).unwrap_or(0) == 0 {
            *connection = None;
            line.clear();
        }
    }
    Ok(())
}

fn read_some(file: &mut File, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut buffer = [0; 256];
    let count = file.read(&mut buffer)?;
    line.extend_from_slice(&buffer[..count]);
    Ok(count)
}
