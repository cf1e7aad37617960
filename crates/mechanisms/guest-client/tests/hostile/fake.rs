//! The agent's end, without an agent.

use omnirun_guest_client::{GuestClient, message::*};
use omnirun_guest_proto::guest::{GuestEnd, GuestEvent};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

pub const BOUND: Duration = Duration::from_secs(30);

/// A guest whose hand the test leads.
pub struct Fake {
    pub stream: UnixStream,
    pub end: GuestEnd,
}

impl Fake {
    pub async fn start() -> (GuestClient, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut fake = Self {
            stream: theirs,
            end: GuestEnd::default(),
        };
        let (client, _) = tokio::join!(GuestClient::connect(ours, BOUND), async {
            assert_eq!(fake.event().await, GuestEvent::Connected);
            fake.flush().await;
        });
        (client.unwrap(), fake)
    }

    pub async fn event(&mut self) -> GuestEvent {
        let mut buffer = [0; 4096];
        loop {
            if let Some(event) = self.end.next() {
                return event;
            }
            let count = tokio::time::timeout(BOUND, self.stream.read(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert!(count > 0, "the client has gone");
            self.end.push(&buffer[..count]);
        }
    }

    pub async fn request(&mut self) -> u32 {
        loop {
            if let GuestEvent::Request(call, _) = self.event().await {
                return call;
            }
        }
    }

    pub async fn flush(&mut self) {
        let out = std::mem::take(&mut self.end.out);
        self.stream.write_all(&out).await.unwrap();
    }

    pub async fn reply(&mut self, call: u32, outcome: Outcome) {
        self.end.reply(
            call,
            &Reply {
                outcome: Some(outcome),
            },
        );
        self.flush().await;
    }
}
