//! Webhooks that were let in and wait to be worked on.

use rusqlite::{Connection, params};
use trueup_core::{Org, Timestamp};

use super::{PURGED_AT_ONCE_MAX, Result, all, execute};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::{at_most, stored};
use crate::{InboxItem, InboxSettled};

/// Keeps a webhook; returns false when its delivery id was there already.
pub(crate) fn put(conn: &Connection, org: &Org, item: &InboxItem) -> Result<bool> {
    const SQL: &str = "
        INSERT INTO inbox (
          org, channel, delivery_id, topic, body, received_at, state, attempts, next_at
        )
        VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?, ?)
        ON CONFLICT (org, channel, delivery_id) DO NOTHING";
    let params = params![
        org.as_str(),
        item.channel.as_str(),
        item.delivery_id,
        item.topic,
        item.body,
        item.received_at.micros(),
        item.attempts,
        item.received_at.micros(),
    ];
    Ok(execute(conn, SQL, params)? > 0)
}

/// Keeps webhooks; returns of each whether its delivery id was new.
pub(crate) fn put_many(conn: &Connection, org: &Org, items: &[InboxItem]) -> Result<Vec<bool>> {
    items.iter().map(|item| put(conn, org, item)).collect()
}

/// Lists waiting webhooks of every org, oldest first, that are not to be tried later.
pub(crate) fn waiting(
    conn: &Connection,
    now: Timestamp,
    but: &str,
    limit: usize,
) -> Result<Vec<(Org, InboxItem)>> {
    const SQL: &str = "
        SELECT org, id, channel, delivery_id, topic, body, received_at, attempts
        FROM inbox
        WHERE state = 'waiting'
          AND next_at <= ?
          AND org NOT IN (SELECT value FROM json_each(?))
        ORDER BY id
        LIMIT ?";
    all(conn, SQL, params![now.micros(), but, at_most(limit)], |columns| {
        Ok((columns.name()?, records::inbox_item(columns)?))
    })
}

/// Ends one: done, or to be tried again at an instant, or given up on.
///
/// A done one loses its body, which may name customers and is needed no more; a dead one keeps
/// it for people.
pub(crate) fn settle(conn: &Connection, org: &Org, id: u64, settled: &InboxSettled) -> Result<()> {
    const DONE: &str = "
        UPDATE inbox
        SET state = 'done',
          attempts = attempts + 1,
          body = x'',
          why = NULL
        WHERE org = ?
          AND id = ?";
    const LATER: &str = "
        UPDATE inbox
        SET attempts = attempts + 1,
          next_at = ?,
          why = ?
        WHERE org = ?
          AND id = ?
          AND state = 'waiting'";
    const DEAD: &str = "
        UPDATE inbox
        SET state = 'dead',
          attempts = attempts + 1,
          why = ?
        WHERE org = ?
          AND id = ?
          AND state = 'waiting'";
    let id = stored(id)?;
    match settled {
        InboxSettled::Done => execute(conn, DONE, params![org.as_str(), id])?,
        InboxSettled::Later { at, why } => {
            execute(conn, LATER, params![at.micros(), why, org.as_str(), id])?
        }
        InboxSettled::Dead { why } => execute(conn, DEAD, params![why, org.as_str(), id])?,
    };
    Ok(())
}

/// Removes done webhooks of every org that were received before an instant, at most
/// [`PURGED_AT_ONCE_MAX`]; returns how many. Their delivery ids are forgotten with them.
pub(crate) fn purge_done_before(conn: &Connection, at: Timestamp) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM inbox
        WHERE id IN (
          SELECT id
          FROM inbox
          WHERE state = 'done'
            AND received_at < ?
          LIMIT ?
        )";
    execute(conn, SQL, params![at.micros(), PURGED_AT_ONCE_MAX])
}
