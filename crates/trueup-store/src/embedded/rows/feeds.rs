//! Bulk batches that vendors have and whose end is not known yet.

use rusqlite::{Connection, named_params, params};
use trueup_core::{ChannelId, Org};

use super::{Result, all, execute, first};
use crate::Feed;
use crate::encoding::feeds;
use crate::encoding::records;

/// Keeps a feed.
pub(crate) fn put(conn: &Connection, org: &Org, row: &Feed) -> Result<()> {
    const SQL: &str = "
        INSERT INTO feed (org, channel, id, ticket, items, created_at)
        VALUES (:org, :channel, :id, :ticket, :items, :created_at)";
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": row.channel.as_str(),
        ":id": row.id,
        ":ticket": row.ticket,
        ":items": feeds::write(&row.items)?,
        ":created_at": row.created_at.micros(),
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Lists a connection's feeds, oldest first.
pub(crate) fn list(conn: &Connection, org: &Org, channel: &ChannelId) -> Result<Vec<Feed>> {
    const SQL: &str = "
        SELECT id, channel, ticket, items, created_at
        FROM feed
        WHERE org = ?
          AND channel = ?
        ORDER BY created_at, id";
    all(conn, SQL, [org.as_str(), channel.as_str()], |columns| records::feed(columns))
}

/// Returns a feed.
pub(crate) fn get(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    id: &str,
) -> Result<Option<Feed>> {
    const SQL: &str = "
        SELECT id, channel, ticket, items, created_at
        FROM feed
        WHERE org = ?
          AND channel = ?
          AND id = ?";
    first(conn, SQL, [org.as_str(), channel.as_str(), id], |columns| records::feed(columns))
}

/// Forgets a feed.
pub(crate) fn delete(conn: &Connection, org: &Org, channel: &ChannelId, id: &str) -> Result<()> {
    const SQL: &str = "
        DELETE FROM feed
        WHERE org = ?
          AND channel = ?
          AND id = ?";
    execute(conn, SQL, params![org.as_str(), channel.as_str(), id])?;
    Ok(())
}
