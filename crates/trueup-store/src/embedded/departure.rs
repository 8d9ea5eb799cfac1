//! A directory that what is in it moves out of: read without a change, and marked with where it
//! has gone.
//!
//! Rows of SKUs that a crash left behind their ledger lines are added up as a start does, into
//! tables of this connection alone. The mark is a file beside the store: a server refuses what
//! has moved, so that nobody sells it here and there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use trueup_core::{Org, Sku, Timestamp};

use super::files::{DataDir, OpenError, check_header, check_version, io_error, refused};
use super::memory::{Kept, Memory};
use super::rows::{self, RowsError};
use super::{ledger, schema};
use crate::encoding::{json, levels, parse_name, parts};
use crate::migrate::tables::{IN_ORDER, TABLES, Table};
use crate::migrate::value::Value;
use crate::port::{SealedText, StoreError};

/// The file that says what has moved.
pub(crate) const MARK_NAME: &str = "MOVED";
const MARK_NEW: &str = "MOVED.new";
/// The most bytes of rows that are read at once, roughly.
const PIECE_BYTES_MAX: usize = 8 << 20;

/// What has moved out of a directory, as its mark says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Everything, where it moves as a whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) everything: Option<Departure>,
    /// Single orgs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) orgs: BTreeMap<String, Departure>,
}

/// A move out of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departure {
    /// Its name, which the target knows too.
    #[serde(rename = "move")]
    pub(crate) id: String,
    /// Where to, without a password.
    pub(crate) to: String,
    /// Whether all of it is there.
    pub(crate) complete: bool,
}

impl Mark {
    /// Reads the mark of a directory; without one, nothing has moved.
    pub(crate) fn read(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(MARK_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        // Rather nothing is opened than an org that has moved.
        serde_json::from_slice(&text)
            .map_err(|error| refused(&path, format!("it is no mark of a move: {error}")))
    }

    /// Writes the mark, durably and never half.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let (path, new) = (dir.join(MARK_NAME), dir.join(MARK_NEW));
        let written = || {
            let mut file = File::create(&new)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            writeln!(file)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        };
        written().map_err(io_error("write", &path))
    }
}

/// The orgs that have moved out of a directory while others stayed.
#[derive(Debug, Default)]
pub(super) struct Departed {
    orgs: BTreeSet<Org>,
    names: Arc<str>,
}

impl Departed {
    /// Reads which they are.
    ///
    /// # Errors
    /// [`OpenError::Departed`] where everything has moved.
    pub(super) fn read(dir: &Path) -> Result<Self, OpenError> {
        let mark = Mark::read(dir)?;
        if let Some(Departure { to, complete, .. }) = mark.everything {
            return Err(OpenError::Departed { path: dir.to_owned(), to, is_complete: complete });
        }
        let no_mark =
            |error: &dyn std::fmt::Display| refused(&dir.join(MARK_NAME), error.to_string());
        let names: Vec<&String> = mark.orgs.keys().collect();
        let text = json(&names).map_err(|error| no_mark(&error))?;
        let orgs = names.iter().map(|name| parse_name(name));
        let orgs = orgs.collect::<Result<_, _>>().map_err(|error| no_mark(&error))?;
        Ok(Self { orgs, names: Arc::from(text) })
    }

    /// Returns whether an org has moved.
    pub(super) fn has(&self, org: &Org) -> bool {
        self.orgs.contains(org)
    }

    /// Returns their names as a JSON array, for statements over all orgs.
    pub(super) fn names(&self) -> Arc<str> {
        if self.orgs.is_empty() { Arc::from("[]") } else { self.names.clone() }
    }
}

/// A store that is read to be moved. Nobody else has its directory, and nothing of it is changed.
pub(crate) struct Source {
    path: PathBuf,
    _dir: DataDir,
    conn: Arc<Mutex<Connection>>,
}

impl Source {
    /// Opens a directory, and puts in order what has none by its keys.
    ///
    /// # Errors
    /// When there is no store, another process has it, or it is not a whole one of this version.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let file = path.join(super::FILE_NAME);
        if !file.try_exists().map_err(io_error("look for", &file))? {
            return Err(refused(&file, "it is not there"));
        }
        let dir = DataDir::lock(path)?;
        check_header(&file)?;
        let conn = dir.open_reader()?;
        if check_version(&conn, &file)? < schema::VERSION {
            let why = "an earlier version of Trueup wrote it: start and stop this one on it once";
            return Err(refused(&file, why));
        }
        dir.check()?;
        let damaged = |error: RowsError| refused(&file, format!("it is damaged: {error}"));
        let memory = ledger::load_rows(&conn).map_err(damaged)?.memory;
        put_in_order(&conn, &memory).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), _dir: dir, conn: Arc::new(Mutex::new(conn)) })
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many rows of which table each org has, in the order of [`TABLES`].
    pub(crate) async fn counts(&self) -> Result<BTreeMap<Org, Vec<u64>>, StoreError> {
        self.read(|conn| {
            let mut counts: BTreeMap<Org, Vec<u64>> = BTreeMap::new();
            for (at, table) in TABLES.iter().enumerate() {
                let Table { org, counted, .. } = table;
                let sql = format!("SELECT {org}, count(*) FROM {counted} GROUP BY 1");
                let mut query = conn.prepare(&sql)?;
                let mut found = query.query([])?;
                while let Some(row) = found.next()? {
                    let org = ledger::org_of(ledger::text(row, 0)?)?;
                    let of = counts.entry(org).or_insert_with(|| vec![0; TABLES.len()]);
                    of[at] = row.get::<_, i64>(1)?.unsigned_abs();
                }
            }
            Ok(counts)
        })
        .await
    }

    /// Returns everything that is sealed.
    pub(crate) async fn sealed(&self) -> Result<Vec<SealedText>, StoreError> {
        self.read(rows::sealed::all).await
    }

    /// Reads rows that follow a key, in key order: some, where there are some.
    pub(crate) async fn rows(
        &self,
        org: &Org,
        table: &'static Table,
        after: Option<Vec<Value>>,
        limit: usize,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let org = org.clone();
        self.read(move |conn| read_rows(conn, &org, table, after.as_deref(), limit)).await
    }

    /// Runs queries off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, RowsError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let conn = self.conn.clone();
        let work = move || query(&conn.lock());
        let read = tokio::task::spawn_blocking(work).await;
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        read.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}

fn put_in_order(conn: &Connection, memory: &Memory) -> Result<(), RowsError> {
    conn.execute_batch("BEGIN")?;
    conn.execute_batch(IN_ORDER)?;
    let sql = "INSERT INTO sku_now VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let mut insert = conn.prepare(sql)?;
    for (org, of) in memory.orgs() {
        for (sku, Kept { state, .. }) in &of.skus {
            let totals = state.totals();
            let used_in: Vec<&str> = state.used_in.iter().map(Sku::as_str).collect();
            insert.execute(params![
                org.as_str(),
                sku.as_str(),
                state.version.cast_signed(),
                state.publish_version.cast_signed(),
                state.updated_at.micros(),
                state.safety_stock.delta().get(),
                state.low_stock_threshold.map(|threshold| threshold.delta().get()),
                state.backorder_limit.delta().get(),
                state.low_since.map(Timestamp::micros),
                totals.on_hand.get(),
                totals.reserved.delta().get(),
                levels::write(&state.levels)?,
                parts::write(&state.parts)?,
                json(&used_in)?,
            ])?;
        }
    }
    Ok(conn.execute_batch("COMMIT")?)
}

fn read_rows(
    conn: &Connection,
    org: &Org,
    table: &Table,
    after: Option<&[Value]>,
    limit: usize,
) -> Result<Vec<Vec<Value>>, RowsError> {
    let columns: Vec<&str> = table.columns.iter().map(|column| column.source).collect();
    let key: Vec<&str> = table.key_columns().iter().map(|column| column.source).collect();
    let key = key.join(", ");
    let beyond = after.map_or_else(String::new, |after| {
        let places: Vec<String> = (3..3 + after.len()).map(|n| format!("?{n}")).collect();
        format!("AND ({key}) > ({})", places.join(", "))
    });
    let sql = format!(
        "SELECT {} FROM {} WHERE {} = ?1 {beyond} ORDER BY {key} LIMIT ?2",
        columns.join(", "),
        table.from,
        table.org,
    );
    let mut query = conn.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let head = [Value::Text(org.as_str().to_owned()), Value::Int(limit)];
    let values = head.iter().chain(after.unwrap_or_default());
    let mut found = query.query(rusqlite::params_from_iter(values))?;
    let (mut all, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let mut values = Vec::with_capacity(table.columns.len());
        for (at, column) in table.columns.iter().enumerate() {
            let value = Value::of_source(column.kind, row.get_ref(at)?)?;
            bytes += value.bytes();
            values.push(value);
        }
        refuse_changed_key(table, row, &values)?;
        all.push(values);
        if bytes >= PIECE_BYTES_MAX {
            break;
        }
    }
    Ok(all)
}

/// A key that PostgreSQL cannot keep as it is would be another key there.
fn refuse_changed_key(
    table: &Table,
    row: &rusqlite::Row<'_>,
    values: &[Value],
) -> Result<(), RowsError> {
    for (at, kept) in values.iter().take(table.key).enumerate() {
        if let (SqlValue::Text(text), Value::Text(kept)) = (row.get::<_, SqlValue>(at)?, kept)
            && text != *kept
        {
            let name = table.name;
            let why = format!("a key of {name} has the character U+0000, which PostgreSQL refuses");
            return Err(RowsError::Corrupt(why));
        }
    }
    Ok(())
}
