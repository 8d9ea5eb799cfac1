//! The sync history: what happened between master and channels, for people.

use trueup_core::{ChannelId, Org, Sku, Timestamp};

use crate::encoding::records;
use crate::encoding::{json, stored};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Conn, List, Param, Plain, execute, next_numbers};
use crate::{HistoryEntry, HistoryQuery, Page};

/// Adds entries; their ids are given here.
pub(in crate::postgres) async fn add(
    conn: &Conn,
    org: &Org,
    entries: &[HistoryEntry],
) -> Result<()> {
    const SQL: &str = "
        INSERT INTO sync_history (
          shard, org, id, at, operation, channel, sku, status, run, detail
        )
        SELECT $1, $2, $3 + place - 1, at, operation, channel, sku, status, run, detail
        FROM unnest(
          $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[]
        ) WITH ORDINALITY AS entry (at, operation, channel, sku, status, run, detail, place)";
    if entries.is_empty() {
        return Ok(());
    }
    let first = next_numbers(conn, org, "history", entries.len()).await?;
    let details: Vec<String> =
        entries.iter().map(|entry| json(&entry.detail)).collect::<crate::encoding::Result<_>>()?;
    let column = |of: fn(&HistoryEntry) -> Option<&str>| -> Vec<Option<Plain<&str>>> {
        entries.iter().map(|entry| of(entry).map(Plain)).collect()
    };
    let params: [Param<'_>; 10] = [
        &shard_of(org),
        &org.as_str(),
        &first,
        &entries.iter().map(|entry| entry.at.micros()).collect::<Vec<i64>>(),
        &column(|entry| Some(&entry.operation)),
        &column(|entry| entry.channel.as_ref().map(ChannelId::as_str)),
        &column(|entry| entry.sku.as_ref().map(Sku::as_str)),
        &column(|entry| Some(&entry.status)),
        &column(|entry| entry.run.as_deref()),
        &details,
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Lists entries, newest first.
pub(in crate::postgres) async fn query(
    conn: &Conn,
    org: &Org,
    query: &HistoryQuery,
) -> Result<Page<HistoryEntry>> {
    const SQL: &str = "
SELECT id, at, operation, channel, sku, status, run, detail
FROM sync_history
WHERE shard = $1
  AND org = $2";
    let mut list = List::of(org, SQL);
    list.by("operation = ?", query.operation.clone().map(Plain));
    list.by("channel = ?", query.channel.as_ref().map(ChannelId::to_string));
    list.by("sku = ?", query.sku.as_ref().map(Sku::to_string));
    list.by("status = ?", query.status.clone().map(Plain));
    list.by("at >= ?", query.from.map(Timestamp::micros));
    list.by("at < ?", query.to.map(Timestamp::micros));
    list.by("id < ?", query.before.map(stored).transpose()?);
    list.page(conn, "id DESC", query.limit, |columns| records::history_entry(columns)).await
}
