//! Connected accounts of channels.

use trueup_core::{ChannelId, Org};

use super::scopes;
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::encoding::{json, rules};
use crate::port::Connection;
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{self, Conn, Param, Plain};

const COLUMNS: &str = "id, kind, state, sync_inventory, sync_orders, strategy, rules,
  poll_interval_minutes, dry_run, endpoint, settings, sealed_credentials,
  created_at, updated_at, last_sync, last_error_at, last_error, orders_seen_to,
  restock_policy, reason_code, reason_since, blast_radius";

/// Lists every connection of every org of shards, for the workers.
pub(in crate::postgres) async fn all(
    conn: &Conn,
    shards: &[i16],
) -> Result<Vec<(Org, Connection)>> {
    let sql = format!(
        "SELECT org, {COLUMNS}
        FROM connection
        WHERE shard = ANY($1)
          AND NOT EXISTS (
            SELECT 1
            FROM arrival a
            WHERE a.shard = connection.shard
              AND a.org = connection.org
              AND a.opened_at IS NULL
          )
        ORDER BY org, id"
    );
    sql::all(conn, &sql, &[&shards], |columns| Ok((columns.name()?, records::connection(columns)?)))
        .await
}

/// Lists an org's connections by id.
pub(in crate::postgres) async fn list(conn: &Conn, org: &Org) -> Result<Vec<Connection>> {
    let sql = format!(
        "SELECT {COLUMNS}
        FROM connection
        WHERE shard = $1
          AND org = $2
        ORDER BY id"
    );
    sql::all(conn, &sql, &[&shard_of(org), &org.as_str()], |columns| records::connection(columns))
        .await
}

/// Returns a connection.
pub(in crate::postgres) async fn get(
    conn: &Conn,
    org: &Org,
    id: &ChannelId,
) -> Result<Option<Connection>> {
    let sql = format!(
        "SELECT {COLUMNS}
        FROM connection
        WHERE shard = $1
          AND org = $2
          AND id = $3"
    );
    sql::first(conn, &sql, &[&shard_of(org), &org.as_str(), &id.as_str()], |columns| {
        records::connection(columns)
    })
    .await
}

/// Makes or replaces a connection.
///
/// Where it may send no longer, or may again, others may take over: then it returns true, and
/// [`super::conflicts::close_orphans`] must follow.
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, row: &Connection) -> Result<bool> {
    const SENDS: &str = "
        SELECT state, sync_inventory, dry_run
        FROM connection
        WHERE shard = $1
          AND org = $2
          AND id = $3
        FOR UPDATE";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &row.id.as_str()];
    let sent = sql::first(conn, SENDS, &params, |columns| {
        Ok((columns.word()?, columns.take()?, columns.take()?))
    })
    .await?;
    let changes = sent.is_some_and(|sent| sent != row.sends());
    if changes {
        scopes::begin(conn, org).await?;
    }
    write(conn, org, row).await?;
    if changes {
        scopes::settle(conn, org, &row.id).await?;
    }
    Ok(changes)
}

async fn write(conn: &Conn, org: &Org, row: &Connection) -> Result<()> {
    const SQL: &str = "
        INSERT INTO connection (
          shard, org, id, kind, state, sync_inventory, sync_orders, strategy, rules,
          poll_interval_minutes, dry_run, endpoint, settings, sealed_credentials,
          created_at, updated_at, last_sync, last_error_at, last_error, orders_seen_to,
          restock_policy, reason_code, reason_since, blast_radius
        )
        VALUES (
          $1, $2, $3, $4, $5, $6, $7, $8, $9,
          $10, $11, $12, $13, $14,
          $15, $16, $17, $18, $19, $20,
          $21, $22, $23, $24
        )
        ON CONFLICT (shard, org, id) DO UPDATE
        SET kind = excluded.kind,
          state = excluded.state,
          sync_inventory = excluded.sync_inventory,
          sync_orders = excluded.sync_orders,
          strategy = excluded.strategy,
          rules = excluded.rules,
          poll_interval_minutes = excluded.poll_interval_minutes,
          dry_run = excluded.dry_run,
          endpoint = excluded.endpoint,
          settings = excluded.settings,
          sealed_credentials = excluded.sealed_credentials,
          created_at = excluded.created_at,
          updated_at = excluded.updated_at,
          last_sync = excluded.last_sync,
          last_error_at = excluded.last_error_at,
          last_error = excluded.last_error,
          orders_seen_to = excluded.orders_seen_to,
          restock_policy = excluded.restock_policy,
          reason_code = excluded.reason_code,
          reason_since = excluded.reason_since,
          blast_radius = excluded.blast_radius";
    let params: [Param<'_>; 24] = [
        &shard_of(org),
        &org.as_str(),
        &row.id.as_str(),
        &Plain(&row.kind),
        &row.state.word(),
        &row.sync_inventory,
        &row.sync_orders,
        &row.strategy.map(Word::word),
        &rules::write(&row.rules)?,
        &row.poll_interval_minutes.map(i64::from),
        &row.dry_run,
        &row.endpoint.as_deref().map(Plain),
        &json(&row.settings)?,
        &row.sealed_credentials,
        &row.created_at.micros(),
        &row.updated_at.micros(),
        &row.last_sync.map(|at| at.micros()),
        &row.last_error.as_ref().map(|(at, _)| at.micros()),
        &row.last_error.as_ref().map(|(_, words)| Plain(words)),
        &row.orders_seen_to.map(|at| at.micros()),
        &row.restock.word(),
        &row.reason.as_ref().map(|reason| Plain(&reason.code)),
        &row.reason.as_ref().map(|reason| reason.since.micros()),
        &rules::write_blast_radius(row.blast_radius)?,
    ];
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}

/// Removes a connection with its listings, its catalogue, its feeds, its inbox, its unmapped
/// lines and its consents; returns whether it was there.
///
/// Order lines stay, lest its orders be booked again when it is connected again. Follow with
/// [`super::conflicts::close_orphans`].
pub(in crate::postgres) async fn delete(conn: &Conn, org: &Org, id: &ChannelId) -> Result<bool> {
    const OF_CHANNEL: [&str; 6] = [
        "DELETE FROM listing WHERE shard = $1 AND org = $2 AND channel = $3",
        "DELETE FROM channel_listing WHERE shard = $1 AND org = $2 AND channel = $3",
        "DELETE FROM feed WHERE shard = $1 AND org = $2 AND channel = $3",
        "DELETE FROM inbox WHERE shard = $1 AND org = $2 AND channel = $3",
        "DELETE FROM unmapped_line WHERE shard = $1 AND org = $2 AND channel = $3",
        "DELETE FROM consent WHERE shard = $1 AND org = $2 AND channel = $3",
    ];
    const CONNECTION: &str = "DELETE FROM connection WHERE shard = $1 AND org = $2 AND id = $3";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &id.as_str()];
    // Its row first, as `put` takes them.
    let was_there = sql::execute(conn, CONNECTION, &params).await? > 0;
    scopes::begin(conn, org).await?;
    scopes::hand_over(conn, org, id, None, |_| true).await?;
    for sql in OF_CHANNEL {
        sql::execute(conn, sql, &params).await?;
    }
    Ok(was_there)
}
