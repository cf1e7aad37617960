//! Answers that no Firecracker gives, or not so.

use super::*;

const SOON: Duration = Duration::from_secs(60);
/// For a call that is to run out of its time.
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_fault_without_its_form_is_one_all_the_same() {
    for (answer, expected) in [
        (
            with_body("500 Internal Server Error", "out of luck\x1b[2J\n"),
            "out of luck[2J",
        ),
        (
            with_body("404 Not Found", ""),
            "status 404 Not Found, without a reason",
        ),
        (
            with_body("400 Bad Request", "{\"fault_message\":7}"),
            "{\"fault_message\":7}",
        ),
        (with_body("409 Conflict", "null"), "null"),
        (
            with_body(
                "400 ",
                &serde_json::json!({"fault_message": "no\x07\u{9b}!\nmore"}).to_string(),
            ),
            "no!",
        ),
        // Nobody reads a book of it.
        (
            with_body(
                "400 ",
                &serde_json::json!({"fault_message": "x".repeat(MAX_ANSWER / 2)}).to_string(),
            ),
            &"x".repeat(MAX_FAULT),
        ),
    ] {
        let (client, _side) = with(move |stream| answering(stream, answer)).await;
        match client.set_state(State::Paused).await {
            Err(ApiError::Fault(said)) => assert_eq!(said, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// A call's answer, and the next one's, which the double would give well.
async fn twice(answer: Vec<u8>) -> [Result<String, ApiError>; 2] {
    let (client, _side) = with(move |mut stream| async move {
        let _ = request(&mut stream).await;
        let _ = stream.write_all(&answer).await;
        answering(stream, version("1.16.1")).await;
    })
    .await;
    [client.version().await, client.version().await]
}

fn version(number: &str) -> Vec<u8> {
    with_body("200 ", &format!("{{\"firecracker_version\":\"{number}\"}}"))
}

#[tokio::test]
async fn an_answer_in_another_form_is_none_and_the_connection_goes_on() {
    let deep = "[".repeat(MAX_ANSWER / 2);
    for (what, answer) in [
        ("a redirection", with_body("302 Found", "")),
        (
            "a success that it does not have",
            with_body("206 Partial Content", ""),
        ),
        ("no JSON", with_body("200 OK", "<html>")),
        ("another JSON", with_body("200 OK", "[1,2]")),
        (
            "JSON of another type",
            with_body("200 OK", "{\"firecracker_version\":1}"),
        ),
        ("JSON deeper than a stack", with_body("200 OK", &deep)),
        ("no body", good()),
    ] {
        let [answer, next] = twice(answer).await;
        assert!(matches!(answer, Err(ApiError::Garbled(_))), "{what}: {answer:?}");
        assert_eq!(next.ok().as_deref(), Some("1.16.1"), "{what}");
    }
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection() {
    let head = |more: &str| format!("HTTP/1.1 200 \r\n{more}\r\n\r\n").into_bytes();
    let huge = [
        head(&format!("Content-Length: {}", 1 << 30)),
        vec![b' '; 2 * MAX_ANSWER],
    ];
    let headers = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"a: b\r\n".repeat(20_000)];
    let chunks = [
        head("Transfer-Encoding: chunked"),
        b"4\r\n    \r\n".repeat(MAX_ANSWER / 4 + 1),
    ];
    for (what, answer) in [
        ("noise", b"\x00\xff\xfe not http at all\r\n\r\n".to_vec()),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("another version", b"HTTP/3.0 204 \r\n\r\n".to_vec()),
        ("a status that is no number", b"HTTP/1.1 2x4 \r\n\r\n".to_vec()),
        ("a status of no kind", b"HTTP/1.1 99 \r\n\r\n".to_vec()),
        ("a header that is none", head("what is this")),
        ("a NUL in a header", head("a: b\0c")),
        ("an endless body", huge.concat()),
        ("endless headers", headers.concat()),
        (
            "one endless header",
            [b"HTTP/1.1 200 \r\na: ".to_vec(), vec![b'b'; 2 * MAX_ANSWER]].concat(),
        ),
        ("endless chunks", chunks.concat()),
        ("a length that is no number", head("Content-Length: many")),
        ("a negative length", head("Content-Length: -1")),
        (
            "a length beyond all numbers",
            head(&format!("Content-Length: {}0", u64::MAX)),
        ),
        ("two lengths", head("Content-Length: 1\r\nContent-Length: 2")),
        (
            "a chunk of no size",
            [head("Transfer-Encoding: chunked"), b"x\r\n".to_vec()].concat(),
        ),
        (
            "a chunk beyond all numbers",
            [
                head("Transfer-Encoding: chunked"),
                b"fffffffffffffffff\r\n".to_vec(),
            ]
            .concat(),
        ),
        (
            "another protocol from now on",
            b"HTTP/1.1 101 \r\nUpgrade: tea\r\nConnection: upgrade\r\n\r\n".to_vec(),
        ),
    ] {
        let both = tokio::time::timeout(SOON, twice(answer)).await;
        let [answer, next] = both.unwrap_or_else(|_| panic!("{what}: no end"));
        assert!(matches!(answer, Err(ApiError::Garbled(_))), "{what}: {answer:?}");
        assert!(
            matches!(next, Err(ApiError::Closed | ApiError::Garbled(_))),
            "{what}: {next:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_in_chunks_and_one_after_others_that_are_none_are_answers() {
    let body = "{\"firecracker_version\":\"1.16.1\"}";
    let chunked: String = body.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let chunked = format!("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n{chunked}0\r\n\r\n");
    let interim = ["HTTP/1.1 100 \r\n\r\n".repeat(50).into_bytes(), version("1.16.1")];
    let filled = format!("{body}{}", " ".repeat(MAX_ANSWER - body.len()));
    for (what, answer) in [
        ("chunks", chunked.into_bytes()),
        ("others before it", interim.concat()),
        ("as long as may be", with_body("200 ", &filled)),
    ] {
        let [answer, next] = twice(answer).await;
        assert_eq!(answer.ok().as_deref(), Some("1.16.1"), "{what}");
        assert_eq!(next.ok().as_deref(), Some("1.16.1"), "{what}, the next");
    }
    let longer = format!("{filled} ");
    let [answer, _] = twice(with_body("200 ", &longer)).await;
    assert!(matches!(answer, Err(ApiError::Garbled(_))), "{answer:?}");
}

#[tokio::test]
async fn a_length_that_is_a_lie_spoils_no_other_answer() {
    // Less than there is: the rest was not asked for.
    let mut short = version("1.15.1");
    short.extend(version("1.0.0"));
    let [answer, next] = twice(short).await;
    assert_eq!(answer.ok().as_deref(), Some("1.15.1"));
    assert!(
        matches!(next, Err(ApiError::Closed | ApiError::Garbled(_))),
        "{next:?}"
    );

    // More than there is: what comes next would be taken for the rest.
    let (client, _side) = with(|mut stream| async move {
        let _ = request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 \r\nContent-Length: 100\r\n\r\n{}")
            .await;
        answering(stream, good()).await;
    })
    .await;
    let answer = client.patch("/vm", &State::Paused, SHORT).await;
    assert!(matches!(answer, Err(ApiError::Timeout(_))), "{answer:?}");
    let next = client.set_state(State::Paused).await;
    assert!(matches!(next, Err(ApiError::Closed)), "{next:?}");
}

#[tokio::test]
async fn an_answer_to_nothing_is_none() {
    let (client, _side) = with(|stream| async move {
        let mut stream = stream;
        let _ = stream.write_all(&good()).await;
        answering(stream, good()).await;
    })
    .await;
    let noticed = async {
        while !client.sender.lock().await.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, noticed).await.expect("it is noticed");
    let answer = client.set_state(State::Paused).await;
    assert!(matches!(answer, Err(ApiError::Closed)), "{answer:?}");
}

#[tokio::test]
async fn whatever_goes_on_for_ever_has_a_bound() {
    for (what, begin, again) in [
        (
            "a body by the byte",
            "HTTP/1.1 200 \r\nContent-Length: 60000\r\n\r\n",
            " ",
        ),
        ("a head by the byte", "HTTP/1.1 200 \r\nServer: ", "x"),
        ("answers that are none", "", "HTTP/1.1 100 \r\n\r\n"),
        ("nothing", "", ""),
    ] {
        let (client, _side) = with(move |mut stream| async move {
            let _ = request(&mut stream).await;
            let _ = stream.write_all(begin.as_bytes()).await;
            while !again.is_empty() && stream.write_all(again.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let call = tokio::time::timeout(SOON, client.patch("/vm", &State::Paused, SHORT));
        match call.await {
            Ok(Err(ApiError::Timeout(within))) => assert_eq!(within, SHORT, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        let next = client.set_state(State::Paused).await;
        assert!(matches!(next, Err(ApiError::Closed)), "{what}: {next:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_is_the_end() {
    // Before the call, in its middle, after it without a word, and with half of the connection still open.
    for taken in [None, Some(0), Some(10), Some(usize::MAX)] {
        let (client, _side) = with(move |mut stream| async move {
            match taken {
                None => {}
                Some(usize::MAX) => {
                    let _ = request(&mut stream).await;
                    let _ = stream.shutdown().await;
                    std::future::pending::<()>().await;
                }
                Some(bytes) => {
                    let mut part = vec![0; bytes.max(1)];
                    let _ = stream.read_exact(&mut part[..bytes]).await;
                }
            }
        })
        .await;
        for _ in 0..2 {
            let answer = tokio::time::timeout(SOON, client.set_state(State::Paused)).await;
            assert!(
                matches!(answer, Ok(Err(ApiError::Closed))),
                "{taken:?}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_and_a_late_one_is_not_taken_for_the_next() {
    let (client, _side) = with(|mut stream| async move {
        let _ = request(&mut stream).await;
        for byte in with_body("200 OK", "{\"firecracker_version\":\"1.16.1\"}") {
            let _ = stream.write_all(&[byte]).await;
            tokio::task::yield_now().await;
        }
        // And then none.
        let _ = request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(client.version().await.expect("slow"), "1.16.1");
    let patch = client.patch("/vm", &State::Paused, SHORT);
    match patch.await {
        Err(ApiError::Timeout(within)) => assert_eq!(within, SHORT),
        other => panic!("{other:?}"),
    }
    let next = tokio::time::timeout(SOON, client.version())
        .await
        .expect("at once");
    assert!(matches!(next, Err(ApiError::Closed)), "{next:?}");
}
