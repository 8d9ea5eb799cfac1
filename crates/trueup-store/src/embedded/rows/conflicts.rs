//! Differences that wait, or waited, for an operator.
//!
//! The ledger opens and closes them ([`flag`], [`close`]); who decided and how is noted beside
//! it ([`note_resolved`]). A conflict is open while it is not closed, whatever is noted.

use rusqlite::types::Value;
use rusqlite::{Connection, named_params, params};
use trueup_core::{ChannelId, ConflictFacts, ListingKey, Org, Timestamp};

use super::{List, Result, count, execute, first, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::{parse_count, stored};
use crate::{Conflict, Page, Resolved};

/// What became of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flagged {
    /// The id of the listing's open conflict.
    pub(crate) id: u64,
    /// Whether it was opened now.
    pub(crate) is_new: bool,
}

/// Which conflicts to list, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConflictQuery<'a> {
    /// Only open ones (true) or closed ones (false).
    pub(crate) open: Option<bool>,
    /// Only of this connection.
    pub(crate) channel: Option<&'a ChannelId>,
    /// Below this id.
    pub(crate) before: Option<u64>,
    /// At most so many.
    pub(crate) limit: usize,
}

/// Opens a listing's conflict, or gives the open one the newest numbers.
pub(crate) fn flag(conn: &Connection, org: &Org, facts: &ConflictFacts) -> Result<Flagged> {
    match update_open(conn, org, facts)? {
        Some(id) => Ok(Flagged { id, is_new: false }),
        None => Ok(Flagged { id: open(conn, org, facts)?, is_new: true }),
    }
}

fn update_open(conn: &Connection, org: &Org, facts: &ConflictFacts) -> Result<Option<u64>> {
    const SQL: &str = "
        UPDATE conflict
        SET sku = :sku,
          master = :master,
          base = :base,
          expected = :expected,
          observed = :observed,
          seen_at = :at
        WHERE org = :org
          AND channel = :channel
          AND listing_key = :key
          AND closed_at IS NULL
        RETURNING id";
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": facts.channel.as_str(),
        ":key": facts.key.as_str(),
        ":sku": facts.sku.as_str(),
        ":master": facts.master,
        ":base": facts.base,
        ":expected": facts.expected,
        ":observed": facts.observed,
        ":at": facts.at.micros(),
    };
    first(conn, SQL, params, |columns| columns.count())
}

fn open(conn: &Connection, org: &Org, facts: &ConflictFacts) -> Result<u64> {
    const SQL: &str = "
        INSERT INTO conflict (
          org, channel, listing_key, sku, master, base, expected, observed, opened_at, seen_at
        )
        VALUES (
          :org, :channel, :key, :sku, :master, :base, :expected, :observed, :at, :at
        )";
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": facts.channel.as_str(),
        ":key": facts.key.as_str(),
        ":sku": facts.sku.as_str(),
        ":master": facts.master,
        ":base": facts.base,
        ":expected": facts.expected,
        ":observed": facts.observed,
        ":at": facts.at.micros(),
    };
    execute(conn, SQL, params)?;
    Ok(parse_count(conn.last_insert_rowid())?)
}

/// Closes a listing's open conflict; returns its id, where there was one.
pub(crate) fn close(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    key: &ListingKey,
    at: Timestamp,
) -> Result<Option<u64>> {
    const SQL: &str = "
        UPDATE conflict
        SET closed_at = ?
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?
          AND closed_at IS NULL
        RETURNING id";
    let params = params![at.micros(), org.as_str(), channel.as_str(), key.as_str()];
    first(conn, SQL, params, |columns| columns.count())
}

/// Closes open conflicts whose listing is gone, sells another SKU or follows another listing by
/// now; returns how many.
///
/// Nobody could resolve them any more: the ledger knows no such listing in conflict.
pub(crate) fn close_orphans(conn: &Connection, org: &Org, at: Timestamp) -> Result<usize> {
    const SQL: &str = "
        UPDATE conflict INDEXED BY conflict_open
        SET closed_at = :at,
          resolved_at = :at,
          resolved_by = 'trueup',
          resolution = 'unmapped'
        WHERE org = :org
          AND closed_at IS NULL
          AND NOT EXISTS (
            SELECT 1
            FROM listing l
            WHERE l.org = conflict.org
              AND l.channel = conflict.channel
              AND l.listing_key = conflict.listing_key
              AND l.sku = conflict.sku
              AND l.follows = 0
          )";
    execute(conn, SQL, named_params! { ":org": org.as_str(), ":at": at.micros() })
}

/// Lists conflicts, newest first.
pub(crate) fn list(
    conn: &Connection,
    org: &Org,
    query: ConflictQuery<'_>,
) -> Result<Page<Conflict>> {
    const SQL: &str = "
SELECT id, channel, listing_key, sku, master, base, expected, observed, opened_at, seen_at,
  closed_at, resolved_by, resolution, note
FROM conflict
WHERE org = ?";
    let mut list = List::of(org, SQL);
    match query.open {
        Some(true) => list.when("closed_at IS NULL"),
        Some(false) => list.when("closed_at IS NOT NULL"),
        None => {}
    }
    list.by("channel = ?", query.channel.map(|id| text(id.as_str())));
    list.by("id < ?", query.before.map(stored).transpose()?.map(Value::Integer));
    list.page(conn, "id DESC", query.limit, |columns| records::conflict(columns))
}

/// Returns a conflict.
pub(crate) fn get(conn: &Connection, org: &Org, id: u64) -> Result<Option<Conflict>> {
    const SQL: &str = "
        SELECT id, channel, listing_key, sku, master, base, expected, observed, opened_at,
          seen_at, closed_at, resolved_by, resolution, note
        FROM conflict
        WHERE org = ?
          AND id = ?";
    first(conn, SQL, params![org.as_str(), stored(id)?], |columns| records::conflict(columns))
}

/// Notes who resolved a conflict and how; closing it is the ledger's ([`close`]).
pub(crate) fn note_resolved(
    conn: &Connection,
    org: &Org,
    id: u64,
    resolved: &Resolved,
) -> Result<()> {
    const SQL: &str = "
        UPDATE conflict
        SET resolved_at = ?,
          resolved_by = ?,
          resolution = ?,
          note = ?
        WHERE org = ?
          AND id = ?";
    let params = params![
        resolved.at.micros(),
        resolved.by,
        resolved.resolution,
        resolved.note,
        org.as_str(),
        stored(id)?,
    ];
    execute(conn, SQL, params)?;
    Ok(())
}

/// Counts a channel's open conflicts.
pub(crate) fn count_open(conn: &Connection, org: &Org, channel: &ChannelId) -> Result<u64> {
    const SQL: &str = "
        SELECT count(*)
        FROM conflict
        WHERE org = ?
          AND channel = ?
          AND closed_at IS NULL";
    count(conn, SQL, [org.as_str(), channel.as_str()])
}
