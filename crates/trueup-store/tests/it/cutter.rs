//! Stands between a store and its database, and cuts connections in the moment of a commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The name of the server's socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";
/// How a commit ends that leaves a receipt.
const MARKED: &[u8] = b"SET LOCAL statement_timeout = 0; COMMIT";

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It goes through.
    Passes,
    /// The database never hears of it.
    RequestLost,
    /// It is committed, and nobody hears of it.
    AnswerLost,
    /// Both ends go at once: it may have been committed or not.
    BothGone,
}

/// A socket in a directory of its own, in front of the server's.
pub(crate) struct Cutter {
    dir: TempDir,
    behind: String,
    commits: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
    accepts: JoinHandle<()>,
}

impl Cutter {
    /// Stands before a server on a socket; `None` where the URL names none.
    pub(crate) fn before(url: &str) -> Option<Self> {
        let behind = url.split("host=").nth(1)?.split('&').next()?.to_owned();
        let server = PathBuf::from(&behind).join(SOCKET);
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let (commits, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, counted_cut) = (commits.clone(), cut.clone());
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&server).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (commits, cut) = (counted.clone(), counted_cut.clone());
                tokio::spawn(async move {
                    let back = tokio::spawn(pass_back(from_server, to_client));
                    pass_on(from_client, to_server, &commits, &cut, back).await;
                });
            }
        });
        Some(Self { dir, behind, commits, cut, accepts })
    }

    /// Returns the URL of the same database through this.
    pub(crate) fn url(&self, url: &str) -> String {
        let through = self.dir.path().to_str().unwrap();
        url.replace(&format!("host={}", self.behind), &format!("host={through}"))
    }

    /// Returns how many connections were cut.
    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Ordering::SeqCst)
    }

    /// Lets everything through from now on.
    pub(crate) fn stop_cutting(&self) {
        self.commits.store(u64::MAX / 2, Ordering::SeqCst);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

/// Returns what becomes of the commit of a number: of seven, three do not pass.
fn fate(number: u64) -> Fate {
    match number % 7 {
        _ if number >= u64::MAX / 2 => Fate::Passes,
        2 => Fate::RequestLost,
        4 => Fate::AnswerLost,
        6 => Fate::BothGone,
        _ => Fate::Passes,
    }
}

async fn pass_back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = vec![0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    commits: &AtomicU64,
    cut: &AtomicU64,
    back: JoinHandle<()>,
) {
    let mut bytes = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let sent = &bytes[..count];
        // Only the commits of what was decided or kept: those that leave a receipt.
        let is_commit = sent.windows(MARKED.len()).any(|at| at == MARKED);
        let fate =
            if is_commit { fate(commits.fetch_add(1, Ordering::SeqCst)) } else { Fate::Passes };
        if fate != Fate::Passes {
            cut.fetch_add(1, Ordering::SeqCst);
        }
        match fate {
            Fate::Passes => {
                if to.write_all(sent).await.is_err() {
                    break;
                }
            }
            Fate::RequestLost => break,
            Fate::AnswerLost => {
                // Nothing comes back any more, and the server has all the time it needs: it ends
                // the connection itself once it has read the end of what is sent.
                back.abort();
                drop(to.write_all(sent).await);
                drop(to.shutdown().await);
                return;
            }
            Fate::BothGone => {
                back.abort();
                drop(to.write_all(sent).await);
                return;
            }
        }
    }
    back.abort();
}
