//! Replies that are small on the wire and large in memory.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_guest_proto::{
    Message, frame,
    host::{HostEnd, HostEvent, Violation},
    message::{Block, Empty, FileList, FileStat, Op, Outcome, Reply, Request, ToolResult},
};

fn receive(outcome: Outcome) -> Result<Option<HostEvent>, Violation> {
    let mut host = HostEnd::new(&[]);
    let op = Some(Op::Ping(Empty {}));
    let call = host.open(&Request { op }).unwrap();
    let reply = Reply {
        outcome: Some(outcome),
    };
    let mut wire = Vec::new();
    frame::put_message(&mut wire, call, &reply.encode_to_vec());
    host.push(&wire);
    host.next()
}

fn list(count: usize) -> Outcome {
    Outcome::List(FileList {
        entries: vec![FileStat::default(); count],
        truncated: true,
    })
}

#[test]
fn very_many_entries_of_two_bytes_are_refused() {
    assert_eq!(receive(list(200_000)), Err(Violation::Message(1)));
    let content = vec![Block::default(); 200_000];
    let tool = Outcome::Tool(ToolResult {
        content,
        ..ToolResult::default()
    });
    assert_eq!(receive(tool), Err(Violation::Message(1)));
}

#[test]
fn as_many_as_an_agent_sends_pass() {
    assert!(matches!(receive(list(10_000)), Ok(Some(HostEvent::Reply(1, _)))));
}
