//! What flows between the command and our own standard streams while it runs.

use super::Signals;
use omnirun_guest_client::{
    ClientError, ExecEvent, ExecHandle, ExecInput,
    message::{ErrorKind, Exited},
};
use omnirun_sandboxes::{Sandbox, Why};
use std::{
    io::{Read, Write},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Pieces of output that wait for a slow reader; beyond them the guest's own window fills, and the command waits.
const OUTPUT_QUEUE: usize = 4;
/// Read from standard input at once.
const PIECE: usize = 64 * 1024;
/// After its time limit, or after it was killed, so long the guest may take to say that the command is gone.
const GUEST_WORD: Duration = Duration::from_secs(10);
/// What a reader of ours who does not read any more may cost us once we are to end.
const WRITE_OUT: Duration = Duration::from_secs(2);
/// The signal of a broken pipe.
const SIGPIPE: i32 = 13;

/// How a command ended.
pub(super) enum Outcome {
    /// As the guest tells it.
    Exited(Exited),
    /// It never ran.
    NotStarted {
        /// As a shell has it: 126, 127.
        code: u8,
        /// In the guest's words, made fit to print.
        message: String,
    },
    /// The guest should have ended it and did not say so.
    TimedOut,
    /// A second signal came and the guest did not end it.
    Killed,
    /// The VM went away.
    Gone(Why),
    /// The connection did, or the guest does not speak the protocol.
    Broken(ClientError),
}

/// Lets a command run to its end.
pub(super) async fn attend(
    sandbox: &Sandbox,
    mut exec: ExecHandle,
    stdin: bool,
    limit: Option<Duration>,
    signals: &mut Signals,
) -> Outcome {
    if let Some(input) = exec.stdin().filter(|_| stdin) {
        feed(input);
    }
    let (writer, mut broken) = Writer::start();
    let mut deadline = limit.map(|limit| Instant::now() + limit + GUEST_WORD);
    let mut signalled = 0u32;
    let mut waiting: Option<ExecEvent> = None;
    let (mut over, mut late) = (false, false);
    while !over || waiting.is_some() {
        tokio::select! {
            biased;
            // Each arm is cancel-safe: a signal is a level of its stream, a permit is given back, an event that was
            // not taken stays in the client.
            number = signals.next() => {
                signalled += 1;
                if signalled == 1 {
                    // That it is gone already is no error.
                    let _ = exec.signal(number).await;
                } else {
                    exec.cancel();
                    deadline.get_or_insert(Instant::now() + GUEST_WORD);
                }
            }
            () = at(deadline) => {
                late = true;
                break;
            }
            Some(()) = broken.recv() => {
                // Nobody reads any more: to the command it is as if the pipe were its own.
                let _ = exec.signal(SIGPIPE).await;
            }
            permit = writer.queue.reserve(), if waiting.is_some() => {
                if let (Ok(permit), Some(event)) = (permit, waiting.take()) {
                    permit.send(event);
                }
            }
            event = exec.next(), if waiting.is_none() => match event {
                Some(event) => waiting = Some(event),
                None => over = true,
            },
        }
    }
    if late {
        writer.finish(WRITE_OUT).await;
        return if signalled > 1 {
            Outcome::Killed
        } else {
            Outcome::TimedOut
        };
    }
    let ended = exec.wait().await;
    writer
        .finish(if signalled > 1 { WRITE_OUT } else { Duration::MAX })
        .await;
    match ended {
        Ok(exited) => Outcome::Exited(exited),
        Err(ClientError::Guest { kind, message }) => {
            let code = match kind {
                ErrorKind::NotFound => 127,
                ErrorKind::Permission | ErrorKind::Invalid => 126,
                _ => crate::output::EXIT_OWN_FAILURE,
            };
            Outcome::NotStarted {
                code,
                message: crate::output::printable(&message.0),
            }
        }
        // A VM that dies takes its connection with it. If it lives, the connection is at fault.
        Err(error) => match tokio::time::timeout(Duration::from_millis(500), sandbox.exited()).await {
            Ok(why) => Outcome::Gone(why),
            Err(_) => Outcome::Broken(error),
        },
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Writes output in a thread of its own, so that a reader who is slow does not keep us from hearing a signal.
struct Writer {
    queue: mpsc::Sender<ExecEvent>,
    done: oneshot::Receiver<()>,
}

impl Writer {
    /// Also where it says that standard output has no reader any more.
    fn start() -> (Self, mpsc::Receiver<()>) {
        let (queue, mut events) = mpsc::channel(OUTPUT_QUEUE);
        let (tell, broken) = mpsc::channel(1);
        let (end, done) = oneshot::channel();
        std::thread::spawn(move || {
            let (mut out, mut err) = (Some(std::io::stdout()), Some(std::io::stderr()));
            while let Some(event) = events.blocking_recv() {
                match event {
                    ExecEvent::Stdout(bytes) => {
                        if !write(&mut out, &bytes) {
                            let _ = tell.try_send(());
                        }
                    }
                    ExecEvent::Stderr(bytes) => {
                        write(&mut err, &bytes);
                    }
                }
            }
            let _ = end.send(());
        });
        (Self { queue, done }, broken)
    }

    /// Waits until all that was queued is written, within a bound.
    async fn finish(self, limit: Duration) {
        drop(self.queue);
        let _ = tokio::time::timeout(limit, self.done).await;
    }
}

/// `false` when the stream just turned out to be closed.
fn write(stream: &mut Option<impl Write>, bytes: &[u8]) -> bool {
    let Some(open) = stream else { return true };
    let ok = open.write_all(bytes).and_then(|()| open.flush()).is_ok();
    if !ok {
        *stream = None;
    }
    ok
}

/// Passes standard input on. A thread reads, since a read cannot be given up; it ends with the process.
fn feed(mut input: ExecInput) {
    let (tx, mut rx) = mpsc::channel::<Vec<u8>>(2);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut piece = vec![0; PIECE];
            match stdin.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    piece.truncate(n);
                    if tx.blocking_send(piece).is_err() {
                        return;
                    }
                }
            }
        }
    });
    tokio::spawn(async move {
        while let Some(piece) = rx.recv().await {
            // The command is gone, or has closed its end: what comes after is of no use.
            if !matches!(input.write(&piece).await, Ok(true)) {
                return;
            }
        }
        input.close();
    });
}
