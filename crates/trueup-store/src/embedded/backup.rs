//! Copies of a directory's store, made while a server may be at work on it.
//!
//! A copy is what SQLite's own backup reads inside of one transaction: everything that was committed
//! when it began, whole, and nothing that came later. It needs none of the server's locks, and the
//! server waits for nothing; its log only grows for as long as the copy takes.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use trueup_core::{Org, Timestamp};

use super::Embedded;
use super::departure::{Departed, MARK_NAME};
use super::files::{self, FILE_NAME, OpenError};
use super::files::{check_header, check_version, io_error, refused, sql_error};
use crate::port::{Store, StoreError, Verification};

/// How many pages are copied at a time, within the one transaction.
const PAGES_AT_ONCE: i32 = 4_096;

/// Why a copy cannot be made or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A directory is refused, or the system refuses.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy is no whole store.
    #[error("the copy cannot be read: {0}")]
    Store(#[from] StoreError),
}

/// What is in a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Each org and what adding up its ledger found.
    pub orgs: Vec<(Org, Verification)>,
    /// How many credentials and signing secrets are in it; sealed, as they were.
    pub sealed: usize,
}

/// Copies the store of a directory into another one, which is empty; returns an instant after which
/// nothing in the copy was decided. Whatever was acknowledged before the call is in it.
///
/// # Errors
/// When there is no store of a known version, everything of it has moved, or a disk refuses.
pub fn copy(
    from: &Path,
    to: &Path,
    now: impl FnOnce() -> Timestamp,
) -> Result<Timestamp, OpenError> {
    Departed::read(from)?;
    let file = from.join(FILE_NAME);
    if !file.try_exists().map_err(io_error("look for", &file))? {
        return Err(refused(&file, "it is not there"));
    }
    check_header(&file)?;
    let source = files::connect(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    check_version(&source, &file)?;
    let sql = |source| sql_error(&file, source);
    // From its first read on the transaction sees one state.
    source.execute_batch("BEGIN").map_err(sql)?;
    source.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).map_err(sql)?;
    let taken_at = now();
    let new = to.join(FILE_NAME);
    copy_pages(&source, &new)?;
    flush(&new)?;
    copy_mark(from, to)?;
    Ok(taken_at)
}

fn copy_pages(source: &Connection, new: &Path) -> Result<(), OpenError> {
    let sql = |source| sql_error(new, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut target = Connection::open_with_flags(new, flags).map_err(sql)?;
    // Half a copy is thrown away, and a whole one is flushed once.
    target.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(sql)?;
    {
        let backup = Backup::new(source, &mut target).map_err(sql)?;
        loop {
            match backup.step(PAGES_AT_ONCE).map_err(sql)? {
                StepResult::Done => break,
                StepResult::More => {}
                other => return Err(refused(new, format!("it cannot be written: {other:?}"))),
            }
        }
    }
    target.close().map_err(|(_, source)| sql(source))
}

/// Copies the mark of orgs that have moved to another store, where there is one: they stay away.
///
/// # Errors
/// When a disk refuses.
pub fn copy_mark(from: &Path, to: &Path) -> Result<(), OpenError> {
    let (mark, copy) = (from.join(MARK_NAME), to.join(MARK_NAME));
    match fs::copy(&mark, &copy) {
        Ok(_) => flush(&copy),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::Io { attempt: "copy", path: mark, source }),
    }
}

fn flush(path: &Path) -> Result<(), OpenError> {
    let flushed = File::open(path).and_then(|file| file.sync_all());
    flushed.map_err(io_error("sync", path))
}

/// Opens a copy as a server would, checks all of it and adds up every ledger in it. Rows that were
/// behind are written; nothing runs out, because its clock stands still.
///
/// # Errors
/// When it is refused as a start would refuse it, or cannot be read or written.
pub async fn examine(dir: &Path) -> Result<Contents, BackupError> {
    let store = Embedded::open(dir, Arc::new(|| Timestamp::EPOCH))?;
    let mut orgs = Vec::new();
    for org in store.orgs().await? {
        let found = store.verify(&org).await?;
        orgs.push((org, found));
    }
    let sealed = store.sealed().await?.len();
    store.close().await?;
    drop(store);
    files::tidy(dir)?;
    Ok(Contents { orgs, sealed })
}
