//! Bulk batches that vendors have and whose end is not known yet.

use rusqlite::{Connection, named_params, params};
use serde::{Deserialize, Serialize};
use trueup_core::{ChannelId, Org};

use super::columns::{Columns, parse_name};
use super::{Result, all, execute, first, json};
use crate::{Feed, FeedItem};

/// A [`FeedItem`] as it is kept: SKU, listing, number, version, epoch, earlier number.
#[derive(Serialize, Deserialize)]
struct Item(String, String, i64, u64, u32, Option<i64>);

impl Item {
    fn of(item: &FeedItem) -> Self {
        let (sku, key) = (item.sku.as_str().to_owned(), item.key.as_str().to_owned());
        Self(sku, key, item.quantity, item.version, item.epoch, item.earlier)
    }

    fn read(self) -> Result<FeedItem> {
        let Self(sku, key, quantity, version, epoch, earlier) = self;
        let (sku, key) = (parse_name(&sku)?, parse_name(&key)?);
        Ok(FeedItem { sku, key, quantity, version, epoch, earlier })
    }
}

/// Keeps a feed.
pub(crate) fn put(conn: &Connection, org: &Org, row: &Feed) -> Result<()> {
    const SQL: &str = "
        INSERT INTO feed (org, channel, id, ticket, items, created_at)
        VALUES (:org, :channel, :id, :ticket, :items, :created_at)";
    let items: Vec<Item> = row.items.iter().map(Item::of).collect();
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": row.channel.as_str(),
        ":id": row.id,
        ":ticket": row.ticket,
        ":items": json(&items)?,
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
    all(conn, SQL, [org.as_str(), channel.as_str()], read)
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
    first(conn, SQL, [org.as_str(), channel.as_str(), id], read)
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

fn read(columns: &mut Columns<'_, '_>) -> Result<Feed> {
    Ok(Feed {
        id: columns.take()?,
        channel: columns.name()?,
        ticket: columns.take()?,
        items: columns
            .json::<Vec<Item>>()?
            .into_iter()
            .map(Item::read)
            .collect::<Result<Vec<FeedItem>>>()?,
        created_at: columns.instant()?,
    })
}
