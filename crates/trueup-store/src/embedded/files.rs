//! The data directory: made when missing, locked against a second process, and refused when it
//! is not what it should be. Nothing here repairs anything.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::rows::RowsError;
use super::{rows, schema};

/// The file of the store inside the data directory.
pub const FILE_NAME: &str = "trueup.db";
/// How much of the file a connection for reading keeps in memory, in KiB.
const READER_CACHE_KIB: i64 = 2_000;
const LOCK_NAME: &str = "trueup.lock";
const NEW_NAME: &str = "trueup.db.new";
/// "TRUP": what SQLite's header calls the application.
pub(super) const APPLICATION_ID: i32 = 0x5452_5550;

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// A file is there that Trueup did not write, or that is cut off or damaged.
    #[error("{path} is refused: {why}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A later version of Trueup wrote it.
    #[error("{path} has schema version {found}; this program knows versions up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known version.
        known: i64,
    },
    /// What is in it has moved, or is being moved, to another store.
    #[error("{}", departed(.path, .to, *.is_complete))]
    Departed {
        /// The directory.
        path: PathBuf,
        /// Where to, without a password.
        to: String,
        /// Whether all of it is there.
        is_complete: bool,
    },
    /// The operating system refused.
    #[error("{attempt} {path}: {source}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("open {path}: {source}")]
    Sql {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
}

fn departed(path: &Path, to: &str, is_complete: bool) -> String {
    let path = path.display();
    if is_complete {
        return format!("what was in {path} has moved to {to}");
    }
    format!("what is in {path} is being moved to {to}, and not all of it is there yet")
}

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// The store's file, where it is open for other than SQLite. It is closed after all connections
    /// to it: closing it frees their locks (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
    held: OnceLock<Arc<File>>,
    /// Held for as long as the store lives; the system frees it when the process dies.
    _lock: File,
}

impl DataDir {
    /// Makes the directory when it is missing, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(io_error("create", path))?;
        let lock_path = path.join(LOCK_NAME);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_error("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), held: OnceLock::new(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                Err(OpenError::Io { attempt: "lock", path: lock_path, source })
            }
        }
    }

    /// Returns the path of the store's file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(FILE_NAME)
    }

    /// Returns the store's file, to have it flushed.
    pub(super) fn held(&self) -> Result<Arc<File>, OpenError> {
        if let Some(held) = self.held.get() {
            return Ok(held.clone());
        }
        let file = self.file();
        let opened = Arc::new(File::open(&file).map_err(io_error("open", &file))?);
        Ok(self.held.get_or_init(|| opened).clone())
    }

    /// Opens another connection for writing, to a file that is open already.
    pub(super) fn connect(&self) -> Result<Connection, OpenError> {
        connect(&self.file(), OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// Opens the store's file for writing; makes it when it is not there.
    pub(super) fn open(&self) -> Result<Connection, OpenError> {
        let file = self.file();
        if !exists(&file)? {
            self.create()?;
        }
        check_header(&file)?;
        let conn = connect(&file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let version = check_version(&conn, &file)?;
        if version < schema::VERSION {
            // It is to be changed: all of it must be whole.
            check_structure(&conn, &file, "PRAGMA quick_check(1)")?;
        }
        if schema::has_journal(&conn).map_err(|source| sql_error(&file, source))? {
            let why = "an earlier version of Trueup wrote it and was not stopped properly; start \
                       and stop that version once more";
            return Err(refused(&file, why));
        }
        schema::migrate(&conn).map_err(|error| match error {
            RowsError::Sql(source) => sql_error(&file, source),
            RowsError::Corrupt(why) => refused(&file, format!("it is damaged: {why}")),
        })?;
        // A file that other tools have written may have left this mode.
        let mode = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        if mode.map_err(|source| sql_error(&file, source))? != "wal" {
            return Err(refused(&file, "SQLite cannot keep a log beside it"));
        }
        // The log is flushed for every commit, but not while the writer waits: see `durable`.
        let later = conn.pragma_update(None, "synchronous", "NORMAL");
        later.map_err(|source| sql_error(&file, source))?;
        Ok(conn)
    }

    /// Lets SQLite check the structure of every table that a start reads. Those of the past can be
    /// very large; `verify` checks them.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let (conn, file) = (self.open_reader()?, self.file());
        let damaged = |error: rusqlite::Error| refused(&file, format!("it is damaged: {error}"));
        let tables: Vec<String> = conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .and_then(|mut query| query.query_map([], |row| row.get(0))?.collect())
            .map_err(damaged)?;
        for table in tables.iter().filter(|table| !schema::PAST.contains(&table.as_str())) {
            check_structure(&conn, &file, &format!("PRAGMA quick_check('{table}')"))?;
        }
        Ok(())
    }

    /// Opens another connection, for reading only.
    pub(super) fn open_reader(&self) -> Result<Connection, OpenError> {
        let file = self.file();
        let conn = connect(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        // There are many, and the system keeps the file's pages for all of them.
        let small = conn.pragma_update(None, "cache_size", -READER_CACHE_KIB);
        small.map_err(|source| sql_error(&file, source))?;
        Ok(conn)
    }

    /// Makes the file under another name and renames it when it is complete, so that a crash
    /// never leaves half a file behind that looks like a store.
    fn create(&self) -> Result<(), OpenError> {
        let stray = self.path.join(format!("{FILE_NAME}-wal"));
        if exists(&stray)? {
            let why = format!("its {FILE_NAME} is missing");
            return Err(OpenError::Refused { path: stray, why });
        }
        let new = self.path.join(NEW_NAME);
        for leftover in ["", "-wal", "-shm", "-journal"] {
            remove(&self.path.join(format!("{NEW_NAME}{leftover}")))?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let sql = |source| OpenError::Sql { path: new.clone(), source };
        let conn = Connection::open_with_flags(&new, flags).map_err(sql)?;
        schema::create(&conn).map_err(sql)?;
        conn.close().map_err(|(_, source)| sql(source))?;
        let made = File::open(&new).map_err(io_error("open", &new))?;
        made.sync_all().map_err(io_error("sync", &new))?;
        fs::rename(&new, self.file()).map_err(io_error("rename", &new))?;
        let dir = File::open(&self.path).map_err(io_error("open", &self.path))?;
        dir.sync_all().map_err(io_error("sync", &self.path))
    }
}

/// Removes what is left beside the file of a store that was closed: the lock, and an empty log.
pub(super) fn tidy(dir: &Path) -> Result<(), OpenError> {
    let log = dir.join(format!("{FILE_NAME}-wal"));
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        return Err(refused(&log, "it was not moved into the file"));
    }
    for name in [LOCK_NAME, &format!("{FILE_NAME}-wal"), &format!("{FILE_NAME}-shm")] {
        remove(&dir.join(name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn exists(path: &Path) -> Result<bool, OpenError> {
    path.try_exists().map_err(io_error("look for", path))
}

pub(super) fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { attempt, path, source }
}

pub(super) fn refused(path: &Path, why: impl Into<String>) -> OpenError {
    OpenError::Refused { path: path.to_owned(), why: why.into() }
}

/// A file that SQLite finds damaged is refused; anything else is SQLite's own trouble.
pub(super) fn sql_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            refused(path, format!("it is damaged: {source}"))
        }
        Some(_) | None => OpenError::Sql { path: path.to_owned(), source },
    }
}

/// Looks at the first 100 bytes and the length before SQLite may touch the file.
///
/// Offsets: <https://www.sqlite.org/fileformat.html#the_database_header>.
pub(super) fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let length = file.metadata().map_err(io_error("look at", path))?.len();
    let mut header = [0_u8; 100];
    if length == 0 {
        return Err(refused(path, "it is empty"));
    }
    if file.read_exact(&mut header).is_err() {
        return Err(refused(path, "it is cut off within its first 100 bytes"));
    }
    if &header[..16] != b"SQLite format 3\0" {
        return Err(refused(path, "it is not an SQLite file"));
    }
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if i32::from_be_bytes([header[68], header[69], header[70], header[71]]) != APPLICATION_ID {
        return Err(refused(path, "another application wrote it"));
    }
    let wal = path.with_file_name(format!("{FILE_NAME}-wal"));
    let has_wal = wal.metadata().is_ok_and(|meta| meta.len() > 0);
    let page_bytes = match u64::from(word(16) >> 16) {
        1 => 65_536,
        bytes => bytes,
    };
    let expected = u64::from(word(28)) * page_bytes;
    if !has_wal && length < expected {
        let why = format!("it is cut off: {length} bytes of {expected}");
        return Err(refused(path, why));
    }
    Ok(())
}

pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let sql = |source| sql_error(path, source);
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql)?;
    conn.set_prepared_statement_cache_capacity(rows::STATEMENTS_MAX);
    schema::configure(&conn).map_err(sql)?;
    Ok(conn)
}

/// Returns the schema's version, when it is a known one.
pub(super) fn check_version(conn: &Connection, path: &Path) -> Result<i64, OpenError> {
    let found: i64 = conn
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| refused(path, format!("it is damaged: {error}")))?;
    if found > schema::VERSION {
        let path = path.to_owned();
        return Err(OpenError::Newer { path, found, known: schema::VERSION });
    }
    Ok(found)
}

fn check_structure(conn: &Connection, path: &Path, check: &str) -> Result<(), OpenError> {
    let verdict = conn.query_row(check, [], |row| row.get::<_, String>(0));
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(refused(path, format!("it is damaged: {verdict}"))),
        Err(error) => Err(refused(path, format!("it is damaged: {error}"))),
    }
}
