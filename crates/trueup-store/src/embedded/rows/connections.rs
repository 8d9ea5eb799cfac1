//! Connected accounts of channels.

use rusqlite::{Connection as Sql, named_params};
use trueup_core::{ChannelId, Org};

use super::{Result, all as all_rows, execute, first};
use crate::Connection;
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::encoding::{json, rules};

const COLUMNS: &str = "id, kind, state, sync_inventory, sync_orders, strategy, rules,
  poll_interval_minutes, dry_run, endpoint, settings, sealed_credentials,
  created_at, updated_at, last_sync, last_error_at, last_error, orders_seen_to,
  restock_policy, reason_code, reason_since, blast_radius";

/// Lists every connection of every org, for the workers.
pub(crate) fn all(conn: &Sql) -> Result<Vec<(Org, Connection)>> {
    let sql = format!("SELECT org, {COLUMNS} FROM connection ORDER BY org, id");
    all_rows(conn, &sql, [], |columns| Ok((columns.name()?, records::connection(columns)?)))
}

/// Lists an org's connections by id.
pub(crate) fn list(conn: &Sql, org: &Org) -> Result<Vec<Connection>> {
    let sql = format!("SELECT {COLUMNS} FROM connection WHERE org = ? ORDER BY id");
    all_rows(conn, &sql, [org.as_str()], |columns| records::connection(columns))
}

/// Returns a connection.
pub(crate) fn get(conn: &Sql, org: &Org, id: &ChannelId) -> Result<Option<Connection>> {
    let sql = format!("SELECT {COLUMNS} FROM connection WHERE org = ? AND id = ?");
    first(conn, &sql, [org.as_str(), id.as_str()], |columns| records::connection(columns))
}

/// Makes or replaces a connection.
///
/// Where it may send no longer, or may again, others may take over: then it returns true, and
/// [`super::conflicts::close_orphans`] must follow.
pub(crate) fn put(conn: &Sql, org: &Org, row: &Connection) -> Result<bool> {
    const SENDS: &str = "
        SELECT state, sync_inventory, dry_run
        FROM connection
        WHERE org = ?
          AND id = ?";
    let sent = first(conn, SENDS, [org.as_str(), row.id.as_str()], |columns| {
        Ok((columns.word()?, columns.take()?, columns.take()?))
    })?;
    let changes = sent.is_some_and(|sent| sent != row.sends());
    write(conn, org, row)?;
    if changes {
        super::scopes::settle(conn, org, &row.id)?;
    }
    Ok(changes)
}

fn write(conn: &Sql, org: &Org, row: &Connection) -> Result<()> {
    const SQL: &str = "
        INSERT INTO connection (
          org, id, kind, state, sync_inventory, sync_orders, strategy, rules,
          poll_interval_minutes, dry_run, endpoint, settings, sealed_credentials,
          created_at, updated_at, last_sync, last_error_at, last_error, orders_seen_to,
          restock_policy, reason_code, reason_since, blast_radius
        )
        VALUES (
          :org, :id, :kind, :state, :sync_inventory, :sync_orders, :strategy, :rules,
          :poll_interval_minutes, :dry_run, :endpoint, :settings, :sealed_credentials,
          :created_at, :updated_at, :last_sync, :last_error_at, :last_error, :orders_seen_to,
          :restock_policy, :reason_code, :reason_since, :blast_radius
        )
        ON CONFLICT (org, id) DO UPDATE
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
    let params = named_params! {
        ":org": org.as_str(),
        ":id": row.id.as_str(),
        ":kind": row.kind,
        ":state": row.state.word(),
        ":sync_inventory": row.sync_inventory,
        ":sync_orders": row.sync_orders,
        ":strategy": row.strategy.map(Word::word),
        ":rules": rules::write(&row.rules)?,
        ":poll_interval_minutes": row.poll_interval_minutes,
        ":dry_run": row.dry_run,
        ":endpoint": row.endpoint,
        ":settings": json(&row.settings)?,
        ":sealed_credentials": row.sealed_credentials,
        ":created_at": row.created_at.micros(),
        ":updated_at": row.updated_at.micros(),
        ":last_sync": row.last_sync.map(|at| at.micros()),
        ":last_error_at": row.last_error.as_ref().map(|(at, _)| at.micros()),
        ":last_error": row.last_error.as_ref().map(|(_, words)| words),
        ":orders_seen_to": row.orders_seen_to.map(|at| at.micros()),
        ":restock_policy": row.restock.word(),
        ":reason_code": row.reason.as_ref().map(|reason| &reason.code),
        ":reason_since": row.reason.as_ref().map(|reason| reason.since.micros()),
        ":blast_radius": rules::write_blast_radius(row.blast_radius)?,
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Removes a connection with its listings, its catalogue, its feeds, its inbox, its unmapped
/// lines and its consents; returns whether it was there.
///
/// Order lines stay, lest its orders be booked again when it is connected again. Follow with
/// [`super::conflicts::close_orphans`].
pub(crate) fn delete(conn: &Sql, org: &Org, id: &ChannelId) -> Result<bool> {
    const OF_CHANNEL: [&str; 6] = [
        "DELETE FROM listing WHERE org = ? AND channel = ?",
        "DELETE FROM channel_listing WHERE org = ? AND channel = ?",
        "DELETE FROM feed WHERE org = ? AND channel = ?",
        "DELETE FROM inbox WHERE org = ? AND channel = ?",
        "DELETE FROM unmapped_line WHERE org = ? AND channel = ?",
        "DELETE FROM consent WHERE org = ? AND channel = ?",
    ];
    const CONNECTION: &str = "DELETE FROM connection WHERE org = ? AND id = ?";
    super::scopes::hand_over(conn, org, id, None, |_| true)?;
    for sql in OF_CHANNEL {
        execute(conn, sql, [org.as_str(), id.as_str()])?;
    }
    Ok(execute(conn, CONNECTION, [org.as_str(), id.as_str()])? > 0)
}
