//! The child: one process that serves all guests of an owner.
//!
//! ```text
//!   main: lockdown --> runtime --> control: orders            events: acknowledgements, requests, audit lines
//!                                    | attach
//!                                    v
//!           guest: policy, flows, what it may use, its names and answers
//!             | 4 sockets; everything runs in the guest's lanes, what is many on threads that give way
//!             |- dns (UDP, TCP) ------> names -> upstream        "let these addresses through" -> owner
//!             |- transparent ---------> peek / http -> dial ---> relay
//!             `- explicit ------------> http -------> dial ---> relay
//! ```
//!
//! It is a process of its own since it parses what guests send. What it holds is sockets, and what it can do with them is
//! what a guest could be let do anyway; it opens no file, starts no process, listens nowhere. It ends when its channel is
//! closed, that is with its owner, and every connection ends with it.

mod accept;
mod answers;
mod control;
mod dial;
mod dns;
mod events;
mod explicit;
mod flow;
mod guest;
mod http;
mod lanes;
mod lockdown;
mod meter;
mod names;
mod peek;
mod process;
mod relay;
mod transparent;
mod upstream;

use rustix::process::setpriority_process;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic,
    process::ExitCode,
    thread,
};
use tokio::runtime;

/// Threads that move bytes. More would serve more guests at once, and each is one that the host's own work has less.
const MOST_WORKERS: usize = 4;

/// How much the threads for what is many give way to others (sched(7): a tenth of the weight).
const CROWD: i32 = 10;

/// Turns of tasks between two looks at what has happened.
const EVERY: u32 = 4;

/// The child's whole life. It is started by [`crate::Proxy`], with its channel as standard input; started by anybody else
/// it says so and ends.
pub fn main() -> ExitCode {
    // What a panic says may be a guest's: the place must do.
    panic::set_hook(Box::new(|panic| {
        if let Some(at) = panic.location() {
            eprintln!("panic at {}:{}", at.file(), at.line());
        }
    }));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let channel = channel()?;
    // Asks for the control group's share as well, so before the files are gone.
    let workers = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, MOST_WORKERS));
    lockdown::enter()?;
    let threads = |count| {
        let mut runtime = runtime::Builder::new_multi_thread();
        // A lane's turn is long, so it is looked for events and woken tasks every few of them, not every 61.
        runtime.event_interval(EVERY).global_queue_interval(EVERY);
        runtime.worker_threads(count).enable_all();
        runtime
    };
    let lanes = (workers / 2).max(1);
    let crowd = threads(lanes)
        .on_thread_start(|| {
            // Linux's is about the calling thread. Where it is refused, a crowd is as good as anybody.
            let _ = setpriority_process(None, CROWD);
        })
        .build()?;
    let main = threads(workers).build()?;
    let result = main.block_on(control::run(channel, lanes, crowd.handle().clone()));
    // Whatever is still under way ends with the process.
    main.shutdown_background();
    crowd.shutdown_background();
    result
}

/// The channel, moved away from standard input.
fn channel() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    let kind = rustix::net::sockopt::socket_type(stdin.as_fd());
    if kind != Ok(rustix::net::SocketType::SEQPACKET) {
        return Err(io::Error::other(
            "this is a part of OmniRun that it starts by itself; it is of no use to anybody else",
        ));
    }
    let channel = stdin.as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(io::stdout().as_fd())?;
    Ok(channel)
}
