//! The fake's guest agent.

use super::{
    machine::Machine,
    vmm::{Fault, Step},
};
use omnirun_guest_proto::{
    frame::Channel,
    guest::{GuestEnd, GuestEvent},
    message::{Claimed, Empty, Error, ErrorKind, Exited, Op, Outcome, Pong, Reply, Request, ToolResult},
};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Serves one connection, in order, until it ends.
pub(super) async fn serve(machine: Arc<Machine>, mut stream: UnixStream) {
    if machine.fault(Step::Preface).await.is_err() {
        return;
    }
    let mut end = GuestEnd::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        // Nothing runs in a machine that is paused.
        machine.running().await;
        end.push(&buffer[..n]);
        while let Some(event) = end.next() {
            if let GuestEvent::Request(call, Request { op: Some(op) }) = event {
                let Some(outcome) = answer(&machine, &mut end, call, op).await else {
                    return;
                };
                end.reply(
                    call,
                    &Reply {
                        outcome: Some(outcome),
                    },
                );
            }
        }
        let out = std::mem::take(&mut end.out);
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn error(kind: ErrorKind, message: &str) -> Outcome {
    Outcome::Error(Error {
        kind: kind.into(),
        message: message.into(),
    })
}

/// The answer; `None` ends the connection.
async fn answer(machine: &Arc<Machine>, end: &mut GuestEnd, call: u32, op: Op) -> Option<Outcome> {
    let failed = |fault: Fault| match fault {
        Fault::Error | Fault::Errors(_) => Some(error(ErrorKind::Internal, "as told")),
        Fault::Hang | Fault::Die => None,
    };
    let refused = || Some(error(ErrorKind::State, "not now"));
    match op {
        Op::Ping(_) => Some(Outcome::Pong(Pong {
            version: "fake".into(),
            boot_id: String::new(),
        })),
        Op::Warm(_) => match machine.fault(Step::Warm).await {
            Ok(()) => Some(Outcome::Done(Empty {})),
            Err(fault) => failed(fault),
        },
        Op::Wake(wake) => {
            if let Err(fault) = machine.fault(Step::Wake).await {
                return failed(fault);
            }
            // Who has names keeps them.
            if machine.seen(|seen| seen.goes_on) != wake.hostname.is_empty() {
                return refused();
            }
            machine.note(|seen| seen.wakes.push(wake));
            Some(Outcome::Done(Empty {}))
        }
        Op::Claim(claim) => {
            if machine.seen(|seen| seen.wakes.is_empty()) {
                return refused();
            }
            if let Err(fault) = machine.fault(Step::Claim).await {
                return failed(fault);
            }
            machine.disk_of(claim.disk_bytes).await;
            machine.note(|seen| seen.claims.push(claim));
            Some(Outcome::Claimed(Claimed { fresh: true }))
        }
        Op::Exec(exec) => {
            if machine.seen(|seen| seen.claims.is_empty() && !seen.is_ready()) {
                return refused();
            }
            machine.note(|seen| seen.execs += 1);
            for word in &exec.argv {
                end.send(call, Channel::Output, word);
            }
            Some(Outcome::Exited(Exited {
                code: Some(0),
                ..Exited::default()
            }))
        }
        Op::Tool(_) => {
            if machine.seen(|seen| seen.claims.is_empty() && !seen.is_ready()) {
                return refused();
            }
            machine.note(|seen| seen.execs += 1);
            Some(Outcome::Tool(ToolResult {
                synced: true,
                ..ToolResult::default()
            }))
        }
        _ => Some(Outcome::Done(Empty {})),
    }
}
