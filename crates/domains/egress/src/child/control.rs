//! Following orders.

use super::{
    dns,
    events::{self, Events},
    explicit,
    guest::Guest,
    process::Process,
    transparent,
    upstream::Upstream,
};
use crate::channel::{Blob, Channel, Event, Order, Received, Resolution, blob};
use std::{
    collections::HashMap,
    io,
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{runtime::Handle, task::JoinSet};

/// A guest with the tasks that run its lanes.
struct Served {
    guest: Arc<Guest>,
    tasks: JoinSet<()>,
    /// The last policy that was ordered: of two that are being put in force the earlier one is given up.
    serial: Arc<AtomicU64>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Follows orders until the owner is gone; says why it ends if that is not it.
pub(super) async fn run(channel: OwnedFd, lanes: usize, crowd: Handle) -> io::Result<()> {
    let channel = Channel::new(channel)?;
    let (events, outbox) = Events::new();
    let process = Arc::new(Process::new(events, lanes, crowd));
    process.events.say(Event::Ready);
    tokio::select! {
        // Whichever ends first ends the process.
        result = events::write(&channel, outbox) => result,
        result = follow(&channel, &process) => result,
    }
}

async fn follow(channel: &Channel, process: &Arc<Process>) -> io::Result<()> {
    let mut all: HashMap<u64, Served> = HashMap::new();
    while let Some(Received { bytes, descriptors }) = channel.receive().await? {
        match serde_json::from_slice(&bytes)? {
            Order::Resolve => {
                let [file] = take(descriptors)?;
                process.set_upstream(Upstream::new(blob::read::<Resolution>(file)?));
                for served in all.values() {
                    served.guest.names.forget();
                }
            }
            Order::Attach { id, serial } => {
                let event = match attach(descriptors, id, serial, process) {
                    Ok(served) => {
                        all.insert(id, served);
                        Event::InForce { id, serial }
                    }
                    Err(error) => failed(id, serial, &error),
                };
                process.events.say(event);
            }
            Order::Update { id, serial } => {
                let [file] = take(descriptors)?;
                match all.get(&id) {
                    Some(served) => update(served, file, serial),
                    // It could not be attached, or its policy could not be read then.
                    None => process
                        .events
                        .say(failed(id, serial, &io::ErrorKind::NotFound.into())),
                }
            }
            Order::Detach { id } => {
                if let Some(served) = all.remove(&id) {
                    tokio::spawn(detach(served));
                } else {
                    process.events.say(Event::Detached { id });
                }
            }
            Order::Answered { request, done } => process.events.answered(request, done),
            Order::Measure { id, request } => process.events.say(Event::Measured {
                request,
                metrics: all.get(&id).map(|served| served.guest.metrics()),
            }),
        }
    }
    Ok(())
}

fn failed(id: u64, serial: u64, error: &io::Error) -> Event {
    Event::Failed {
        id,
        serial,
        why: error.to_string(),
    }
}

fn take<const N: usize>(descriptors: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    descriptors
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "other descriptors than ordered"))
}

fn attach(descriptors: Vec<OwnedFd>, id: u64, serial: u64, process: &Arc<Process>) -> io::Result<Served> {
    let [dns_udp, dns_tcp, transparent, explicit, file] = take(descriptors)?;
    let Blob { policy, caps } = blob::read::<Blob>(file)?;
    // The owner's duplicates are the same open sockets, and it reads from none of them.
    for socket in [&dns_udp, &dns_tcp, &transparent, &explicit] {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    let listener = |socket: OwnedFd| tokio::net::TcpListener::from_std(TcpListener::from(socket));
    let dns_udp = Arc::new(tokio::net::UdpSocket::from_std(UdpSocket::from(dns_udp))?);
    let (dns_tcp, transparent, explicit) = (listener(dns_tcp)?, listener(transparent)?, listener(explicit)?);
    let mut tasks = JoinSet::new();
    let guest = Guest::new(id, policy, caps, Arc::clone(process), &mut tasks);
    let lanes = &guest.lanes;
    lanes.spawn(dns::udp(Arc::clone(&guest), dns_udp));
    lanes.spawn(dns::tcp(Arc::clone(&guest), dns_tcp));
    lanes.spawn(transparent::serve(Arc::clone(&guest), transparent));
    lanes.spawn(explicit::serve(Arc::clone(&guest), explicit));
    Ok(Served {
        guest,
        tasks,
        serial: Arc::new(AtomicU64::new(serial)),
        turn: Arc::default(),
    })
}

fn update(served: &Served, file: OwnedFd, serial: u64) {
    served.serial.store(serial, Ordering::SeqCst);
    let (guest, last, turn) = (
        Arc::clone(&served.guest),
        Arc::clone(&served.serial),
        Arc::clone(&served.turn),
    );
    // Connections may take a moment to end, and other guests do not wait for that.
    tokio::spawn(async move {
        let (id, events) = (guest.id, &guest.process.events);
        let event = match blob::read::<Blob>(file) {
            Ok(Blob { policy, .. }) => {
                let _one_by_one = turn.lock().await;
                if last.load(Ordering::SeqCst) != serial {
                    return;
                }
                guest.update(policy).await;
                Event::InForce { id, serial }
            }
            Err(error) => failed(id, serial, &error),
        };
        events.say(event);
    });
}

async fn detach(mut served: Served) {
    served.guest.let_go().await;
    // All sockets are owned by what runs in the lanes: with them they are closed.
    served.tasks.shutdown().await;
    let (id, events) = (served.guest.id, &served.guest.process.events);
    events.say_after_lines(Event::Detached { id });
}
