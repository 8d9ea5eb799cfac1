//! Pushes and pulls over a channel.

use tokio_postgres::types::ToSql;
use trueup_core::{ChannelId, Org, Timestamp};

use crate::encoding::json;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Conn, List, Param, Plain, all, counted, execute, first};
use crate::{Page, Run, RunQuery};

/// Makes or replaces a run.
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, run: &Run) -> Result<()> {
    const SQL: &str = "
        INSERT INTO run (
          shard, org, id, operation, channel, status, dry_run, counters, warnings, items, error,
          request, started_at, finished_at
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (shard, org, id) DO UPDATE
        SET operation = excluded.operation,
          channel = excluded.channel,
          status = excluded.status,
          dry_run = excluded.dry_run,
          counters = excluded.counters,
          warnings = excluded.warnings,
          items = excluded.items,
          error = excluded.error,
          request = excluded.request,
          started_at = excluded.started_at,
          finished_at = excluded.finished_at";
    let params: [Param<'_>; 14] = [
        &shard_of(org),
        &org.as_str(),
        &Plain(&run.id),
        &Plain(&run.operation),
        &run.channel.as_str(),
        &run.status.word(),
        &run.dry_run,
        &json(&run.counters)?,
        &json(&run.warnings)?,
        &json(&run.items)?,
        &run.error.as_deref().map(Plain),
        &json(&run.request)?,
        &run.started_at.micros(),
        &run.finished_at.map(Timestamp::micros),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Returns a run.
pub(in crate::postgres) async fn get(conn: &Conn, org: &Org, id: &str) -> Result<Option<Run>> {
    const SQL: &str = "
        SELECT id, operation, channel, status, dry_run, counters, warnings, items, error,
          request, started_at, finished_at
        FROM run
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    first(conn, SQL, &[&shard_of(org), &org.as_str(), &Plain(id)], |columns| records::run(columns))
        .await
}

/// Lists runs without their items and warnings and what was asked for, newest first.
pub(in crate::postgres) async fn query(
    conn: &Conn,
    org: &Org,
    query: &RunQuery,
) -> Result<Page<Run>> {
    const SQL: &str = "
SELECT id, operation, channel, status, dry_run, counters, '[]', '[]', error, '{}',
  started_at, finished_at
FROM run
WHERE shard = $1
  AND org = $2";
    let mut list = List::of(org, SQL);
    list.by("channel = ?", query.channel.as_ref().map(ChannelId::to_string));
    list.by("status = ?", query.status.map(|status| status.word().to_owned()));
    list.by("operation = ?", query.operation.clone().map(Plain));
    if let Some((at, id)) = &query.before {
        let before: [Box<dyn ToSql + Sync + Send>; 2] =
            [Box::new(at.micros()), Box::new(Plain(id.clone()))];
        list.by_all("(started_at, id) < (?, ?)", before.into());
    }
    list.page(conn, "started_at DESC, id DESC", query.limit, |columns| records::run(columns)).await
}

/// Returns which of these shards have runs under way.
pub(in crate::postgres) async fn running(conn: &Conn, shards: &[i16]) -> Result<Vec<i16>> {
    const SQL: &str = "
        SELECT DISTINCT shard
        FROM run
        WHERE shard = ANY($1)
          AND status = 'running'
          AND NOT EXISTS (
            SELECT 1
            FROM arrival a
            WHERE a.shard = run.shard
              AND a.org = run.org
              AND a.opened_at IS NULL
          )
        ORDER BY shard";
    all(conn, SQL, &[&shards], |columns| columns.take()).await
}

/// Ends the runs of every org of a shard that a crash left running; returns how many.
pub(in crate::postgres) async fn abandon(conn: &Conn, shard: i16, now: Timestamp) -> Result<usize> {
    const SQL: &str = "
        UPDATE run
        SET status = 'failed',
          error = 'interrupted by a restart',
          finished_at = $2
        WHERE shard = $1
          AND status = 'running'
          AND NOT EXISTS (
            SELECT 1
            FROM arrival a
            WHERE a.shard = run.shard
              AND a.org = run.org
              AND a.opened_at IS NULL
          )";
    Ok(counted(execute(conn, SQL, &[&shard, &now.micros()]).await?))
}
