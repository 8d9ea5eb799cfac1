//! Moving SQLite's log into the file, beside the writer.
//!
//! A commit goes to the end of the log, and the log begins anew only when all of it has been moved.
//! A thread of its own moves it while the writer goes on: in passes, each shorter than the one
//! before it, because less has come in meanwhile. What little is left the writer moves between two
//! commits. Otherwise it would stand still for as long as the disk takes for thousands of pages.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// From how many pages of the log on they are moved: 32 MiB.
const PAGES_MAX: usize = 8_192;
/// So few pages are left for the writer.
const LEFT_MAX: usize = 64;
/// The most passes until the writer has to take what is left, however much comes in.
const PASSES_MAX: usize = 8;

/// The writer's end.
pub(super) struct Checkpointer {
    /// How many pages the log has.
    pages: Arc<AtomicUsize>,
    /// How many it had when moving was last begun; another reader may have kept it from beginning
    /// anew.
    begun_at: usize,
    is_under_way: bool,
    /// `None` = it was stopped.
    ask: Option<SyncSender<()>>,
    moved: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread with a connection of its own. `file` is the store's file: it stays open
    /// for as long as there are connections to it, since closing it would free their locks.
    pub(super) fn start(
        writers: &mut Connection,
        own: Connection,
        file: Arc<File>,
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
                if let Err(error) = move_most(&own, &file, &known) {
                    tracing::warn!(%error, "move the log into the file");
                }
                if done.send(()).is_err() {
                    return;
                }
            }
        })?;
        let (begun_at, is_under_way) = (0, false);
        Ok(Self { pages, begun_at, is_under_way, ask: Some(ask), moved, thread: Some(thread) })
    }

    /// Has the log moved when it has grown long, and moves the rest when most is done. To be called
    /// between two commits, on the writer's connection.
    pub(super) fn tend(&mut self, writers: &Connection) {
        if self.is_under_way {
            match self.moved.try_recv() {
                Ok(()) => {
                    self.is_under_way = false;
                    if let Err(error) = pass(writers) {
                        tracing::warn!(%error, "move the rest of the log into the file");
                    }
                }
                // Without its thread the log grows until the store is closed.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
            return;
        }
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.begun_at {
            // It has begun anew since.
            self.begun_at = 0;
        }
        if pages >= self.begun_at + PAGES_MAX
            && self.ask.as_ref().is_some_and(|ask| ask.try_send(()).is_ok())
        {
            self.begun_at = pages;
            self.is_under_way = true;
        }
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
fn move_most(
    conn: &Connection,
    file: &File,
    pages: &AtomicUsize,
) -> Result<(), Box<dyn std::error::Error>> {
    for _ in 0..PASSES_MAX {
        let moved = pass(conn)?;
        file.sync_data()?;
        if pages.load(Ordering::Relaxed) <= moved + LEFT_MAX {
            break;
        }
    }
    Ok(())
}

/// Moves what nobody reads from the log any more; returns how many of its pages are moved.
fn pass(conn: &Connection) -> rusqlite::Result<usize> {
    // Busy, pages of the log, pages moved: <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>
    let sql = "PRAGMA wal_checkpoint(PASSIVE)";
    let moved: i64 = conn.query_row(sql, [], |row| row.get(2))?;
    Ok(usize::try_from(moved).unwrap_or(0))
}
