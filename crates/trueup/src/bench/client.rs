//! A minimal HTTP/1.1 client over one kept-alive connection, with one request in flight.
//!
//! The load generator shares the cores with the server, so that it must be as cheap as can be.
//! It reads only what our own servers write: a status line, `content-length`, and the body.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest body of an answer.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much a connection can read at first without growing.
const BUFFER_BYTES: usize = 4 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed.
    #[error("talk to the server")]
    Io(#[from] io::Error),
    /// The server closed the connection before the answer was whole.
    #[error("the server closed the connection")]
    Closed,
    /// The answer is not one that we can read.
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
}

/// What the head of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    head_bytes: usize,
    body_bytes: usize,
    has_retry_after: bool,
}

/// An answer; its body lives until the next request.
#[derive(Debug)]
pub(super) struct Response<'a> {
    pub(super) status: u16,
    pub(super) has_retry_after: bool,
    pub(super) body: &'a [u8],
}

/// A kept-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(addr: SocketAddr) -> Result<Self, WireError> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Opens a connection and has an answer over it, whatever it says. One that only waits to be
    /// taken in may lose its first request where many are opened at once, and repeats it after
    /// seconds.
    pub(super) async fn open_answered(addr: SocketAddr) -> Result<Self, WireError> {
        let mut connection = Self::open(addr).await?;
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {addr}\r\n\r\n");
        connection.exchange(request.as_bytes()).await?;
        Ok(connection)
    }

    /// Sends a request and reads the whole answer. After an error the connection is of no use.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<Response<'_>, WireError> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = self.read_head().await?;
        let end = head.head_bytes + head.body_bytes;
        self.buffer.reserve(end.saturating_sub(self.buffer.len()));
        while self.buffer.len() < end {
            self.read_some().await?;
        }
        if self.buffer.len() > end {
            return Err(WireError::Malformed("more bytes than content-length says"));
        }
        let Head { status, head_bytes, has_retry_after, .. } = head;
        Ok(Response { status, has_retry_after, body: &self.buffer[head_bytes..end] })
    }

    async fn read_head(&mut self) -> Result<Head, WireError> {
        loop {
            self.read_some().await?;
            if let Some(head) = parse_head(&self.buffer)? {
                return Ok(head);
            }
        }
    }

    async fn read_some(&mut self) -> Result<(), WireError> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(WireError::Closed),
            _ => Ok(()),
        }
    }
}

/// Reads the head of an answer; `None` = it is not whole yet.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, WireError> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() > HEAD_BYTES_MAX {
            true => Err(WireError::Malformed("the head is too long")),
            false => Ok(None),
        };
    };
    let text = std::str::from_utf8(&bytes[..end])
        .map_err(|_| WireError::Malformed("the head is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let status = parse_status(lines.next().unwrap_or_default())?;
    let Headers { length: announced, has_retry_after } = parse_headers(lines)?;
    let body_bytes = match (status, announced) {
        (204 | 304, _) => 0,
        (_, Some(bytes)) => bytes,
        (_, None) => return Err(WireError::Malformed("there is no content-length")),
    };
    Ok(Some(Head { status, head_bytes: end + 4, body_bytes, has_retry_after }))
}

fn parse_status(line: &str) -> Result<u16, WireError> {
    let rest = line.strip_prefix("HTTP/1.1 ").ok_or(WireError::Malformed("not HTTP/1.1"))?;
    let word = rest.split(' ').next().unwrap_or_default();
    let status = parse_digits(word).and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (200..=599).contains(status));
    status.ok_or(WireError::Malformed("the status is not one of 200 to 599"))
}

/// What we look for among headers.
#[derive(Default)]
struct Headers {
    length: Option<usize>,
    has_retry_after: bool,
}

fn parse_headers<'a>(headers: impl Iterator<Item = &'a str>) -> Result<Headers, WireError> {
    let mut found = Headers::default();
    for line in headers {
        let Some((name, value)) = line.split_once(':') else {
            return Err(WireError::Malformed("a header has no colon"));
        };
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(WireError::Malformed("chunked answers are not read here"));
        }
        if name.eq_ignore_ascii_case("retry-after") {
            found.has_retry_after = parse_digits(value.trim()).is_some();
        }
        if !name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        let bytes = parse_digits(value.trim()).filter(|bytes| *bytes <= BODY_BYTES_MAX);
        let bytes = bytes.ok_or(WireError::Malformed("the content-length is illegal"))?;
        if found.length.replace(bytes).is_some_and(|before| before != bytes) {
            return Err(WireError::Malformed("there are two content-lengths"));
        }
    }
    Ok(found)
}

/// Reads digits only: `usize::from_str` would also take a sign.
fn parse_digits(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn check(text: &str, expected: Result<Option<(u16, usize)>, &str>) {
        let found = parse_head(text.as_bytes());
        let found = match &found {
            Ok(head) => Ok(head.map(|head| (head.status, head.body_bytes))),
            Err(WireError::Malformed(words)) => Err(*words),
            Err(other) => panic!("{text:?}: {other}"),
        };
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let head = "HTTP/1.1 201 Created\r\nContent-Length: 12\r\nx-request-id: a:b\r\n\r\n";
        for end in 0..head.len() {
            check(&head[..end], Ok(None));
        }
        check(head, Ok(Some((201, 12))));
        check(&format!("{head}{{\"half"), Ok(Some((201, 12))));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some((204, 0))));
        check("HTTP/1.1 503 \r\ncontent-length:0\r\n\r\n", Ok(Some((503, 0))));
        let head = parse_head(head.as_bytes()).unwrap().unwrap();
        assert_eq!(head.head_bytes, 63);
    }

    #[test]
    fn a_retry_after_is_a_number_of_seconds() {
        for (value, expected) in [("Retry-After: 1", true), ("retry-after: soon", false)] {
            let head = format!("HTTP/1.1 503 \r\n{value}\r\ncontent-length:0\r\n\r\n");
            let head = parse_head(head.as_bytes()).unwrap().unwrap();
            assert_eq!(head.has_retry_after, expected, "{value}");
        }
    }

    #[test]
    fn a_head_that_we_cannot_trust_is_refused() {
        let status = "the status is not one of 200 to 599";
        let length = "the content-length is illegal";
        check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Err("not HTTP/1.1"));
        check("HTTP/1.1 100 Continue\r\n\r\n", Err(status));
        check("HTTP/1.1 +200 OK\r\n\r\n", Err(status));
        check("HTTP/1.1 99999999999999999999999 OK\r\n\r\n", Err(status));
        check("HTTP/1.1 200 OK\r\n\r\n", Err("there is no content-length"));
        check("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Err(length));
        check("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", Err(length));
        check("HTTP/1.1 200 OK\r\ncontent-length: 16777217\r\n\r\n", Err(length));
        check("HTTP/1.1 200 OK\r\ncontent-length 1\r\n\r\n", Err("a header has no colon"));
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            Err("there are two content-lengths"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err("chunked answers are not read here"),
        );
        check(&"x".repeat(HEAD_BYTES_MAX + 1), Err("the head is too long"));
    }

    async fn answer_with(parts: &'static [&'static str]) -> Result<(u16, Vec<u8>), WireError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            for part in parts {
                stream.write_all(part.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut connection = Connection::open(addr).await?;
        let answer = connection.exchange(b"GET ").await;
        let answer = answer.map(|response| (response.status, response.body.to_vec()));
        serving.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_put_together() {
        let parts = &["HTTP/1.1 200 OK\r\ncontent-", "length: 5\r\n\r\nab", "cde"];
        assert_eq!(answer_with(parts).await.unwrap(), (200, b"abcde".to_vec()));
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_or_too_long_is_an_error() {
        let short = answer_with(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcd"]).await;
        assert!(matches!(short, Err(WireError::Closed)), "{short:?}");
        let long = answer_with(&["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"]).await;
        assert!(matches!(long, Err(WireError::Malformed(_))), "{long:?}");
    }
}
