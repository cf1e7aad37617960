//! What passes between the owner and one child.
//!
//! The child is not trusted: what it sends is bounded in length and number, and it speaks of attachments only that there
//! are. Whoever breaks that is ended, and another one is started.

use super::{
    AttachmentId, Host,
    state::{Table, Untold},
};
use crate::{
    Metrics,
    channel::{Channel, Event, Order, blob},
};
use omnirun_egress_policy::AuditLine;
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

/// At most so many addresses in an answer to a guest, and so many seconds: beyond what the child ever asks for.
const MAX_ADDRESSES: usize = 32;
const MAX_TTL: u32 = 600;
/// At most so many of its requests are under way.
const MAX_REQUESTS: usize = 4096;
/// At most so many are with the host at a time.
const AT_A_TIME: usize = 64;
/// Longest text that is taken over.
const MAX_TEXT: usize = 300;

type Questions = Mutex<BTreeMap<u64, oneshot::Sender<Option<Metrics>>>>;

/// Waits for the child's first word. Whether it came, and was the right one.
pub(super) async fn ready(channel: &Channel) -> bool {
    let Ok(Some(message)) = channel.receive().await else {
        return false;
    };
    matches!(serde_json::from_slice(&message.bytes), Ok(Event::Ready))
}

/// Serves a child until it ends, or breaks the rules; says which.
pub(super) async fn run(channel: Channel, table: &Table, host: &Arc<dyn Host>) -> String {
    let (answers, answers_receiver) = mpsc::channel(AT_A_TIME);
    let questions = Questions::default();
    table.linked();
    tokio::select! {
        // Both end for good only: nothing is lost by the end of the other.
        why = read(&channel, table, host, &questions, answers) => why,
        why = write(&channel, table, &questions, answers_receiver) => why,
    }
}

async fn write(
    channel: &Channel,
    table: &Table,
    questions: &Questions,
    mut answers: mpsc::Receiver<Order>,
) -> String {
    let mut attached = BTreeSet::new();
    let mut question = 0;
    loop {
        let told = tokio::select! {
            Some(answer) = answers.recv() => send(channel, &answer, &[]).await,
            () = table.changed.notified() => {
                tell(channel, table, questions, &mut attached, &mut question).await
            }
        };
        if let Err(error) = told {
            return format!("an order could not be sent: {error}");
        }
    }
}

async fn tell(
    channel: &Channel,
    table: &Table,
    questions: &Questions,
    attached: &mut BTreeSet<u64>,
    question: &mut u64,
) -> std::io::Result<()> {
    let Untold {
        resolvers,
        ids,
        measures,
    } = table.take_untold();
    if resolvers {
        let blob = blob::write(&table.resolvers().resolution())?;
        send(channel, &Order::Resolve, &[blob.as_fd()]).await?;
    }
    for id in ids {
        match table.wanted(id) {
            Some((serial, sockets, blob)) if attached.insert(id) => {
                let sockets = sockets.iter().map(OwnedFd::as_fd);
                let all: Vec<_> = sockets.chain([blob.as_fd()]).collect();
                send(channel, &Order::Attach { id, serial }, &all).await?;
            }
            Some((serial, _, blob)) => {
                send(channel, &Order::Update { id, serial }, &[blob.as_fd()]).await?;
            }
            None if attached.remove(&id) => send(channel, &Order::Detach { id }, &[]).await?,
            None => table.left(id),
        }
    }
    for (id, asker) in measures {
        *question += 1;
        let request = *question;
        lock(questions).insert(request, asker);
        send(channel, &Order::Measure { id, request }, &[]).await?;
    }
    Ok(())
}

async fn send(channel: &Channel, order: &Order, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    channel.send(&serde_json::to_vec(order)?, descriptors).await
}

fn lock(questions: &Questions) -> std::sync::MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Option<Metrics>>>> {
    questions.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(
    channel: &Channel,
    table: &Table,
    host: &Arc<dyn Host>,
    questions: &Questions,
    answers: mpsc::Sender<Order>,
) -> String {
    // Dropped with the link: what a child asked for that is gone needs no answer.
    let mut requests = JoinSet::new();
    let at_a_time = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let message = match channel.receive().await {
            Ok(Some(message)) => message,
            Ok(None) => return "it closed its channel".into(),
            Err(error) => return format!("its channel failed: {error}"),
        };
        if !message.descriptors.is_empty() {
            return "it sent a descriptor".into();
        }
        let event = match serde_json::from_slice(&message.bytes) {
            Ok(event) => event,
            Err(error) => return format!("it said what it cannot: {error}"),
        };
        while requests.try_join_next().is_some() {}
        match event {
            Event::Ready => return "it said that it was ready twice".into(),
            Event::InForce { id, serial } => table.in_force(id, serial),
            Event::Failed { id, serial, why } => table.failed(id, serial, printable(&why)),
            Event::Detached { id } => table.left(id),
            Event::Audit { lines } => {
                for (id, line) in lines {
                    if table.has(id) {
                        host.audit(AttachmentId(id), plain(line));
                    }
                }
            }
            Event::Measured { request, metrics } => {
                if let Some(asker) = lock(questions).remove(&request) {
                    let _ = asker.send(metrics);
                }
            }
            Event::Answered {
                request,
                id,
                addresses,
                ttl,
            } => {
                if addresses.len() > MAX_ADDRESSES || ttl > MAX_TTL || requests.len() >= MAX_REQUESTS {
                    return "it asked for more than it may".into();
                }
                let known = table.has(id);
                let (host, answers, at_a_time) = (Arc::clone(host), answers.clone(), Arc::clone(&at_a_time));
                requests.spawn(async move {
                    let _one = at_a_time.acquire_owned().await;
                    let done = known && let_through(&*host, id, &addresses, ttl).await;
                    // The writer ends only with the link.
                    let _ = answers.send(Order::Answered { request, done }).await;
                });
            }
        }
    }
}

async fn let_through(host: &dyn Host, id: u64, addresses: &[Ipv4Addr], ttl: u32) -> bool {
    let ttl = Duration::from_secs(ttl.into());
    match host.answered(AttachmentId(id), addresses, ttl).await {
        Ok(()) => true,
        Err(error) => {
            let error: &dyn Error = &*error;
            tracing::warn!(error, attachment = id, "addresses could not be let through");
            false
        }
    }
}

/// A line as it is passed on: without labels, which are not the child's to give, and of printable text.
fn plain(line: AuditLine) -> AuditLine {
    AuditLine {
        sandbox: String::new(),
        session: None,
        name: line.name.as_deref().map(printable),
        rule: line.rule.as_deref().map(printable),
        ..line
    }
}

fn printable(why: &str) -> String {
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    why.chars().take(MAX_TEXT).map(shown).collect()
}
