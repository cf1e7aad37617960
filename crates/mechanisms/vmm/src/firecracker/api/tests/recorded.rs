//! Every answer that was recorded from Firecracker 1.16.1, head and body, byte by byte: each of its documented faults that
//! the driver's calls can come to, what its HTTP server says by itself, and what it says when a call goes well.

use super::*;

/// One JSON object a line: in what circumstances, which call, the answer.
const RECORDED: &str = include_str!("../../golden/answers-1.16.1.jsonl");

#[derive(Deserialize)]
struct Recorded {
    what: String,
    answer: String,
}

impl Recorded {
    fn all() -> Vec<Self> {
        let lines = RECORDED.lines();
        lines
            .map(|l| serde_json::from_str(l).expect("a record"))
            .collect()
    }

    fn body(&self) -> &str {
        self.answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    fn is_good(&self) -> bool {
        self.answer.starts_with("HTTP/1.1 20")
    }
}

#[tokio::test]
async fn every_fault_is_told_in_its_own_words() {
    let mut faults = 0;
    for record in Recorded::all() {
        let bytes = record.answer.clone().into_bytes();
        let (client, _side) = with(move |stream| answering(stream, bytes)).await;
        let answer = client.set_state(State::Paused).await;
        if record.is_good() {
            assert!(answer.is_ok(), "{}: {answer:?}", record.what);
            continue;
        }
        faults += 1;
        let words = match serde_json::from_str::<serde_json::Value>(record.body()) {
            Ok(body) if body.get("fault_message").is_some() => body["fault_message"].clone(),
            // Its HTTP server's own, which is not always JSON.
            _ => record.body().lines().next().unwrap_or_default().into(),
        };
        match answer {
            // Whole: what it comes to is at the end of its words.
            Err(ApiError::Fault(said)) => assert_eq!(Some(&*said), words.as_str(), "{}", record.what),
            other => panic!("{}: {other:?}", record.what),
        }
    }
    assert!(faults > 50, "{faults}");
}

#[tokio::test]
async fn a_fault_is_an_answer_and_the_connection_stays() {
    let records = Recorded::all();
    let fault = records.iter().find(|r| !r.is_good()).expect("one").answer.clone();
    let (client, _side) = with(move |stream| answering(stream, fault.into_bytes())).await;
    for _ in 0..3 {
        let answer = client.set_state(State::Paused).await;
        assert!(matches!(answer, Err(ApiError::Fault(_))), "{answer:?}");
    }
}

/// Two answers to one call: this is what Firecracker says to a body that is too large.
#[tokio::test]
async fn a_second_answer_to_one_call_is_not_the_next_calls() {
    let records = Recorded::all();
    let twice = records
        .iter()
        .find(|r| r.answer.matches("HTTP/1.1 400").count() == 2);
    let twice = twice.expect("a recorded one").answer.clone().into_bytes();
    let (client, _side) = with(move |mut stream| async move {
        let _ = request(&mut stream).await;
        let _ = stream.write_all(&twice).await;
        // It would answer the next one well.
        answering(stream, good()).await;
    })
    .await;
    let first = client.set_state(State::Paused).await;
    assert!(matches!(first, Err(ApiError::Fault(_))), "{first:?}");
    let next = client.set_state(State::Paused).await;
    assert!(
        matches!(next, Err(ApiError::Closed | ApiError::Garbled(_))),
        "{next:?}"
    );
}

/// At every byte of every answer: the connection ends, or stands still.
#[tokio::test]
async fn an_answer_that_breaks_off_anywhere_is_none() {
    let all = Recorded::all();
    let mut seen = Vec::new();
    for record in &all {
        // One of each kind of head.
        let head = record.answer.split("Content-Length").next().unwrap_or_default();
        if seen.contains(&head) {
            continue;
        }
        seen.push(head);
        let whole = record.answer.as_bytes();
        for cut in 0..whole.len() {
            let part = whole[..cut].to_vec();
            let (client, _side) = with(move |mut stream| async move {
                let _ = request(&mut stream).await;
                let _ = stream.write_all(&part).await;
            })
            .await;
            for _ in 0..2 {
                match client.set_state(State::Paused).await {
                    Err(ApiError::Closed) => {}
                    other => panic!("{}, {cut}: {other:?}", record.what),
                }
            }
        }
    }
    assert!(seen.len() >= 3, "{seen:?}");
}
