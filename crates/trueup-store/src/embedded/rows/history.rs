//! The sync history: what happened between master and channels, for people.

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use trueup_core::{ChannelId, Org, Sku};

use super::{List, Result, execute, text};
use crate::encoding::records;
use crate::encoding::{json, stored};
use crate::{HistoryEntry, HistoryQuery, Page};

/// Adds entries; their ids are given here.
pub(crate) fn add(conn: &Connection, org: &Org, entries: &[HistoryEntry]) -> Result<()> {
    const SQL: &str = "
        INSERT INTO sync_history (org, at, operation, channel, sku, status, run, detail)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    for entry in entries {
        let params = params![
            org.as_str(),
            entry.at.micros(),
            entry.operation,
            entry.channel.as_ref().map(ChannelId::as_str),
            entry.sku.as_ref().map(Sku::as_str),
            entry.status,
            entry.run,
            json(&entry.detail)?,
        ];
        execute(conn, SQL, params)?;
    }
    Ok(())
}

/// Lists entries, newest first.
pub(crate) fn query(
    conn: &Connection,
    org: &Org,
    query: &HistoryQuery,
) -> Result<Page<HistoryEntry>> {
    const SQL: &str = "
SELECT id, at, operation, channel, sku, status, run, detail
FROM sync_history
WHERE org = ?";
    let mut list = List::of(org, SQL);
    list.by("operation = ?", query.operation.as_deref().map(text));
    list.by("channel = ?", query.channel.as_ref().map(|id| text(id.as_str())));
    list.by("sku = ?", query.sku.as_ref().map(|sku| text(sku.as_str())));
    list.by("status = ?", query.status.as_deref().map(text));
    list.by("at >= ?", query.from.map(|at| Value::Integer(at.micros())));
    list.by("at < ?", query.to.map(|at| Value::Integer(at.micros())));
    list.by("id < ?", query.before.map(stored).transpose()?.map(Value::Integer));
    list.page(conn, "id DESC", query.limit, |columns| records::history_entry(columns))
}
