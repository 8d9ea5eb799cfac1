//! The last look before a request goes out: whether this node still works for the org.
//!
//! A node may stand still at any moment, and go on when its shards are another node's. So it is
//! looked at after everything that takes time, and, where a request has a body, once more when the
//! connection is there and the body is wanted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use trueup_channels::{ChannelError, ChannelErrorKind};
use trueup_core::Org;
use trueup_store::Store;

/// The code of a request that was not sent, because the work is another node's.
pub(crate) const LEASE_LOST: &str = "lease_lost";

/// Whether requests for an org may go out.
pub(crate) struct Barrier(Box<dyn Fn() -> bool + Send + Sync>);

impl Barrier {
    /// Makes the barrier of those who work for an org.
    pub(crate) fn of_workers(store: Arc<dyn Store>, org: Org) -> Arc<Self> {
        Arc::new(Self(Box::new(move || store.holds(&org))))
    }

    /// Makes the barrier of what any node may ask, such as for a vendor's public keys.
    pub(crate) fn of_anybody() -> Arc<Self> {
        Arc::new(Self(Box::new(|| true)))
    }

    /// Returns whether a request may go out at this instant.
    pub(crate) fn is_open(&self) -> bool {
        (self.0)()
    }
}

/// Makes the error of a request that was not sent.
pub(crate) fn lease_lost() -> ChannelError {
    let words = "not sent: the work for this org is another node's";
    ChannelError::new(ChannelErrorKind::Transient, words).with_code(LEASE_LOST)
}

/// A body that is handed over only while its barrier is open.
pub(crate) struct BarredBody {
    bytes: Option<Bytes>,
    barrier: Arc<Barrier>,
    was_refused: Arc<AtomicBool>,
}

/// A body was wanted when its barrier was shut.
#[derive(Debug, thiserror::Error)]
#[error("the work is another node's")]
pub(crate) struct Shut;

impl BarredBody {
    /// Makes it; says afterwards whether it was refused.
    pub(crate) fn new(bytes: Bytes, barrier: Arc<Barrier>) -> (Self, Arc<AtomicBool>) {
        let was_refused = Arc::new(AtomicBool::new(false));
        (Self { bytes: Some(bytes), barrier, was_refused: was_refused.clone() }, was_refused)
    }
}

impl Body for BarredBody {
    type Data = Bytes;
    type Error = Shut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Shut>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        if self.barrier.is_open() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        self.was_refused.store(true, Ordering::Release);
        Poll::Ready(Some(Err(Shut)))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.bytes.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    const BODY: &str = "the number is 7";

    /// Sends a body through a barrier that is open for so many looks; returns what came of it, and
    /// what a server that never answers was sent.
    async fn send(looks: usize) -> (Result<(), ()>, bool, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let left = AtomicUsize::new(looks);
        let is_open = move || {
            let took = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            took.is_ok()
        };
        let barrier = Arc::new(Barrier(Box::new(is_open)));
        let (body, was_refused) = BarredBody::new(Bytes::from(BODY), barrier);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(&url).body(reqwest::Body::wrap(body)).send();
        let served = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut read = String::new();
            // Until the body is there or the connection has been given up.
            while !read.ends_with(BODY) {
                let mut some = [0; 1_024];
                match socket.read(&mut some).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => read.push_str(&String::from_utf8_lossy(&some[..count])),
                }
            }
            read
        };
        let (sent, read) = tokio::join!(request, served);
        (sent.map(drop).map_err(drop), was_refused.load(Ordering::SeqCst), read)
    }

    #[tokio::test]
    async fn a_body_goes_out_through_an_open_barrier_with_its_length() {
        let (_, was_refused, read) = send(1).await;
        assert!(!was_refused);
        assert!(read.ends_with(BODY), "{read}");
        assert!(read.contains(&format!("content-length: {}", BODY.len())), "{read}");
    }

    #[tokio::test]
    async fn no_body_goes_out_once_the_barrier_is_shut() {
        let (sent, was_refused, read) = send(0).await;
        assert_eq!(sent, Err(()));
        assert!(was_refused);
        assert!(!read.contains(BODY), "{read}");
    }
}
