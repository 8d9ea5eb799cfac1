//! Orgs that arrive from another store: copied in pieces, compared, then opened.
//!
//! An org that is not open yet has a row in `arrival`. Nodes know these rows by looking at them
//! as often as they look for what is due, and refuse whoever asks for such an org. What writes
//! looks in its own transaction, and a move begins when no transaction that has looked before is
//! under way: so nothing is written into an org that arrives, whatever a node knows. Statements
//! over all orgs look at the table themselves.
//!
//! A piece and the key up to which it goes are one transaction, so that whoever goes on begins
//! where it ended, and never copies a row twice.

use std::collections::BTreeSet;

use parking_lot::RwLock;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use trueup_core::{Org, Sku};

use super::address::Address;
use super::error::{PgError, Result};
use super::pool::{MICROS_NOW, Pool, Tx};
use super::shard::{self, shard_of, shard_of_text};
use super::sql::{self, Conn, Param};
use super::{OpenError, ledger, schema};
use crate::encoding::columns::ReadColumns;
use crate::encoding::{Corrupt, at_most, items, json, parse_json};
use crate::migrate::tables::{Column, RESERVATION, ShardOf, TABLES, Table};
use crate::migrate::value::{Kind, Value};
use crate::port::{StoreError, Verification};

/// A row as both sides have it.
pub(crate) type Values = Vec<Value>;

/// The orgs that are not open yet, as a node knows them.
#[derive(Debug, Default)]
pub(super) struct Arriving(RwLock<BTreeSet<Org>>);

impl Arriving {
    /// Refuses an org that is not open yet.
    pub(super) fn refuse(&self, org: &Org) -> std::result::Result<(), StoreError> {
        if self.0.read().contains(org) {
            return Err(StoreError::Arriving(org.clone()));
        }
        Ok(())
    }

    /// Looks again which they are.
    pub(super) async fn look(&self, conn: &Conn) -> Result<()> {
        const SQL: &str = "
            SELECT org
            FROM arrival
            WHERE shard = ANY($1)
              AND opened_at IS NULL";
        let orgs: Vec<Org> =
            sql::all(conn, SQL, &[&shard::all()], |columns| columns.name()).await?;
        *self.0.write() = orgs.into_iter().collect();
        Ok(())
    }
}

/// Refuses, within a transaction that writes, an org that is not open yet; until the transaction
/// has ended no move of the org begins.
pub(super) async fn admitted(conn: &Conn, org: &Org) -> Result<()> {
    if of_shard(conn, shard_of(org)).await?.contains(org) {
        return Err(StoreError::Arriving(org.clone()).into());
    }
    Ok(())
}

/// Returns the orgs of a shard that are not open yet; until the transaction has ended none is
/// added.
pub(super) async fn of_shard(conn: &Conn, shard: i16) -> Result<BTreeSet<Org>> {
    const SQL: &str = "
        SELECT org
        FROM arrival
        WHERE shard = $1
          AND opened_at IS NULL";
    let orgs = sql::all(conn, SQL, &[&shard], |columns| columns.name()).await?;
    Ok(orgs.into_iter().collect())
}

/// How an org stands in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing of it is there.
    Absent,
    /// This move has begun to bring it.
    Begun,
    /// This move has brought it.
    Open,
    /// Another move has begun to bring it.
    OfAnother,
    /// It is there, and no move has brought it: a table that holds something of it.
    Taken(&'static str),
}

/// A database that orgs are brought to.
pub(crate) struct Target {
    pool: Pool,
    shown: String,
}

impl Target {
    /// Takes a database; changes nothing.
    ///
    /// # Errors
    /// When the URL is none.
    pub(crate) fn connect(url: &str) -> std::result::Result<Self, OpenError> {
        let address = Address::parse(url).map_err(OpenError::Address)?;
        let pool = Pool::new(&address).map_err(OpenError::Address)?;
        Ok(Self { pool, shown: address.shown() })
    }

    /// Returns which database it is, without a password.
    pub(crate) fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Makes the tables where there are none.
    ///
    /// # Errors
    /// As of opening a store.
    pub(crate) async fn prepare(&self) -> std::result::Result<(), OpenError> {
        let refused = |error: PgError| OpenError::Database(error.to_string());
        schema::migrate(&self.pool).await.map_err(refused)
    }

    /// Returns whether there are tables that could hold something.
    pub(crate) async fn has_tables(&self) -> std::result::Result<bool, StoreError> {
        const SQL: &str = "SELECT to_regclass('arrival') IS NOT NULL";
        let found = self.pool.read(|client| async move {
            sql::first(&client, SQL, &[], |columns| columns.take()).await
        });
        Ok(found.await?.unwrap_or(false))
    }

    /// Returns how an org stands.
    pub(crate) async fn standing(
        &self,
        org: &Org,
        id: &str,
    ) -> std::result::Result<Standing, StoreError> {
        self.pool.read(|client| async move { standing(&client, org, id).await }).await
    }

    /// Begins to bring an org, unless it stands in another way by now; returns how it did.
    pub(crate) async fn begin(
        &self,
        org: &Org,
        id: &str,
    ) -> std::result::Result<Standing, StoreError> {
        const PART: &str = "
            INSERT INTO migration (shard, org, part, copied)
            SELECT $1, $2, part, 0
            FROM unnest($3::text[]) AS given (part)";
        let parts: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let (shard, parts) = (shard_of(org), &parts);
        self.pool
            .transact(shard, |tx| async move {
                let arrive = format!(
                    "INSERT INTO arrival (shard, org, move, began_at)
                     VALUES ($1, $2, $3, {MICROS_NOW})"
                );
                // Waits for all who have found the org not to be arriving, and sees what they did.
                tx.batch_execute("LOCK TABLE arrival IN ACCESS EXCLUSIVE MODE").await?;
                let found = standing(&tx, org, id).await?;
                if found == Standing::Absent {
                    sql::execute(&tx, &arrive, &[&shard, &org.as_str(), &id]).await?;
                    sql::execute(&tx, PART, &[&shard, &org.as_str(), parts]).await?;
                }
                Ok(found)
            })
            .await
    }

    /// Removes what was copied of an org that is not open, whichever move has begun it.
    pub(crate) async fn forget(&self, org: &Org) -> std::result::Result<(), StoreError> {
        let shard = shard_of(org);
        self.pool
            .transact(shard, |tx| async move {
                const BEGUN: &str = "
                    SELECT 1
                    FROM arrival
                    WHERE shard = $1
                      AND org = $2
                      AND opened_at IS NULL
                    FOR UPDATE";
                let name = org.as_str();
                let params: [Param<'_>; 2] = [&shard, &name];
                let begun = sql::first(&tx, BEGUN, &params, |columns| columns.take::<i32>());
                if begun.await?.is_none() {
                    return Ok(());
                }
                // As long as there is much to remove.
                tx.batch_execute("SET LOCAL statement_timeout = 0").await?;
                let tables = TABLES.iter().map(|table| table.name);
                for table in tables.chain(["reservation_sku", "migration", "arrival"]) {
                    let sql = format!("DELETE FROM {table} WHERE shard = ANY($1) AND org = $2");
                    sql::execute(&tx, &sql, &[&shard::all(), &name]).await?;
                }
                Ok(())
            })
            .await
    }

    /// Returns how far a table has come: the last key, and how many rows.
    pub(crate) async fn progress(
        &self,
        org: &Org,
        table: &Table,
    ) -> std::result::Result<(Option<Values>, u64), StoreError> {
        self.pool.read(|client| async move { progress(&client, org, table, "").await }).await
    }

    /// Copies rows that follow a key in one transaction with the key up to which they go, and
    /// returns that key. Where the table has come further meanwhile, returns how far, and nothing
    /// is copied.
    pub(crate) async fn copy(
        &self,
        org: &Org,
        table: &Table,
        after: Option<&Values>,
        rows: &[Values],
    ) -> std::result::Result<Option<Values>, StoreError> {
        self.pool
            .transact(shard_of(org), |tx| async move {
                // Whoever copied before us and is not known to have ended is waited for.
                let (last, copied) = progress(&tx, org, table, "FOR UPDATE").await?;
                if last.as_ref() != after {
                    return Ok(last);
                }
                copy_rows(&tx, org, table, rows).await?;
                if table.name == RESERVATION {
                    copy_asked(&tx, org, rows).await?;
                }
                let last = rows.last().map(|row| row.iter().take(table.key).cloned().collect());
                note_progress(&tx, org, table, last.as_ref(), copied, rows.len()).await?;
                Ok(last)
            })
            .await
    }

    /// Reads rows that follow a key, in key order.
    pub(crate) async fn rows(
        &self,
        org: &Org,
        table: &Table,
        after: Option<&Values>,
        limit: usize,
    ) -> std::result::Result<Vec<Values>, StoreError> {
        self.pool.read(|client| async move { rows(&client, org, table, after, limit).await }).await
    }

    /// Counts the rows of an org.
    pub(crate) async fn count(
        &self,
        org: &Org,
        table: &Table,
    ) -> std::result::Result<u64, StoreError> {
        let sql = format!("SELECT count(*) FROM {} WHERE shard = ANY($1) AND org = $2", table.name);
        let sql = &sql;
        self.pool
            .snapshot(|tx| async move {
                sql::count(&tx, sql, &[&shards(org, table), &org.as_str()]).await
            })
            .await
    }

    /// Counts reservations that are not found by what they ask for, or by what they do not.
    pub(crate) async fn unasked(&self, org: &Org) -> std::result::Result<u64, StoreError> {
        const SQL: &str = "
            WITH asked AS (
              SELECT DISTINCT item ->> 0 AS sku, r.id
              FROM reservation r, jsonb_array_elements(r.items::jsonb) item
              WHERE r.shard = $1 AND r.org = $2
            ), found AS (
              SELECT sku, id
              FROM reservation_sku
              WHERE shard = $1 AND org = $2
            )
            SELECT count(*)
            FROM asked a
            FULL JOIN found f ON f.sku = a.sku AND f.id = a.id
            WHERE a.id IS NULL OR f.id IS NULL";
        self.pool
            .snapshot(
                |tx| async move { sql::count(&tx, SQL, &[&shard_of(org), &org.as_str()]).await },
            )
            .await
    }

    /// Adds up the ledger of an org that is not open yet.
    pub(crate) async fn verify(&self, org: &Org) -> std::result::Result<Verification, StoreError> {
        self.pool.snapshot(|tx| async move { ledger::verify::verify(&tx, org).await }).await
    }

    /// Opens an org that has arrived.
    pub(crate) async fn admit(&self, org: &Org, id: &str) -> std::result::Result<(), StoreError> {
        let shard = shard_of(org);
        self.pool
            .transact(shard, |tx| async move {
                const DONE: &str = "DELETE FROM migration WHERE shard = $1 AND org = $2";
                let open = format!(
                    "UPDATE arrival
                     SET opened_at = {MICROS_NOW}
                     WHERE shard = $1
                       AND org = $2
                       AND move = $3
                       AND opened_at IS NULL"
                );
                let opened = sql::execute(&tx, &open, &[&shard, &org.as_str(), &id]).await?;
                if opened != 1 {
                    return Err(PgError::Corrupt(format!("{org} is not arriving")));
                }
                sql::execute(&tx, DONE, &[&shard, &org.as_str()]).await?;
                Ok(())
            })
            .await
    }

    /// Lets the planner know what the tables hold now.
    pub(crate) async fn analyze(&self) -> std::result::Result<(), StoreError> {
        let tables: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let sql = format!("ANALYZE {}, reservation_sku", tables.join(", "));
        let sql = &sql;
        let analyzed = self.pool.read(|client| async move {
            client.batch_execute("SET statement_timeout = 0").await?;
            client.batch_execute(sql).await?;
            Ok(client.batch_execute("RESET statement_timeout").await?)
        });
        analyzed.await
    }

    /// Lets go of the database.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

async fn standing(conn: &Conn, org: &Org, id: &str) -> Result<Standing> {
    const SQL: &str = "
        SELECT move, opened_at IS NOT NULL
        FROM arrival
        WHERE shard = $1
          AND org = $2";
    let params: [Param<'_>; 2] = [&shard_of(org), &org.as_str()];
    let found = sql::first(conn, SQL, &params, |columns| {
        Ok((columns.take::<String>()?, columns.take::<bool>()?))
    });
    match found.await? {
        Some((of, is_open)) if of == id => {
            return Ok(if is_open { Standing::Open } else { Standing::Begun });
        }
        Some((_, false)) => return Ok(Standing::OfAnother),
        // What another one has brought is as good as any that is there.
        Some((_, true)) | None => {}
    }
    for table in &TABLES {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM {} WHERE shard = ANY($1) AND org = $2)",
            table.name
        );
        let params: [Param<'_>; 2] = [&shards(org, table), &org.as_str()];
        if sql::first(conn, &sql, &params, |columns| columns.take()).await? == Some(true) {
            return Ok(Standing::Taken(table.name));
        }
    }
    Ok(Standing::Absent)
}

/// Returns the shards that rows of an org are in.
fn shards(org: &Org, table: &Table) -> Vec<i16> {
    match table.shard_of {
        ShardOf::Org => vec![shard_of(org)],
        ShardOf::Key => shard::all(),
    }
}

async fn progress(
    conn: &Conn,
    org: &Org,
    table: &Table,
    lock: &str,
) -> Result<(Option<Values>, u64)> {
    let sql = format!(
        "SELECT last_key, copied
         FROM migration
         WHERE shard = $1
           AND org = $2
           AND part = $3
         {lock}"
    );
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &table.name];
    let found = sql::first(conn, &sql, &params, |columns| {
        let last: Option<&str> = columns.take()?;
        Ok((last.map(parse_json).transpose()?, columns.count()?))
    });
    found.await?.ok_or_else(|| PgError::Corrupt(format!("{org} is not arriving")))
}

async fn note_progress(
    conn: &Conn,
    org: &Org,
    table: &Table,
    last: Option<&Values>,
    copied: u64,
    more: usize,
) -> Result<()> {
    const SQL: &str = "
        UPDATE migration
        SET last_key = $4,
          copied = $5::bigint + $6
        WHERE shard = $1
          AND org = $2
          AND part = $3";
    let last = last.map(json).transpose()?;
    let copied = crate::encoding::stored(copied)?;
    let params: [Param<'_>; 6] =
        [&shard_of(org), &org.as_str(), &table.name, &last, &copied, &at_most(more)];
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}

async fn copy_rows(tx: &Tx, org: &Org, table: &Table, rows: &[Values]) -> Result<()> {
    let names: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
    let types: Vec<Type> = table.columns.iter().map(|column| column.kind.column_type()).collect();
    let mut sink = copy_into(tx, table.name, &names, &types).await?;
    let (of_org, name) = (shard_of(org), org.as_str());
    for row in rows {
        let shard = match (table.shard_of, row.first()) {
            (ShardOf::Key, Some(Value::Text(key))) => shard_of_text(key),
            (ShardOf::Org | ShardOf::Key, _) => of_org,
        };
        let head: [&(dyn ToSql + Sync); 2] = [&shard, &name];
        let values = row.iter().map(|value| -> &(dyn ToSql + Sync) { value });
        let all: Vec<&(dyn ToSql + Sync)> = head.into_iter().chain(values).collect();
        sink.as_mut().write(&all).await?;
    }
    sink.as_mut().finish().await.map(|_| ()).map_err(|error| taken(table, error))
}

/// A key that is taken is no race: nobody else copies this table of this org.
fn taken(table: &Table, error: tokio_postgres::Error) -> PgError {
    if error.code() != Some(&SqlState::UNIQUE_VIOLATION) {
        return error.into();
    }
    let said = error.as_db_error().map(|said| said.message().to_owned()).unwrap_or_default();
    Corrupt(format!("the target holds another {} of the same key: {said}", table.name)).into()
}

/// Writes by what reservations are found: the SKUs that they ask for.
async fn copy_asked(tx: &Tx, org: &Org, rows: &[Values]) -> Result<()> {
    let mut asked: BTreeSet<(Sku, &[u8])> = BTreeSet::new();
    for row in rows {
        let (Some(Value::Bytes(id)), Some(Value::Text(of))) = (row.first(), row.get(3)) else {
            return Err(Corrupt("a reservation without an id or items".to_owned()).into());
        };
        asked.extend(items::read(of)?.into_iter().map(|item| (item.sku, id.as_slice())));
    }
    let mut sink =
        copy_into(tx, "reservation_sku", &["sku", "id"], &[Type::TEXT, Type::BYTEA]).await?;
    let (shard, name) = (shard_of(org), org.as_str());
    for (sku, id) in &asked {
        let row: [&(dyn ToSql + Sync); 4] = [&shard, &name, &sku.as_str(), id];
        sink.as_mut().write(&row).await?;
    }
    sink.as_mut().finish().await?;
    Ok(())
}

/// Begins to copy into columns of a table, after its shard and org.
async fn copy_into(
    tx: &Tx,
    table: &str,
    names: &[&str],
    types: &[Type],
) -> Result<std::pin::Pin<Box<BinaryCopyInWriter>>> {
    let sql = format!("COPY {table} (shard, org, {}) FROM STDIN (FORMAT BINARY)", names.join(", "));
    let sink = tx.copy_in(&sql).await?;
    let types: Vec<Type> = [Type::INT2, Type::TEXT].iter().chain(types).cloned().collect();
    Ok(Box::pin(BinaryCopyInWriter::new(sink, &types)))
}

async fn rows(
    conn: &Conn,
    org: &Org,
    table: &Table,
    after: Option<&Values>,
    limit: usize,
) -> Result<Vec<Values>> {
    let list = |columns: &[Column]| {
        columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
    };
    let key = list(table.key_columns());
    let (shards, name, limit) = (shards(org, table), org.as_str(), at_most(limit));
    let mut params: Vec<Param<'_>> = vec![&name, &limit];
    // One shard as a value lets the index give the order.
    let of_shard = match shards.as_slice() {
        [one] => {
            params.push(one);
            "shard = $3"
        }
        _ => {
            params.push(&shards);
            "shard = ANY($3)"
        }
    };
    let beyond = after.map_or_else(String::new, |after| {
        let numbers: Vec<String> = (4..4 + after.len()).map(|n| format!("${n}")).collect();
        params.extend(after.iter().map(|value| -> Param<'_> { value }));
        format!("AND ({key}) > ({})", numbers.join(", "))
    });
    let sql = format!(
        "SELECT {}
         FROM {}
         WHERE {of_shard}
           AND org = $1
           {beyond}
         ORDER BY {key}
         LIMIT $2",
        list(table.columns),
        table.name
    );
    let statement = conn.prepare_cached(&sql).await?;
    let found = conn.query(&statement, &params).await?;
    let kinds: Vec<Kind> = table.columns.iter().map(|column| column.kind).collect();
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let values = kinds.iter().enumerate().map(|(at, kind)| Value::of_target(*kind, row, at));
        rows.push(values.collect::<std::result::Result<_, _>>()?);
    }
    Ok(rows)
}
