//! The records of the sync engine as SQL rows: connections, listings, catalogues, order lines,
//! runs, history, conflicts, consents, feeds, inbox, deliveries, keys and recorded answers.
//!
//! One file per table or per question over several, plain functions over a `&Connection`. They
//! decide nothing and open no transaction: the caller runs them inside its own, or on a read-only
//! connection. Every statement names the org; the few that look over all orgs, for the workers,
//! say so.
//!
//! Statements are cached by their text. The lists are put together from fixed clauses, which
//! makes some dozens of texts: give the connection a cache of [`STATEMENTS_MAX`].

pub(crate) mod answers;
pub(crate) mod catalogue;
mod columns;
pub(crate) mod conflicts;
pub(crate) mod connections;
pub(crate) mod consents;
pub(crate) mod deliveries;
pub(crate) mod feeds;
pub(crate) mod history;
pub(crate) mod inbox;
pub(crate) mod keys;
pub(crate) mod listings;
pub(crate) mod order_lines;
pub(crate) mod pauses;
pub(crate) mod runs;
pub(crate) mod scopes;
pub(crate) mod sealed;

#[cfg(test)]
mod tests;

use rusqlite::types::Value;
use rusqlite::{Connection, Params, Row};
use trueup_core::Org;

use crate::Page;
use crate::encoding::columns::ReadColumns;
use crate::encoding::{Corrupt, at_most};
use columns::Columns;

/// The tables of this folder with their indexes; may be run again.
pub(crate) const SCHEMA: &str = include_str!("schema.sql");

/// How many statements a connection should keep prepared.
pub(crate) const STATEMENTS_MAX: usize = 256;

/// The most rows that one call of a purge removes, so that no transaction grows long.
pub(crate) const PURGED_AT_ONCE_MAX: u32 = 10_000;

/// Why rows could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowsError {
    /// The database refused.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// A column holds what its type does not allow.
    #[error("the rows make no sense: {0}")]
    Corrupt(String),
}

impl From<Corrupt> for RowsError {
    fn from(Corrupt(why): Corrupt) -> Self {
        Self::Corrupt(why)
    }
}

/// What the functions of this folder return.
pub(crate) type Result<T> = std::result::Result<T, RowsError>;

/// What a digest is of, besides the org and the text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Digested {
    /// An idempotency key.
    Key = 1,
    /// The order of a reservation.
    Order = 2,
    /// A SKU that a reservation asks for.
    Asked = 3,
}

/// Returns the digest of a text: what few other texts have, so that rows which are found by it
/// are to be checked. A part of the file format.
pub(crate) fn digest(what: Digested, org: &Org, text: &str) -> i64 {
    // No org holds a control character.
    let mut hasher = blake3::Hasher::new();
    hasher.update(org.as_str().as_bytes()).update(&[what as u8]).update(text.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(bytes)
}

/// Runs a statement that changes rows; returns how many.
fn execute(conn: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    Ok(conn.prepare_cached(sql)?.execute(params)?)
}

/// Reads every row of a query.
fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&mut Columns<'_, '_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_row(row, &read)?);
    }
    Ok(found)
}

/// Reads the first row of a query, where there is one.
fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&mut Columns<'_, '_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(|row| read_row(row, &read)).transpose()
}

/// Reads the one number that a query counts.
fn count(conn: &Connection, sql: &str, params: impl Params) -> Result<u64> {
    Ok(first(conn, sql, params, |columns| columns.count())?.unwrap_or(0))
}

fn read_row<T>(row: &Row<'_>, read: impl Fn(&mut Columns<'_, '_>) -> Result<T>) -> Result<T> {
    let mut columns = Columns::new(row);
    let value = read(&mut columns)?;
    columns.check();
    Ok(value)
}

/// A list of one org that is narrowed by optional clauses.
///
/// Clauses are fixed texts with one `?` for each value, in the order they are added.
struct List {
    sql: String,
    values: Vec<Value>,
}

impl List {
    /// Begins a list; `sql` ends with the clause that names the org.
    fn of(org: &Org, sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: vec![text(org.as_str())] }
    }

    /// Adds a clause.
    fn when(&mut self, clause: &str) {
        self.sql.push_str("\n  AND ");
        self.sql.push_str(clause);
    }

    /// Adds a clause where there is a value for it.
    fn by(&mut self, clause: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.by_all(clause, [value]);
        }
    }

    /// Adds a clause with its values.
    fn by_all(&mut self, clause: &str, values: impl IntoIterator<Item = Value>) {
        self.when(clause);
        self.values.extend(values);
    }

    /// Reads every row, in no order.
    fn all<T>(
        self,
        conn: &Connection,
        read: impl Fn(&mut Columns<'_, '_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        all(conn, &self.sql, rusqlite::params_from_iter(self.values), read)
    }

    /// Reads the first rows in an order, and whether there are more.
    fn page<T>(
        mut self,
        conn: &Connection,
        order: &str,
        limit: usize,
        read: impl Fn(&mut Columns<'_, '_>) -> Result<T>,
    ) -> Result<Page<T>> {
        self.sql.push_str("\nORDER BY ");
        self.sql.push_str(order);
        self.sql.push_str("\nLIMIT ?");
        self.values.push(Value::Integer(at_most(limit.saturating_add(1))));
        let mut items = self.all(conn, read)?;
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, more })
    }
}

/// Returns a text as a value of a statement.
fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}
