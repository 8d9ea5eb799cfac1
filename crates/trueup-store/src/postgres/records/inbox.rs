//! Webhooks that were let in and wait to be worked on.

use std::collections::HashSet;

use trueup_core::{Org, Timestamp};

use super::PURGED_AT_ONCE_MAX;
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::{at_most, stored};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Conn, Param, Plain, all, counted, execute};
use crate::{InboxItem, InboxSettled};

/// Keeps webhooks; returns of each whether its delivery id was new.
///
/// Of two who bring the same one at once, one waits for the other at the counter of the org and
/// then finds it known.
pub(in crate::postgres) async fn put_many(
    conn: &Conn,
    org: &Org,
    items: &[InboxItem],
) -> Result<Vec<bool>> {
    const SQL: &str = "
        WITH counted AS (
          INSERT INTO counter (shard, org, name, value)
          VALUES ($1, $2, 'inbox', $3)
          ON CONFLICT (shard, org, name) DO UPDATE
          SET value = counter.value + excluded.value
          RETURNING value
        ),
        kept AS (
          INSERT INTO inbox (
            shard, org, id, channel, delivery_id, topic, body, received_at, state, attempts, next_at
          )
          SELECT $1, $2, counted.value - $3 + given.place, given.channel, given.delivery_id,
            given.topic, given.body, given.received_at, 'waiting', given.attempts,
            given.received_at
          FROM counted
          CROSS JOIN unnest(
            $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::bigint[]
          ) WITH ORDINALITY
            AS given (channel, delivery_id, topic, body, received_at, attempts, place)
          ORDER BY given.place
          ON CONFLICT (shard, org, channel, delivery_id) DO NOTHING
          RETURNING id
        )
        SELECT kept.id - counted.value + $3 - 1
        FROM kept
        CROSS JOIN counted";
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let params: [Param<'_>; 9] = [
        &shard_of(org),
        &org.as_str(),
        &at_most(items.len()),
        &items.iter().map(|item| item.channel.as_str()).collect::<Vec<_>>(),
        &items.iter().map(|item| Plain(&item.delivery_id)).collect::<Vec<_>>(),
        &items.iter().map(|item| Plain(&item.topic)).collect::<Vec<_>>(),
        &items.iter().map(|item| item.body.as_slice()).collect::<Vec<_>>(),
        &items.iter().map(|item| item.received_at.micros()).collect::<Vec<_>>(),
        &items.iter().map(|item| i64::from(item.attempts)).collect::<Vec<_>>(),
    ];
    let new = all(conn, SQL, &params, |columns| columns.small::<usize>()).await?;
    let new: HashSet<usize> = new.into_iter().collect();
    Ok((0..items.len()).map(|place| new.contains(&place)).collect())
}

/// Lists waiting webhooks of every org of shards, oldest first, that are not to be tried
/// later.
pub(in crate::postgres) async fn waiting(
    conn: &Conn,
    shards: &[i16],
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(Org, InboxItem)>> {
    // Of each shard no more than of all, and bodies only of those.
    const SQL: &str = "
        SELECT i.org, i.id, i.channel, i.delivery_id, i.topic, i.body, i.received_at, i.attempts
        FROM (
          SELECT w.shard, w.org, w.id
          FROM unnest($1::smallint[]) AS one (shard)
          CROSS JOIN LATERAL (
            SELECT o.shard, o.org, o.id, o.received_at
            FROM inbox o
            WHERE o.shard = one.shard
              AND o.state = 'waiting'
              AND o.next_at <= $2
              AND NOT EXISTS (
                SELECT 1
                FROM arrival a
                WHERE a.shard = o.shard
                  AND a.org = o.org
                  AND a.opened_at IS NULL
              )
            ORDER BY o.received_at, o.org, o.id
            LIMIT $3
          ) w
          ORDER BY w.received_at, w.org, w.id
          LIMIT $3
        ) oldest
        JOIN inbox i USING (shard, org, id)
        ORDER BY i.received_at, i.org, i.id";
    all(conn, SQL, &[&shards, &now.micros(), &at_most(limit)], |columns| {
        Ok((columns.name()?, records::inbox_item(columns)?))
    })
    .await
}

/// Ends one: done, or to be tried again at an instant, or given up on.
///
/// A done one loses its body, which may name customers and is needed no more; a dead one keeps
/// it for people.
pub(in crate::postgres) async fn settle(
    conn: &Conn,
    org: &Org,
    id: u64,
    settled: &InboxSettled,
) -> Result<()> {
    const DONE: &str = "
        UPDATE inbox
        SET state = 'done',
          attempts = attempts + 1,
          body = '',
          why = NULL
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    const LATER: &str = "
        UPDATE inbox
        SET attempts = attempts + 1,
          next_at = $4,
          why = $5
        WHERE shard = $1
          AND org = $2
          AND id = $3
          AND state = 'waiting'";
    const DEAD: &str = "
        UPDATE inbox
        SET state = 'dead',
          attempts = attempts + 1,
          why = $4
        WHERE shard = $1
          AND org = $2
          AND id = $3
          AND state = 'waiting'";
    let (shard, org, id) = (shard_of(org), org.as_str(), stored(id)?);
    match settled {
        InboxSettled::Done => execute(conn, DONE, &[&shard, &org, &id]).await?,
        InboxSettled::Later { at, why } => {
            execute(conn, LATER, &[&shard, &org, &id, &at.micros(), &Plain(why)]).await?
        }
        InboxSettled::Dead { why } => {
            execute(conn, DEAD, &[&shard, &org, &id, &Plain(why)]).await?
        }
    };
    Ok(())
}

/// Removes done webhooks of every org of a shard that were received before an instant, at most
/// [`PURGED_AT_ONCE_MAX`]; returns how many. Their delivery ids are forgotten with them.
///
/// What another one is removing is passed over.
pub(in crate::postgres) async fn purge_done_before(
    conn: &Conn,
    shard: i16,
    at: Timestamp,
) -> Result<usize> {
    const SQL: &str = "
        WITH old AS MATERIALIZED (
          SELECT shard, org, id
          FROM inbox
          WHERE shard = $1
            AND state = 'done'
            AND received_at < $2
            AND NOT EXISTS (
              SELECT 1
              FROM arrival a
              WHERE a.shard = inbox.shard
                AND a.org = inbox.org
                AND a.opened_at IS NULL
            )
          ORDER BY received_at
          LIMIT $3
          FOR UPDATE SKIP LOCKED
        )
        DELETE FROM inbox
        USING old
        WHERE inbox.shard = old.shard
          AND inbox.org = old.org
          AND inbox.id = old.id";
    let params: [Param<'_>; 3] = [&shard, &at.micros(), &at_most(PURGED_AT_ONCE_MAX)];
    Ok(counted(execute(conn, SQL, &params).await?))
}
