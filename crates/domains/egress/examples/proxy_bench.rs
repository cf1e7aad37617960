//! Measures the proxy on loopback, in a network namespace of its own, with the real child. As root:
//!
//! ```sh
//! cargo run --release -p omnirun-egress --example proxy_bench
//! ```
//!
//! | figure | against |
//! | -- | -- |
//! | bytes a second of one connection, each way | a thread that does nothing but `splice(2)` between such sockets, both ways |
//! | from `connect` to the server's first byte, with a ClientHello in between | the same without a proxy |
//! | what one guest gets done while another holds 1,000 connections that transfer, by the proxy or without it | the same alone |
//!
//! Rounds of what is compared alternate, since the machine is not always equally busy.

#![allow(clippy::unwrap_used, reason = "it is a measurement: whatever fails, fails")]

use omnirun_egress::{AttachmentId, Host, Proxy, ProxyConfig, Resolvers, Sockets};
use omnirun_egress_policy::{AuditLine, NoPresets, Policy};
use omnirun_sys::host::net::in_new_namespace;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Where servers are: an address that the policy lists, since the host's own are refused otherwise.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
const CROWDS_SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 2);
/// What guests connect to; it is redirected.
const CHOSEN: &str = "9.9.9.9:443";
const NAME: &str = "bench.example";

struct Owner;

#[async_trait::async_trait]
impl Host for Owner {
    async fn answered(
        &self,
        _: AttachmentId,
        _: &[Ipv4Addr],
        _: Duration,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }

    fn audit(&self, _: AttachmentId, _: AuditLine) {}
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("egress-proxy") {
        return omnirun_egress::child::main();
    }
    in_new_namespace(|| {
        // Its threads are of this namespace, as they are made by a thread of it.
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(measure());
        Ok::<_, io::Error>(())
    })
    .unwrap();
    ExitCode::SUCCESS
}

fn command(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}");
}

async fn measure() {
    for line in [
        "ip link set lo up",
        "ip addr add 192.0.0.1/32 dev lo",
        "ip addr add 192.0.0.2/32 dev lo",
        "ip addr add 10.9.9.1/32 dev lo",
        "ip addr add 10.9.9.2/32 dev lo",
        "ip route add default dev lo src 192.0.0.2",
        "nft add table ip t",
        "nft add chain ip t out { type nat hook output priority -100 ; }",
        "nft add rule ip t out ip daddr 9.9.9.9 tcp dport 443 redirect to :9000",
        "nft add rule ip t out ip daddr 9.9.9.8 tcp dport 443 redirect to :9001",
    ] {
        command(line);
    }
    let config = ProxyConfig {
        arguments: vec!["proxy_bench".into(), "egress-proxy".into()],
        resolvers: Resolvers::Given {
            servers: Vec::new(),
            hosts: BTreeMap::from([
                (NAME.to_owned(), vec![SERVER]),
                ("crowd.example".to_owned(), vec![CROWDS_SERVER]),
            ]),
        },
        ..ProxyConfig::default()
    };
    let proxy = Proxy::start(config, Arc::new(Owner)).await.unwrap();
    let policy = Policy::from_toml("allow = [\"*.example\", \"10.9.9.0/24\"]", &NoPresets).unwrap();
    let mut attached = Vec::new();
    for (id, port) in [(1, 9000), (2, 9001)] {
        let sockets: [OwnedFd; 4] = [
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind(("0.0.0.0", port)).unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
        ];
        let [dns_udp, dns_tcp, transparent, explicit] = sockets.each_ref().map(AsFd::as_fd);
        let sockets = Sockets {
            dns_udp,
            dns_tcp,
            transparent,
            explicit,
        };
        attached.push(proxy.attach(AttachmentId(id), sockets, &policy).await.unwrap());
    }
    let pid = proxy.pid().unwrap();
    let which = std::env::args().nth(1).unwrap_or_default();
    tokio::task::spawn_blocking(move || {
        serve();
        if which.is_empty() || which == "throughput" {
            throughput();
        }
        if which.is_empty() || which == "latency" {
            latency();
        }
        if which.is_empty() || which == "memory" {
            memory(pid);
        }
        if which.is_empty() || which == "fairness" {
            fairness();
        }
    })
    .await
    .unwrap();
    drop(attached);
    proxy.shutdown().await;
}

/// A server on port 443: reads the hello, says a byte, and then does what the byte after the hello says: `d` sends until it
/// is cut, `u` reads to the end and says how many bytes there were, `e` sends back.
fn serve() {
    let listener = TcpListener::bind((SERVER, 443)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let _ = serve_one(stream.unwrap());
                })
                .unwrap();
        }
    });
}

fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut greeting = vec![0; hello().len()];
    stream.read_exact(&mut greeting)?;
    stream.write_all(b"!")?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    match what[0] {
        b'd' => {
            let bytes = vec![7; 256 << 10];
            loop {
                stream.write_all(&bytes)?;
            }
        }
        b'u' => {
            let mut bytes = vec![0; 256 << 10];
            while stream.read(&mut bytes)? > 0 {}
            Ok(())
        }
        _ => {
            let mut bytes = vec![0; 16 << 10];
            loop {
                match stream.read(&mut bytes)? {
                    0 => return Ok(()),
                    count => stream.write_all(&bytes[..count])?,
                }
            }
        }
    }
}

/// A ClientHello for the name.
fn hello() -> Vec<u8> {
    hello_for(NAME)
}

fn hello_for(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let mut extension = vec![0, 0];
    for length in [name.len() + 5, name.len() + 3] {
        extension.extend((length as u16).to_be_bytes());
    }
    extension.push(0);
    extension.extend((name.len() as u16).to_be_bytes());
    extension.extend(name);
    // As long as hellos are today.
    extension.extend([0, 21]);
    extension.extend(1400_u16.to_be_bytes());
    extension.extend([0; 1400]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extension.len() as u16).to_be_bytes());
    body.extend(extension);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

/// A connection over which the server has said its byte.
fn open(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&hello()).unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream
}

/// A relay that does nothing but splice: one connection, both ways, a thread each.
fn bare_relay() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (guest, _) = listener.accept().unwrap();
        let server = TcpStream::connect((SERVER, 443)).unwrap();
        for stream in [&guest, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (other_guest, other_server) = (guest.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || splice_all(&other_server, &other_guest));
        splice_all(&guest, &server);
    });
    at
}

fn splice_all(from: &TcpStream, to: &TcpStream) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let size = fcntl_setpipe_size(&writer, 256 << 10).unwrap();
    while let Ok(mut left @ 1..) = splice(from, None, &writer, None, size, SpliceFlags::MOVE) {
        while left > 0 {
            match splice(&reader, None, to, None, left, SpliceFlags::MOVE) {
                Ok(count) => left -= count,
                Err(_) => return,
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Bytes a second in MB, one way, over a while.
fn rate(to: SocketAddr, down: bool, while_: Duration) -> f64 {
    let mut stream = open(to);
    let mut bytes = vec![0; 256 << 10];
    stream.write_all(if down { b"d" } else { b"u" }).unwrap();
    let mut moved = 0;
    // What fills the buffers does not count.
    let warm = Instant::now() + while_ / 4;
    let mut begun = None;
    loop {
        let count = match down {
            true => stream.read(&mut bytes).unwrap(),
            false => stream.write(&bytes).unwrap(),
        };
        match begun {
            None if Instant::now() >= warm => begun = Some(Instant::now()),
            None => {}
            Some(at) => {
                moved += count;
                let took = at.elapsed();
                if took >= while_ {
                    return moved as f64 / took.as_secs_f64() / 1e6;
                }
            }
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn throughput() {
    let through: SocketAddr = CHOSEN.parse().unwrap();
    let while_ = Duration::from_millis(800);
    for (way, down) in [("down", true), ("up", false)] {
        let (mut bare, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..9 {
            let (a, b) = (rate(bare_relay(), down, while_), rate(through, down, while_));
            bare.push(a);
            ours.push(b);
            ratios.push(b / a);
        }
        println!(
            "throughput {way}: bare splice {:.0} MB/s, proxy {:.0} MB/s, ratio of medians {:.2}, median ratio {:.2}",
            median(&mut bare),
            median(&mut ours),
            median(&mut ours) / median(&mut bare),
            median(&mut ratios),
        );
    }
}

fn latency() {
    let through: SocketAddr = CHOSEN.parse().unwrap();
    let direct = SocketAddr::from((SERVER, 443));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..3000 {
        for (to, all) in [(direct, &mut without), (through, &mut with)] {
            let begun = Instant::now();
            let stream = open(to);
            all.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(stream);
        }
    }
    for (name, all) in [("direct", &mut without), ("proxy", &mut with)] {
        all.sort_by(f64::total_cmp);
        println!(
            "set-up {name}: p50 {:.3} ms, p90 {:.3} ms, p99 {:.3} ms",
            all[all.len() / 2],
            all[all.len() * 9 / 10],
            all[all.len() * 99 / 100]
        );
    }
    println!(
        "set-up added: p50 {:.3} ms",
        median(&mut with) - median(&mut without)
    );
}

/// What guest B gets done: connections with a question and an answer of 256 KiB each, one after the other. How many a
/// second.
fn work(while_: Duration) -> f64 {
    let to: SocketAddr = "9.9.9.8:443".parse().unwrap();
    let begun = Instant::now();
    let mut done = 0;
    let mut bytes = vec![0; 64 << 10];
    while begun.elapsed() < while_ {
        let mut stream = open(to);
        stream.write_all(b"d").unwrap();
        let mut left: usize = 256 << 10;
        while left > 0 {
            left = left.saturating_sub(stream.read(&mut bytes).unwrap());
        }
        done += 1;
    }
    f64::from(done) / begun.elapsed().as_secs_f64()
}

/// Guest A: 1,000 connections, each of which sends a chunk, has it back, and does so again after a pause. They and their
/// servers have one thread together: how much the machine has to do for them is not to be measured.
struct Crowd {
    stop: CancellationToken,
    moved: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

const CHUNK: usize = 4 << 10;

impl Crowd {
    fn start(connections: usize, pause: Option<Duration>, to: SocketAddr) -> Self {
        let (stop, moved) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (its_stop, its_moved) = (stop.clone(), Arc::clone(&moved));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind((CROWDS_SERVER, 443)).await.unwrap();
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(echo(stream));
                    }
                });
                let mut streams = Vec::new();
                for _ in 0..connections {
                    streams.push(one_of_a_crowd(to).await);
                }
                ready.send(()).unwrap();
                let mut idle = Vec::new();
                for (n, stream) in streams.into_iter().enumerate() {
                    match pause {
                        None => idle.push(stream),
                        Some(pause) => {
                            let first = pause * n as u32 / connections as u32;
                            tokio::spawn(chat(stream, first, pause, Arc::clone(&its_moved)));
                        }
                    }
                }
                its_stop.cancelled().await;
            });
        });
        is_ready.recv().unwrap();
        Self { stop, moved, thread }
    }

    fn end(self) {
        self.stop.cancel();
        self.thread.join().unwrap();
    }
}

async fn one_of_a_crowd(to: SocketAddr) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let hello = hello_for("crowd.example");
    stream.write_all(&hello).await.unwrap();
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    stream
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let (mut reader, mut writer) = stream.split();
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

async fn chat(mut stream: tokio::net::TcpStream, first: Duration, pause: Duration, moved: Arc<AtomicU64>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut chunk = vec![1; CHUNK];
    tokio::time::sleep(first).await;
    loop {
        let round = tokio::time::Instant::now();
        if stream.write_all(&chunk).await.is_err() || stream.read_exact(&mut chunk).await.is_err() {
            return;
        }
        moved.fetch_add(2 * CHUNK as u64, Ordering::Relaxed);
        if !pause.is_zero() {
            tokio::time::sleep_until(round + pause).await;
        }
    }
}

/// What connections that are open take of the child's memory.
fn memory(pid: u32) {
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = resident();
    let crowd = Crowd::start(1000, None, CHOSEN.parse().unwrap());
    println!(
        "memory: {before} KiB, with 1,000 idle connections {} KiB",
        resident()
    );
    crowd.end();
}

/// The crowd that does without the proxy says how much of it is the machine, which the proxy does not share out.
fn fairness() {
    let while_ = Duration::from_millis(1500);
    let (through, direct) = (CHOSEN.parse().unwrap(), SocketAddr::from((CROWDS_SERVER, 443)));
    for (name, pause) in [
        ("idle", None),
        ("each 8 KiB a second", Some(Duration::from_secs(1))),
        ("each 32 KiB a second", Some(Duration::from_millis(250))),
        ("as fast as they can", Some(Duration::ZERO)),
    ] {
        for (way, to) in [("through the proxy", through), ("without it", direct)] {
            let (mut alone, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..7 {
                alone.push(work(while_));
                let crowd = Crowd::start(1000, pause, to);
                let (before, at) = (crowd.moved.load(Ordering::Relaxed), Instant::now());
                beside.push(work(while_));
                let moved = crowd.moved.load(Ordering::Relaxed) - before;
                rates.push(moved as f64 / at.elapsed().as_secs_f64() / 1e6);
                crowd.end();
            }
            let (alone, beside) = (median(&mut alone), median(&mut beside));
            println!(
                "guest B, while A has 1,000 connections {way} ({name}; {:.1} MB/s): {alone:.0} a second alone, \
                 {beside:.0} beside, {:.0} % less",
                median(&mut rates),
                (1.0 - beside / alone) * 100.0
            );
        }
    }
}
