//! Pushes and pulls over a channel.

use rusqlite::types::Value;
use rusqlite::{Connection, named_params, params};
use trueup_core::{Org, Timestamp};

use super::{List, Result, all, execute, first, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::json;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::{Page, Run, RunQuery, Shard};

/// Makes or replaces a run.
pub(crate) fn put(conn: &Connection, org: &Org, run: &Run) -> Result<()> {
    const SQL: &str = "
        INSERT INTO run (
          org, id, operation, channel, status, dry_run, counters, warnings, items, error,
          request, started_at, finished_at
        )
        VALUES (
          :org, :id, :operation, :channel, :status, :dry_run, :counters, :warnings, :items,
          :error, :request, :started_at, :finished_at
        )
        ON CONFLICT (org, id) DO UPDATE
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
    let params = named_params! {
        ":org": org.as_str(),
        ":id": run.id,
        ":operation": run.operation,
        ":channel": run.channel.as_str(),
        ":status": run.status.word(),
        ":dry_run": run.dry_run,
        ":counters": json(&run.counters)?,
        ":warnings": json(&run.warnings)?,
        ":items": json(&run.items)?,
        ":error": run.error,
        ":request": json(&run.request)?,
        ":started_at": run.started_at.micros(),
        ":finished_at": run.finished_at.map(|at| at.micros()),
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Returns a run.
pub(crate) fn get(conn: &Connection, org: &Org, id: &str) -> Result<Option<Run>> {
    const SQL: &str = "
        SELECT id, operation, channel, status, dry_run, counters, warnings, items, error,
          request, started_at, finished_at
        FROM run
        WHERE org = ?
          AND id = ?";
    first(conn, SQL, [org.as_str(), id], |columns| records::run(columns))
}

/// Lists runs without their items and warnings and what was asked for, newest first.
pub(crate) fn query(conn: &Connection, org: &Org, query: &RunQuery) -> Result<Page<Run>> {
    const SQL: &str = "
SELECT id, operation, channel, status, dry_run, counters, '[]', '[]', error, '{}',
  started_at, finished_at
FROM run
WHERE org = ?";
    let mut list = List::of(org, SQL);
    list.by("channel = ?", query.channel.as_ref().map(|id| text(id.as_str())));
    list.by("status = ?", query.status.map(|status| text(status.word())));
    list.by("operation = ?", query.operation.as_deref().map(text));
    if let Some((at, id)) = &query.before {
        let before = [Value::Integer(at.micros()), text(id)];
        list.by_all("(started_at, id) < (?, ?)", before);
    }
    list.page(conn, "started_at DESC, id DESC", query.limit, |columns| records::run(columns))
}

/// Ends the runs of the orgs of shards that were left running; returns how many.
pub(crate) fn abandon(conn: &Connection, shards: &[Shard], now: Timestamp) -> Result<usize> {
    const RUNNING: &str = "
        SELECT DISTINCT org
        FROM run
        WHERE status = 'running'
        ORDER BY org";
    const SQL: &str = "
        UPDATE run
        SET status = 'failed',
          error = 'interrupted by a restart',
          finished_at = ?
        WHERE org = ?
          AND status = 'running'";
    let mut count = 0;
    for org in all(conn, RUNNING, params![], |columns| columns.name::<Org>())? {
        if shards.contains(&Shard::of(&org)) {
            count += execute(conn, SQL, params![now.micros(), org.as_str()])?;
        }
    }
    Ok(count)
}
