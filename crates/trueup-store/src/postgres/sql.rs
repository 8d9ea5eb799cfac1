//! Statements and columns: how the functions of this store speak to the database.
//!
//! Statements are prepared once for each connection and found by their text. What is sent
//! without waiting for the answer before it (`futures::try_join!`) travels together.

use std::borrow::Cow;
use std::error::Error;

use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use trueup_core::Org;

use super::error::{PgError, Result};
use super::shard::shard_of;
use crate::encoding::at_most;
use crate::encoding::columns::ReadColumns;
use crate::port::Page;

/// A connection, in a transaction or not.
pub(super) type Conn = deadpool_postgres::ClientWrapper;

/// A value of a statement.
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// A text that others wrote, as a value of a statement.
///
/// PostgreSQL keeps every character but U+0000, which JSON of clients and vendors may hold: in its
/// place stands the replacement character. Names of the core hold no such character.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plain<S>(pub(super) S);

impl<S: AsRef<str>> Plain<S> {
    /// Returns the text as it is kept.
    pub(super) fn kept(&self) -> Cow<'_, str> {
        kept_text(self.0.as_ref())
    }
}

/// Returns a text as it is kept.
pub(crate) fn kept_text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        return Cow::Owned(text.replace('\0', "\u{fffd}"));
    }
    Cow::Borrowed(text)
}

impl<S: AsRef<str> + std::fmt::Debug> ToSql for Plain<S> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.kept().to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// Runs a statement that changes rows; returns how many.
pub(super) async fn execute(conn: &Conn, sql: &str, params: &[Param<'_>]) -> Result<u64> {
    let statement = conn.prepare_cached(sql).await?;
    Ok(conn.execute(&statement, params).await?)
}

/// Reads every row of a query.
pub(super) async fn all<T>(
    conn: &Conn,
    sql: &str,
    params: &[Param<'_>],
    read: impl Fn(&mut Columns<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let statement = conn.prepare_cached(sql).await?;
    let rows = conn.query(&statement, params).await?;
    rows.iter().map(|row| read_row(row, &read)).collect()
}

/// Reads the first row of a query, where there is one.
pub(super) async fn first<T>(
    conn: &Conn,
    sql: &str,
    params: &[Param<'_>],
    read: impl Fn(&mut Columns<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let statement = conn.prepare_cached(sql).await?;
    let rows = conn.query(&statement, params).await?;
    rows.first().map(|row| read_row(row, &read)).transpose()
}

/// Reads the one number that a query counts.
pub(super) async fn count(conn: &Conn, sql: &str, params: &[Param<'_>]) -> Result<u64> {
    Ok(first(conn, sql, params, |columns| columns.count()).await?.unwrap_or(0))
}

fn read_row<T>(row: &Row, read: impl Fn(&mut Columns<'_>) -> Result<T>) -> Result<T> {
    let mut columns = Columns { row, next: 0 };
    let value = read(&mut columns)?;
    debug_assert_eq!(columns.next, row.len(), "columns were left over");
    Ok(value)
}

/// Returns how many rows a statement changed.
pub(super) fn counted(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// Gives an org's counter of a name so many numbers, each once; returns the first of them. Others
/// who ask wait until the transaction has ended.
pub(super) async fn next_numbers(conn: &Conn, org: &Org, name: &str, count: usize) -> Result<i64> {
    const SQL: &str = "
        INSERT INTO counter (shard, org, name, value)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (shard, org, name) DO UPDATE
        SET value = counter.value + excluded.value
        RETURNING value";
    let count = at_most(count);
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &name, &count];
    let newest = first(conn, SQL, &params, |columns| columns.take::<i64>()).await?;
    Ok(newest.unwrap_or(count) - count + 1)
}

/// Lets transactions of an org that take the same name go one after the other: the next one goes
/// on when this one has ended, and sees what it did.
pub(super) async fn one_at_a_time(conn: &Conn, org: &Org, name: &str) -> Result<()> {
    next_numbers(conn, org, name, 0).await.map(|_| ())
}

/// A row and the column that is read next; whole numbers are `BIGINT`.
pub(super) struct Columns<'row> {
    row: &'row Row,
    next: usize,
}

impl<'row> Columns<'row> {
    /// Takes a column as it is.
    pub(super) fn take<T: FromSql<'row>>(&mut self) -> Result<T> {
        let at = self.next;
        self.next += 1;
        Ok(self.row.try_get(at)?)
    }
}

impl ReadColumns for Columns<'_> {
    type Error = PgError;

    fn integer(&mut self) -> Result<Option<i64>> {
        self.take()
    }

    fn flag(&mut self) -> Result<Option<bool>> {
        self.take()
    }

    fn text(&mut self) -> Result<Option<&str>> {
        self.take()
    }

    fn bytes(&mut self) -> Result<Option<&[u8]>> {
        self.take()
    }
}

/// A list of one org that is narrowed by optional clauses.
///
/// Clauses are fixed texts with one `?` for each value, in the order they are added; the list
/// numbers them. (No other `?` may stand in them.)
pub(super) struct List {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl List {
    /// Begins a list; `sql` ends with a clause that names shard and org, as
    /// `WHERE shard = $1 AND org = $2`.
    pub(super) fn of(org: &Org, sql: &str) -> Self {
        let values: Vec<Box<dyn ToSql + Sync + Send>> =
            vec![Box::new(shard_of(org)), Box::new(org.as_str().to_owned())];
        Self { sql: sql.to_owned(), values }
    }

    /// Adds a clause without a value.
    pub(super) fn when(&mut self, clause: &str) {
        self.sql.push_str("\n  AND ");
        self.sql.push_str(clause);
    }

    /// Adds a clause where there is a value for it.
    pub(super) fn by<V: ToSql + Sync + Send + 'static>(&mut self, clause: &str, value: Option<V>) {
        if let Some(value) = value {
            self.by_all(clause, vec![Box::new(value)]);
        }
    }

    /// Adds a clause with its values.
    pub(super) fn by_all(&mut self, clause: &str, values: Vec<Box<dyn ToSql + Sync + Send>>) {
        self.sql.push_str("\n  AND ");
        let mut number = self.values.len();
        for (at, text) in clause.split('?').enumerate() {
            if at > 0 {
                number += 1;
                self.sql.push('$');
                self.sql.push_str(&number.to_string());
            }
            self.sql.push_str(text);
        }
        debug_assert_eq!(number, self.values.len() + values.len(), "one ? for each value");
        self.values.extend(values);
    }

    /// Reads every row, in no order.
    pub(super) async fn all<T>(
        self,
        conn: &Conn,
        read: impl Fn(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let params: Vec<Param<'_>> =
            self.values.iter().map(|value| -> Param<'_> { &**value }).collect();
        all(conn, &self.sql, &params, read).await
    }

    /// Reads the first rows in an order, and whether there are more.
    pub(super) async fn page<T>(
        mut self,
        conn: &Conn,
        order: &str,
        limit: usize,
        read: impl Fn(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Page<T>> {
        self.values.push(Box::new(at_most(limit.saturating_add(1))));
        let tail = format!("\nORDER BY {order}\nLIMIT ${}", self.values.len());
        self.sql.push_str(&tail);
        let mut items = self.all(conn, read).await?;
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, more })
    }
}
