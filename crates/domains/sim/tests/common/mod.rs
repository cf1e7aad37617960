//! A client that knows nothing of the simulator's code: HTTP over a socket, one request a connection.

// Each test program uses a part of it, and a panic is how it reports.
#![allow(dead_code, clippy::unwrap_used)]

use omnirun_sim::{Scenario, Sim, SimHandle};
use serde_json::Value;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Longer than anything here takes on a busy machine.
pub const BOUND: Duration = Duration::from_secs(20);

pub async fn start(yaml: &str) -> SimHandle {
    Sim::start(Scenario::parse(yaml).unwrap(), "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

/// A client with one credential.
#[derive(Clone)]
pub struct Client {
    pub addr: SocketAddr,
    pub key: String,
    pub environment: String,
}

impl Client {
    pub fn of(sim: &SimHandle) -> Client {
        Client {
            addr: sim.addr(),
            key: sim.environment_key(),
            environment: sim.environment_id(),
        }
    }

    pub fn with(&self, key: &str) -> Client {
        Client {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> io::Result<BufReader<TcpStream>> {
        let mut socket = TcpStream::connect(self.addr).await?;
        let auth = if self.key.is_empty() {
            String::new()
        } else {
            format!("authorization: Bearer {}\r\n", self.key)
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: sim\r\n{auth}connection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nanthropic-worker-id: test\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(head.as_bytes()).await?;
        Ok(BufReader::new(socket))
    }

    /// A request; an error when the connection ends without a whole answer.
    pub async fn try_call(&self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        timeout(BOUND, async {
            let mut socket = self.send(method, path, body).await?;
            let (status, head) = read_head(&mut socket).await?;
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok());
            let mut bytes = vec![0; length.unwrap_or(0)];
            socket.read_exact(&mut bytes).await?;
            let body = if bytes.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&bytes)?
            };
            Ok(Reply { status, head, body })
        })
        .await
        .expect("no answer in time")
    }

    pub async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.try_call(method, path, body)
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// A call on the environment's queue.
    pub async fn work(&self, method: &str, rest: &str, body: &str) -> Reply {
        self.call(
            method,
            &format!("/v1/environments/{}/work{rest}", self.environment),
            body,
        )
        .await
    }

    pub async fn poll(&self) -> Value {
        self.work("GET", "/poll?block_ms=999", "").await.body
    }

    /// Polls until there is an item.
    pub async fn claim(&self) -> Value {
        timeout(BOUND, async {
            loop {
                let item = self.poll().await;
                if !item.is_null() {
                    return item;
                }
            }
        })
        .await
        .expect("no item in time")
    }

    /// Claims and acknowledges; the item's id and a client with its token.
    pub async fn hold(&self) -> (String, String, Client) {
        let item = self.claim().await;
        let id = item["id"].as_str().unwrap().to_owned();
        assert_eq!(self.work("POST", &format!("/{id}/ack"), "").await.status, 200);
        let session = item["data"]["id"].as_str().unwrap().to_owned();
        (id, session, self.with(&token(&item)))
    }

    pub async fn beat(&self, work: &str, expected: &str) -> Reply {
        let expected = expected.replace(':', "%3A");
        self.work(
            "POST",
            &format!("/{work}/heartbeat?expected_last_heartbeat={expected}"),
            "",
        )
        .await
    }

    pub async fn history(&self, session: &str) -> Vec<Value> {
        let reply = self
            .call("GET", &format!("/v1/sessions/{session}/events?limit=1000"), "")
            .await;
        reply.body["data"].as_array().unwrap().clone()
    }

    pub async fn result(&self, session: &str, id: &str, text: &str) -> Reply {
        self.call(
            "POST",
            &format!("/v1/sessions/{session}/events"),
            &result(id, text),
        )
        .await
    }

    pub async fn stream(&self, session: &str) -> Stream {
        let mut socket = self
            .send("GET", &format!("/v1/sessions/{session}/events/stream"), "")
            .await
            .unwrap();
        let (status, head) = read_head(&mut socket).await.unwrap();
        assert_eq!(status, 200, "{head}");
        assert!(head.contains("text/event-stream"), "{head}");
        Stream { socket }
    }
}

pub fn token(item: &Value) -> String {
    use base64::Engine;
    let secret = item["secret"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(secret)
        .unwrap();
    let payload: Value = serde_json::from_slice(&bytes).unwrap();
    payload["sessions_token"].as_str().unwrap().to_owned()
}

pub fn result(id: &str, text: &str) -> String {
    serde_json::json!({"events": [{"type": "user.tool_result", "tool_use_id": id, "is_error": false,
        "content": [{"type": "text", "text": text}]}]})
    .to_string()
}

async fn read_head(socket: &mut BufReader<TcpStream>) -> io::Result<(u16, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if socket.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .expect("a status line");
    Ok((status, head.to_ascii_lowercase()))
}

/// An open event stream.
pub struct Stream {
    socket: BufReader<TcpStream>,
}

impl Stream {
    /// The next event's data, or None when the stream has ended (properly or not).
    pub async fn next(&mut self) -> Option<Value> {
        timeout(BOUND, async {
            loop {
                let mut line = String::new();
                if self.socket.read_line(&mut line).await.ok()? == 0 {
                    return None;
                }
                // Chunk sizes, event names and comments stand on lines of their own.
                if let Some(data) = line.trim_end().strip_prefix("data: ") {
                    return serde_json::from_str(data).ok();
                }
            }
        })
        .await
        .expect("no event in time")
    }

    /// The stream's bytes up to a text, put together from chunks of any size.
    pub async fn raw_until(&mut self, text: &str) -> String {
        timeout(BOUND, async {
            let mut all = Vec::new();
            loop {
                let mut size = String::new();
                self.socket.read_line(&mut size).await.unwrap();
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                self.socket.read_exact(&mut chunk).await.unwrap();
                all.extend_from_slice(&chunk[..size]);
                let so_far = String::from_utf8_lossy(&all);
                if so_far.contains(text) {
                    return so_far.into_owned();
                }
            }
        })
        .await
        .expect("not in time")
    }

    /// Reads on to an event of a type.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self
                .next()
                .await
                .unwrap_or_else(|| panic!("the stream ended before {kind}"));
            if event["type"] == kind {
                return event;
            }
        }
    }
}
