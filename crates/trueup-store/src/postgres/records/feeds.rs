//! Bulk batches that vendors have and whose end is not known yet.

use trueup_core::{ChannelId, Org};

use crate::encoding::feeds;
use crate::encoding::records;
use crate::port::Feed;
use crate::postgres::error::{PgError, Result};
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{self, Conn, Param, Plain};

/// Keeps a feed.
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, row: &Feed) -> Result<()> {
    const SQL: &str = "
        INSERT INTO feed (shard, org, channel, id, ticket, items, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (shard, org, channel, id) DO NOTHING";
    let params: [Param<'_>; 7] = [
        &shard_of(org),
        &org.as_str(),
        &row.channel.as_str(),
        &Plain(&row.id),
        &Plain(&row.ticket),
        &feeds::write(&row.items)?,
        &row.created_at.micros(),
    ];
    if sql::execute(conn, SQL, &params).await? == 0 {
        return Err(PgError::Corrupt(format!("a bulk batch {:?} is there already", row.id)));
    }
    Ok(())
}

/// Lists a connection's feeds, oldest first.
pub(in crate::postgres) async fn list(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
) -> Result<Vec<Feed>> {
    const SQL: &str = "
        SELECT id, channel, ticket, items, created_at
        FROM feed
        WHERE shard = $1
          AND org = $2
          AND channel = $3
        ORDER BY created_at, id";
    sql::all(conn, SQL, &[&shard_of(org), &org.as_str(), &channel.as_str()], |columns| {
        records::feed(columns)
    })
    .await
}

/// Returns a feed.
pub(in crate::postgres) async fn get(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    id: &str,
) -> Result<Option<Feed>> {
    const SQL: &str = "
        SELECT id, channel, ticket, items, created_at
        FROM feed
        WHERE shard = $1
          AND org = $2
          AND channel = $3
          AND id = $4";
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channel.as_str(), &Plain(id)];
    sql::first(conn, SQL, &params, |columns| records::feed(columns)).await
}

/// Forgets a feed.
pub(in crate::postgres) async fn delete(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    id: &str,
) -> Result<()> {
    const SQL: &str = "
        DELETE FROM feed
        WHERE shard = $1
          AND org = $2
          AND channel = $3
          AND id = $4";
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channel.as_str(), &Plain(id)];
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}
