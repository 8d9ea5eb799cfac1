//! Moving SQLite's log into the file, beside the writer.
//!
//! A commit goes to the end of the log, and the log begins anew only when all of it has been moved.
//! A thread of its own moves it while the writer goes on: in passes, each shorter than the one
//! before it, because less has come in meanwhile. What little is left the writer moves between two
//! commits. Otherwise it would stand still for as long as the disk takes for thousands of pages.
//!
//! A pass that does not move everything is not flushed by SQLite, which moves those pages once only:
//! where a flush of the file fails, the system may have dropped them, and would not say so a second
//! time. Then nothing is moved any more and the log stays: the next start moves it from its beginning.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::ffi::SQLITE_IOERR_FSYNC;

/// From how many pages of the log on they are moved: 32 MiB.
pub(super) const PAGES_MAX: usize = 8_192;
/// So few pages are left for the writer.
const LEFT_MAX: usize = 64;
/// The most passes until the writer has to take what is left, however much comes in.
const PASSES_MAX: usize = 8;

/// Why the log was not moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unmoved {
    /// The file refused to be flushed: nothing may be moved until the store is opened again.
    #[error("the disk refused to flush the file: {0}")]
    Unflushed(String),
    /// Anything else: it stays where it is and is moved another time.
    #[error(transparent)]
    Other(rusqlite::Error),
}

impl From<rusqlite::Error> for Unmoved {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::SqliteFailure(failure, _)
                if failure.extended_code == SQLITE_IOERR_FSYNC =>
            {
                Self::Unflushed(error.to_string())
            }
            _ => Self::Other(error),
        }
    }
}

/// Lets a log be that SQLite would move when the connection is closed.
pub(super) fn leave_log(conn: &Connection) {
    if let Err(error) = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::error!(%error, "leave the log as it is");
    }
}

/// The writer's end.
pub(super) struct Checkpointer {
    /// How many pages the log has.
    pages: Arc<AtomicUsize>,
    pages_max: usize,
    /// How many it had when moving was last begun; another reader may have kept it from beginning
    /// anew.
    begun_at: usize,
    is_under_way: bool,
    /// `None` = it was stopped.
    ask: Option<SyncSender<()>>,
    moved: Receiver<Result<(), Unmoved>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread with a connection of its own; it moves the log from so many pages on. `file` is the store's file: it stays open
    /// for as long as there are connections to it, since closing it would free their locks.
    pub(super) fn start(
        writers: &mut Connection,
        own: Connection,
        file: Arc<File>,
        pages_max: usize,
    ) -> std::io::Result<Self> {
        let pages = Arc::new(AtomicUsize::new(0));
        let (noted, known) = (pages.clone(), pages.clone());
        let hook = move |_: &mut rusqlite::hooks::Wal, count: i32| {
            noted.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        // In place of SQLite's own, which would move pages within a commit.
        writers.wal_hook(Some(hook)).map_err(std::io::Error::other)?;
        let (ask, asked) = sync_channel(1);
        let (done, moved) = sync_channel(1);
        let name = "ledger-checkpointer".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            while asked.recv().is_ok() {
                let moved = move_most(&own, &file, &known);
                let is_over = matches!(moved, Err(Unmoved::Unflushed(_)));
                if is_over {
                    leave_log(&own);
                }
                if done.send(moved).is_err() || is_over {
                    return;
                }
            }
        })?;
        let (begun_at, is_under_way, ask, thread) = (0, false, Some(ask), Some(thread));
        Ok(Self { pages, pages_max, begun_at, is_under_way, ask, moved, thread })
    }

    /// Has the log moved when it has grown long, and moves the rest when most is done. To be called
    /// between two commits, on the writer's connection.
    ///
    /// # Errors
    /// [`Unmoved::Unflushed`] and nothing else, once; nothing is moved after it.
    pub(super) fn tend(&mut self, writers: &Connection) -> Result<(), Unmoved> {
        if self.is_under_way {
            let moved = match self.moved.try_recv() {
                Ok(moved) => moved.and_then(|()| pass(writers).map(|_| ())),
                // Without its thread the log grows until the store is closed.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            };
            return match moved {
                // It stays under way, so that it is not begun again.
                Err(error @ Unmoved::Unflushed(_)) => Err(error),
                Err(Unmoved::Other(error)) => {
                    self.is_under_way = false;
                    tracing::warn!(%error, "move the log into the file");
                    Ok(())
                }
                Ok(()) => {
                    self.is_under_way = false;
                    Ok(())
                }
            };
        }
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.begun_at {
            // It has begun anew since.
            self.begun_at = 0;
        }
        if pages >= self.begun_at + self.pages_max
            && self.ask.as_ref().is_some_and(|ask| ask.try_send(()).is_ok())
        {
            self.begun_at = pages;
            self.is_under_way = true;
        }
        Ok(())
    }

    /// Ends the thread, once it has moved what it was asked to.
    pub(super) fn stop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Moves all but a few pages, and has the file flushed, so that the writer's own pass finds little
/// that the disk does not have.
fn move_most(conn: &Connection, file: &File, pages: &AtomicUsize) -> Result<(), Unmoved> {
    for _ in 0..PASSES_MAX {
        let moved = pass(conn)?;
        file.sync_data().map_err(|error| Unmoved::Unflushed(error.to_string()))?;
        if pages.load(Ordering::Relaxed) <= moved + LEFT_MAX {
            break;
        }
    }
    Ok(())
}

/// Moves what nobody reads from the log any more; returns how many of its pages are moved.
fn pass(conn: &Connection) -> Result<usize, Unmoved> {
    // Busy, pages of the log, pages moved: <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>
    let sql = "PRAGMA wal_checkpoint(PASSIVE)";
    let moved: i64 = conn.query_row(sql, [], |row| row.get(2))?;
    Ok(usize::try_from(moved).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: usize = 40;

    struct House {
        dir: tempfile::TempDir,
        conn: Connection,
        checkpointer: Checkpointer,
    }

    impl House {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.db");
            let mut conn = Connection::open(&path).unwrap();
            conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
            conn.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)").unwrap();
            let own = Connection::open(&path).unwrap();
            let file = Arc::new(File::open(&path).unwrap());
            let checkpointer = Checkpointer::start(&mut conn, own, file, PAGES).unwrap();
            Self { dir, conn, checkpointer }
        }

        /// Writes ten pages and a few more.
        fn commit(&mut self) {
            self.conn.execute("INSERT INTO t (x) VALUES (zeroblob(40000))", []).unwrap();
            self.checkpointer.tend(&self.conn).unwrap();
        }

        fn log_pages(&self) -> u64 {
            let log = self.dir.path().join("t.db-wal");
            std::fs::metadata(log).unwrap().len() / 4_096
        }

        /// Commits until the log has begun anew; returns whether it did.
        fn begins_anew(&mut self) -> bool {
            (0..2_000).any(|_| {
                let before = self.checkpointer.pages.load(Ordering::Relaxed);
                self.commit();
                self.checkpointer.pages.load(Ordering::Relaxed) < before
            })
        }
    }

    #[test]
    fn the_log_begins_anew_again_and_again() {
        let mut house = House::new();
        for _ in 0..5 {
            assert!(house.begins_anew());
        }
        house.checkpointer.stop();
        let count: i64 =
            house.conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        let sum: i64 =
            house.conn.query_row("SELECT sum(length(x)) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, count * 40_000);
        let whole: String =
            house.conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
    }

    #[test]
    fn while_somebody_reads_what_was_the_log_grows_and_then_begins_anew() {
        let mut house = House::new();
        assert!(house.begins_anew());
        let reader = Connection::open(house.dir.path().join("t.db")).unwrap();
        house.commit();
        reader.execute_batch("BEGIN").unwrap();
        let count = |conn: &Connection| -> i64 {
            conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        };
        let seen = count(&reader);
        for _ in 0..100 {
            house.commit();
        }
        assert!(house.log_pages() > 1_000, "the reader needs what was");
        assert_eq!(count(&reader), seen);
        reader.execute_batch("COMMIT").unwrap();
        assert!(house.begins_anew());
        assert_eq!(count(&reader), count(&house.conn));
    }
}
