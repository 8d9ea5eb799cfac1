//! Bytes that are no proper requests, over raw sockets: requests hidden in others, floods of
//! headers, clients that never finish.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Client, Server, token};

/// How long nothing may come until an answer is taken to be over.
const SILENCE: Duration = Duration::from_millis(400);
/// How many clients never finish what they say.
const SLOW: usize = 500;

/// Sends bytes and returns what comes back until the end or silence.
async fn send(address: &str, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // It may be closed before all is sent.
    drop(socket.write_all(bytes).await);
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    while let Ok(Ok(read)) = tokio::time::timeout(SILENCE, socket.read(&mut piece)).await {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_hidden_in_another_is_never_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let address = server.url.strip_prefix("http://").unwrap();
    // What a proxy in front would take for a body, and we must not take for a request.
    let hidden = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = "POST /sales-channel/inventory/reserve HTTP/1.1\r\nHost: x\r\n";
    let body = format!("0\r\n\r\n{hidden}");
    let length = body.len();
    for (name, request) in [
        (
            "two lengths",
            format!("{post}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{body}"),
        ),
        ("a list of lengths", format!("{post}Content-Length: 0, {length}\r\n\r\n{body}")),
        ("a length with a sign", format!("{post}Content-Length: +{length}\r\n\r\n{body}")),
        ("a negative length", format!("{post}Content-Length: -1\r\n\r\n{hidden}")),
        ("a length in hexadecimal", format!("{post}Content-Length: 0x10\r\n\r\n{hidden}")),
        ("a huge length", format!("{post}Content-Length: 99999999999999999999\r\n\r\n{hidden}")),
        ("a space before the colon", format!("{post}Content-Length : {length}\r\n\r\n{body}")),
        ("a folded header", format!("{post}X: a\r\n b: {length}\r\n\r\n{hidden}")),
        ("an unknown coding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n{hidden}")),
        (
            "a coding after chunks",
            format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n{hidden}"),
        ),
        (
            "a coding of HTTP/1.0",
            format!("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
        ),
        (
            "a chunk of a huge size",
            format!("{post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{hidden}"),
        ),
        ("a chunk of no number", format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{hidden}")),
        ("a chunk of a sign", format!("{post}Transfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}")),
        ("a NUL in a header", format!("{post}X: a\0b\r\n\r\n{hidden}")),
        ("no HTTP", format!("HELLO\r\n\r\n{hidden}")),
        ("another version", format!("GET / HTTP/9.9\r\nHost: x\r\n\r\n{hidden}")),
    ] {
        let answer = send(address, request.as_bytes()).await;
        let found = statuses(&answer);
        assert!(!found.contains(&"200"), "{name}: {answer}");
        assert!(found.len() <= 1, "{name}: {answer}");
    }
    // With chunks and a length, the chunks count, as RFC 9112 has it (6.3).
    let both = format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let answer = send(address, both.as_bytes()).await;
    assert_eq!(statuses(&answer).len(), 1, "{answer}");
    // Floods of headers.
    for (name, headers) in [
        ("many", (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect::<String>()),
        ("long", format!("x: {}\r\n", "y".repeat(2_000_000))),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let answer = send(address, request.as_bytes()).await;
        let found = statuses(&answer);
        assert!(found.is_empty() || found == ["431"], "{name}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    assert!(!statuses(&send(address, long.as_bytes()).await).contains(&"200"));
    // It answers on.
    assert_eq!(statuses(&send(address, hidden.as_bytes()).await), ["200"]);
    assert!(server.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_finish_keep_nobody_from_being_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let address = server.url.strip_prefix("http://").unwrap();
    let client = Client::new(&server.url, &token("acme"));
    let head = "POST /sales-channel/inventory/reserve HTTP/1.1\r\nHost: x\r\nContent-Length: 1000";
    let bearer = token("acme");
    let begun =
        format!("{head}\r\nAuthorization: Bearer {bearer}\r\norgid: acme\r\n\r\n{{\"items\"");
    let mut sockets = Vec::new();
    for number in 0..SLOW {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let said = ["", "GET / HT", head, &begun][number % 4];
        socket.write_all(said.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    for quantity in 0..20 {
        let body = serde_json::json!({ "quantity": quantity });
        client.must("PUT", "/inventory/A", Some(body)).await;
    }
    assert!(client.is_ready().await);
    drop(sockets);
    assert!(server.terminate());
}
